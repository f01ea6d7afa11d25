"""Versions of code and libraries, and the hardware, as every stage and row records them."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


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
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return released
    command = ["git", "-C", str(here), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"{released}+{done.stdout.strip()}" if done.returncode == 0 else released


@functools.cache
def machine(device: str) -> str:
    """Return the hardware behind the timings: GPU name, else CPU model and cores; no host name."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} cores of {processor()}"


def processor() -> str:
    """Return the CPU's own name of its model."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
