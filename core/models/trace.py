"""One forward pass of a model without memory: the calls of its parts, and the tensors they pass.

Tensors on `meta` have shapes and no values, so a pass takes milliseconds at any size. Two parts
read the same tensor if its storage is the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

TRACED_TOKENS = 2


@dataclass(frozen=True)
class Visit:
    """One call of a module."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any

    @property
    def input(self) -> Tensor | None:
        """The first tensor that the module was given, by position or else by name."""
        values = (*self.args, *self.kwargs.values())
        return next((value for value in values if isinstance(value, Tensor)), None)

    @property
    def outputs(self) -> list[Tensor]:
        """The tensors that the module returned."""
        found = self.output if isinstance(self.output, (tuple, list)) else [self.output]
        return [value for value in found if isinstance(value, Tensor)]


@dataclass
class Trace:
    """The calls of some modules, in the order in which they ended. It keeps all tensors alive."""

    order: list[nn.Module] = field(default_factory=list)
    visits: dict[nn.Module, list[Visit]] = field(default_factory=lambda: defaultdict(list))


class Answers(TorchDispatchMode):
    """Answers for questions about values, which tensors on `meta` do not have.

    A model asks if a mask hides nothing, or if positions belong to one text: the answer is yes. It
    also asks which tokens an expert gets: the first one.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute an operation, or answer for a tensor on `meta`."""
        if args and isinstance(args[0], Tensor) and args[0].is_meta:
            if func is torch.ops.aten._local_scalar_dense.default:
                return torch.ones((), dtype=args[0].dtype).item()
            if func is torch.ops.aten.nonzero.default:
                return torch.empty(1, args[0].dim(), dtype=torch.long, device="meta")
        return func(*args, **(kwargs or {}))


@contextmanager
def followed(modules: list[nn.Module]) -> Iterator[Trace]:
    """Record all calls of some modules for this long."""
    trace = Trace()

    def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        trace.order.append(module)
        trace.visits[module].append(Visit(args, kwargs, output))

    hooks = [module.register_forward_hook(note, with_kwargs=True) for module in modules]
    try:
        yield trace
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def experts_at_once(model: PreTrainedModel) -> Iterator[None]:
    """Run experts by products of all tokens at once for this long: other ways ask for values.

    Models of one config share this choice, so it must end.
    """
    configs = [getattr(module, "config", None) for module in model.modules()]
    before = [(one, one._experts_implementation) for one in configs if one is not None]
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("batched_mm")
    try:
        yield
    finally:
        for config, way in before:
            config._experts_implementation = way


@torch.no_grad()
def trace(model: PreTrainedModel, modules: list[nn.Module]) -> Trace:
    """Return the calls of some modules in a forward pass of a model that is on `meta`."""
    # Some models make positions without a device.
    with followed(modules) as found, experts_at_once(model), torch.device("meta"), Answers():
        ids = torch.zeros((1, TRACED_TOKENS), dtype=torch.long)
        model(input_ids=ids, use_cache=False)
    return found


def storage(tensor: Tensor) -> int:
    """Return a number that is equal for two living tensors that share memory."""
    return tensor.untyped_storage()._cdata
