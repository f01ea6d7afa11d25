"""Choice of dtypes: weights as stored, training in bf16 if the hardware has it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from core.config import DType

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def has_bfloat16(device: torch.device) -> bool:
    """Return True if matrix products in bf16 are native on the device.

    A sweep for GPUs may be planned on a laptop or on a cluster's head without one. Every GPU since
    2020 has bf16, so `cuda` then counts as having it.
    """
    if device.type == "cuda":
        if not torch.cuda.is_available():
            return True
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capability = torch.backends.cpu.get_cpu_capability()
    # torch asks the processor itself, so the answer is the same on every system. Every processor
    # with matrix units for bf16 (AMX) has these instructions too.
    return capability == "AVX512" and torch.cpu._is_avx512_bf16_supported()


def inference_dtype(wanted: DType, stored: str, device: torch.device) -> str:
    """Return the dtype in which a model is loaded and run before any training.

    `auto` is the stored dtype, or float32 if the device does not support that type natively.
    """
    if wanted != "auto":
        return wanted
    if stored == "bfloat16" and not has_bfloat16(device):
        return "float32"
    if stored == "float16" and device.type == "cpu":
        return "float32"
    return stored


def training_dtype(wanted: DType, device: torch.device) -> str:
    """Return the dtype of products in training: bf16 if native, else float32, like the weights."""
    if wanted == "auto":
        return "bfloat16" if has_bfloat16(device) else "float32"
    # float16 gradients would need loss scaling. bf16 has the range of float32.
    return "bfloat16" if wanted == "float16" else wanted


def autocast(
    device: torch.device, stored: torch.dtype, compute: torch.dtype
) -> AbstractContextManager[object]:
    """Return autocast to `compute` if weights are stored in another, wider dtype; else nothing."""
    if stored == compute or compute == torch.float32:
        return nullcontext()
    # Its cache would hold a copy of every weight until the context ends.
    return torch.autocast(device.type, compute, cache_enabled=False)
