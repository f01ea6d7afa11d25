"""A pretended GPU: its tensors say that they are on `cuda:0`, and the CPU computes them.

It finds what runs on a CPU and fails on a GPU: tensors of host and device in one operation, and
data that nobody moved. It counts, line by line of the code under test, the operations on the device
(each launches at least one kernel) and the waits of the host for the device.

    gpu, counts = PretendedGpu(), Counts()
    with gpu, gpu.counted(counts):
        prune_(model.to("cuda"), ...)
    print(counts.table())

Behind the word `cuda` stands torch's backend for devices outside torch (PrivateUse1), because torch
can make its guards and hooks in Python. Autograd then finds the streams that it wants of a device.
Importing this file changes the whole process, so it runs in a process of its own. It does not
cover several ranks (FSDP2, nccl), streams, pinned memory or the numbers of CUDA's kernels.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

CUDA = torch.device("cuda:0")
NAME = "pretended"
aten = torch.ops.aten

COPIES = {aten.copy_.default, aten._to_copy.default, aten._copy_from.default}
"""Operations that may take tensors of two devices."""
RENAMINGS = {aten.detach.default, aten.alias.default, aten._unsafe_view.default}
INDEXED = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}
"""Operations whose indices may lie on the host. Boolean ones must be counted: the host waits."""
FUSED = ("_fused_", "_foreach_lerp")
"""Operations whose scalar tensors must be on the device too."""
WAITS = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.is_nonzero.default,
    aten.equal.default,
    # CUDA reads the error codes of these.
    aten._linalg_check_errors.default,
    aten.cholesky_inverse.default,
}


class Backend(backend_registration._DummyBackendModule):
    """The module `torch.pretended`, which torch asks about the backend."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


# At import, because the first backward pass of a process counts the devices once and for all.
backend_registration._setup_privateuseone_for_python_backend(NAME, Backend())


class MixedDevicesError(RuntimeError):
    """Tensors of host and device in one operation, which CUDA refuses."""


@dataclass
class Counts:
    """Operations on the device and waits of the host, by file and line of the caller."""

    launches: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)

    def table(self, most: int = 25) -> str:
        """The lines with most launches and waits."""
        lines = []
        for kind, counter in vars(self).items():
            lines.append(f"{kind}: {counter.total()}")
            lines += [f"  {count:8d}  {line}" for line, count in counter.most_common(most)]
        return "\n".join(lines)


class OnGpu(Tensor):
    """A tensor that says it is on the GPU; `host` holds its values."""

    host: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host: Tensor) -> OnGpu:
        made = Tensor._make_wrapper_subclass(
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=f"{NAME}:0",
        )
        made.host = host
        return made

    device = property(lambda self: CUDA)  # pyright: ignore
    is_cuda = property(lambda self: True)  # pyright: ignore

    def data_ptr(self) -> int:
        return self.host.data_ptr()

    def cuda(self, *args: Any, **kwargs: Any) -> Tensor:
        return self

    def tolist(self) -> list[Any]:
        return self.cpu().tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __repr__(self, **kwargs: Any) -> str:
        return f"OnGpu({self.host})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func}: a tensor of the pretended GPU outlived it")


