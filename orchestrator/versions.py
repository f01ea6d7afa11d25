"""Versions of what numbers came from, recorded with every stage and row."""

from __future__ import annotations

import functools
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@functools.cache
def environment() -> dict[str, str]:
    """Versions of this project (with the commit, if it is a checkout), torch and Ray."""
    return {
        "code_version": code_version(),
        "torch_version": version("torch"),
        "transformers_version": version("transformers"),
        "ray_version": version("ray"),
    }


def code_version() -> str:
    """Package version, with the commit of the checkout it runs from."""
    try:
        released = version("prune-sweep")
    except PackageNotFoundError:
        released = "unknown"
    here = Path(__file__).resolve().parents[1]
    if not (here / ".git").exists():
        return released
    command = ["git", "-C", str(here), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"{released}+{done.stdout.strip()}" if done.returncode == 0 else released
