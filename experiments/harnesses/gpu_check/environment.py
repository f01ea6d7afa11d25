"""Part: the device, its driver and the libraries, and a first product on the device."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess

import psutil
import torch

from core.precision import has_bfloat16
from gpu_check.findings import Finding
from gpu_check.sizes import Place

LIBRARIES = ("torch", "transformers", "ray", "accelerate", "triton")


def describe_device(place: Place) -> Finding:
    """Tell the device, its memory and its driver; fail if a GPU is asked for and none is there."""
    cores, host = psutil.cpu_count(), psutil.virtual_memory().total
    figures = {"processor": processor(), "cores": cores, "host_bytes": host}
    text = f"{figures['processor']}, {cores} cores, {host / 2**30:.0f} GiB"
    if place.rehearsal:
        return Finding(text, figures)
    card = torch.cuda.get_device_properties(0)
    figures |= {
        "card": card.name,
        "cards": torch.cuda.device_count(),
        "card_bytes": card.total_memory,
        "capability": f"{card.major}.{card.minor}",
        "driver": driver(),
        "cuda": torch.version.cuda,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())),
    }
    text = (
        f"{card.name}, {card.total_memory / 2**30:.0f} GiB, driver {figures['driver']}, CUDA "
        f"{figures['cuda']}, nccl {figures['nccl']}; {text}"
    )
    return Finding(text, figures)


def describe_libraries(place: Place) -> Finding:
    """Tell the versions of Python and of the libraries."""
    figures = {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}
    return Finding(", ".join(f"{name} {found}" for name, found in figures.items()), figures)


def multiply(place: Place) -> Finding:
    """Compare a product in float32 and one in bf16 with float64."""
    device, generator = torch.device(place.device), torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 512, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    finding, words = Finding(""), []
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        product = (a.to(device, dtype) @ b.to(device, dtype)).cpu().double()
        error = float((product - exact).norm() / exact.norm())
        name = str(dtype).removeprefix("torch.")
        finding.figures[f"{name}_error"] = error
        words.append(f"{name} error {error:.0e}")
        finding.require(error <= bound, f"{name} products are off by {error:.0e}, not {bound:.0e}")
    finding.figures["has_bfloat16"] = has_bfloat16(device)
    words.append(f"bf16 native: {'yes' if has_bfloat16(device) else 'no'}")
    finding.text = ", ".join(words)
    return finding


def processor() -> str:
    """Return the name of the processor."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.partition(":")[2].strip() for line in file if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def driver() -> str:
    """Return the version of the driver, as nvidia-smi tells it."""
    if shutil.which("nvidia-smi") is None:
        return "unknown"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.split("\n")[0]


def version(name: str) -> str:
    """Return the version of a library."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


CASES = {"device": describe_device, "libraries": describe_libraries, "products": multiply}