class PretendedGpu(TorchDispatchMode):
    """Within it, `cuda` is there."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()

    @contextlib.contextmanager
    def counted(self, counts: Counts) -> Iterator[None]:
        """Add what happens within to these counts."""
        before, self.counts = self.counts, counts
        try:
            yield
        finally:
            self.counts = before

    def __enter__(self) -> PretendedGpu:
        self.stack = contextlib.ExitStack()
        for name, value in {
            "_lazy_init": None,
            "is_available": True,
            "is_initialized": True,
            "is_bf16_supported": True,
            "current_device": 0,
            "device_count": 1,
            "synchronize": None,
        }.items():
            patch = mock.patch.object(torch.cuda, name, lambda *_, value=value, **__: value)
            self.stack.enter_context(patch)
        self.stack.enter_context(mock.patch.object(nn.Module, "to", tied_after(nn.Module.to)))
        self.stack.enter_context(mock.patch.object(torch, "autocast", RenamedAutocast))
        super().__enter__()
        self.stack.enter_context(Renamed())
        return self

    def __exit__(self, *exc: Any) -> None:
        self.stack.close()
        super().__exit__(*exc)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        flat, spec = tree_flatten((args, kwargs))
        ours = [x for x in flat if isinstance(x, OnGpu)]
        target = kwargs.get("device")
        gives_ours = bool(ours) if target is None else says_gpu(target)
        refuse_mixed(func, args, flat)
        if ours or gives_ours:
            self.count(func, args, target)
        host = [
            x.host if isinstance(x, OnGpu) else torch.device("cpu") if says_gpu(x) else x
            for x in flat
        ]
        host_args, host_kwargs = tree_unflatten(host, spec)
        result = func(*host_args, **host_kwargs)
        written = written_to(func, args, kwargs)
        if written and func._schema.returns:
            if not isinstance(result, tuple | list):
                return written[0]
            return type(result)(written) if len(written) == len(result) else result
        return tree_map(on_gpu, result) if gives_ours else result

    def count(self, func: Any, args: Any, target: Any) -> None:
        """Count an operation that has to do with the device."""
        line = caller()
        # Views and new memory need no kernel.
        if not func.is_view and "empty" not in func.name() and func not in RENAMINGS:
            self.counts.launches[line] += 1
        to_host = func in COPIES and (
            (target is not None and not says_gpu(target))
            or (func is aten.copy_.default and not isinstance(args[0], OnGpu))
        )
        by_mask = func in INDEXED and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
        )
        if func in WAITS or to_host or by_mask:
            self.counts.waits[line] += 1


def says_gpu(value: Any) -> bool:
    """True for a device that is the pretended GPU."""
    return isinstance(value, torch.device) and value.type in ("cuda", NAME)


def on_gpu(value: Any) -> Any:
    """The value, on the GPU if it is a tensor."""
    return OnGpu(value) if isinstance(value, Tensor) and not isinstance(value, OnGpu) else value


def written_to(func: Any, args: Any, kwargs: dict[str, Any]) -> list[Any]:
    """The arguments that an operation writes to."""
    return [
        args[i] if i < len(args) else kwargs[argument.name]
        for i, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]


def refuse_mixed(func: Any, args: Any, flat: list[Any]) -> None:
    """Raise where CUDA does: scalars, indices and copies alone may come from the host."""
    tensors = [x for x in flat if isinstance(x, Tensor)]
    others = [x for x in tensors if not isinstance(x, OnGpu)]
    if len(others) in (0, len(tensors)) or func in COPIES:
        return
    strict = any(word in func.name() for word in FUSED)
    if not strict and all(x.dim() == 0 for x in others):
        return
    if func in INDEXED and isinstance(args[0], OnGpu):
        return
    raise MixedDevicesError(
        f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 "
        f"and cpu! ({func.name()} at {caller()}; on the host {[tuple(x.shape) for x in others]})"
    )


def caller() -> str:
    """The innermost line of code outside torch, transformers and this file."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if "site-packages" not in name and name != __file__ and not name.startswith("<"):
            return f"{name.rsplit('/', 2)[-2]}/{name.rsplit('/', 1)[-1]}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def says_cuda(value: Any) -> bool:
    """True for a device, or its name, that asks for CUDA."""
    if isinstance(value, str):
        return value == "cuda" or value.startswith("cuda:")
    return isinstance(value, torch.device) and value.type == "cuda"


class Renamed(TorchFunctionMode):
    """Says the backend's own name where code says `cuda`, before torch looks for a driver."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def rename(x: Any) -> Any:
            return torch.device(f"{NAME}:0") if says_cuda(x) else x

        if func is Tensor.cuda:
            func, args = Tensor.to, (args[0], CUDA)
        device = (kwargs or {}).get("device")
        if func is torch.tensor and (says_cuda(device) or says_gpu(device)):
            return OnGpu(torch.tensor(*args, **kwargs | {"device": "cpu"}))
        return func(*map(rename, args), **{k: rename(v) for k, v in (kwargs or {}).items()})


class RenamedAutocast(torch.amp.autocast_mode.autocast):
    """`torch.autocast("cuda")` under the backend's own name."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(NAME if says_cuda(device_type) else device_type, *args, **kwargs)


# Autocast of the backend: of the operations that CUDA runs in the narrow dtype, those of decoders.
NARROWED = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "scaled_dot_product_attention")
AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
LIBRARY = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
OTHERS = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")


def narrowed(name: str) -> Any:
    """An operation of float32 tensors in the dtype of autocast."""

    def kernel(*args: Any, **kwargs: Any) -> Any:
        dtype = torch.get_autocast_dtype(NAME)

        def narrow(x: Any) -> Any:
            return x.to(dtype) if isinstance(x, Tensor) and x.dtype == torch.float32 else x

        with torch._C._ExcludeDispatchKeyGuard(AUTOCAST):
            return getattr(aten, name)(*map(narrow, args), **tree_map(narrow, kwargs))

    return kernel


OTHERS.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
for operation in NARROWED:
    LIBRARY.impl(operation, narrowed(operation))


def tied_after(move: Any) -> Any:
    """`Module.to` that ties weights again: it makes new parameters for tensors of another class."""

    def to(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        moved = move(module, *args, **kwargs)
        if hasattr(moved, "tie_weights"):
            moved.tie_weights()
        return moved

    return to
