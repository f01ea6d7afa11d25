"""Versions of code and libraries, and the hardware, as every stage and row records them.

They are those of the process that computed the stage.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The directory with the packages of this project."""
PACKAGES = ("core", "orchestrator")
"""Packages that numbers depend on."""


@functools.cache
def environment() -> dict[str, str]:
    """Return the versions of this project (with a checkout's commit) and of its libraries."""
    return {
        "code_version": code_version(),
        "torch_version": version("torch"),
        "transformers_version": version("transformers"),
        "ray_version": version("ray"),
    }


def code_version() -> str:
    """Return the package's version, with the commit of the checkout it runs from."""
    try:
        released = version("prune-sweep")
    except PackageNotFoundError:
        released = "unknown"
    if not (ROOT / ".git").exists():
        return released
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # No git, or no checkout of it.
        return released
    return f"{released}+{done.stdout.strip()}"


@functools.cache
def source_hash() -> str:
    """Return a hash of the Python sources that numbers depend on, as this process found them."""
    return hash_of_sources(ROOT)


def hash_of_sources(root: Path) -> str:
    """Return the SHA-256 of the Python sources of core and orchestrator below a directory.

    Names and contents count. A checkout, a wheel and a submitted copy of equal code are equal:
    line endings do not count, nor do hidden folders and files that are no Python, such as compiled
    files and the assets of the page.
    """
    found: dict[str, bytes] = {}
    for package in PACKAGES:
        for folder, folders, names in os.walk(root / package):
            folders[:] = [name for name in folders if not name.startswith((".", "__pycache__"))]
            for name in names:
                if name.endswith(".py") and not name.startswith("."):
                    path = os.path.join(folder, name)
                    with open(path, "rb") as file:
                        found[os.path.relpath(path, root).replace(os.sep, "/")] = file.read()
    digest = hashlib.sha256()
    for name, data in sorted(found.items()):
        lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        digest.update(f"{name} {len(lines)}\n".encode() + lines)
    return digest.hexdigest()


def tf32() -> bool:
    """Return True if products of float32 may be rounded to TF32; the user's environment decides."""
    import torch

    forced = os.environ.get("NVIDIA_TF32_OVERRIDE")
    if forced in ("0", "1"):
        return forced == "1"
    return torch.get_float32_matmul_precision() != "highest"


@functools.cache
def machine(device: str) -> str:
    """Return the hardware behind the timings: GPU name, else CPU model and cores; no host name."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} cores of {processor()}"


def processor() -> str:
    """Return the CPU's own name of its model."""
    return cpu_facts().get("model name") or platform.processor() or platform.machine()


def processor_generation(device: str) -> str | None:
    """Return family and model of the CPU; None on a GPU and where Linux does not tell them.

    Virtual machines give generations with and without AVX-512 the same name, and their float32
    sums differ.
    """
    family, model = (cpu_facts().get(name) for name in ("cpu family", "model"))
    is_told = device == "cpu" and family is not None and model is not None
    return f"family {family}, model {model}" if is_told else None


@functools.cache
def cpu_facts() -> dict[str, str]:
    """Return what Linux says about the first CPU, by name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in reversed(lines))
    return {name.strip(): value.strip() for name, _, value in pairs}
