"""The inputs of experts: tokens that the router sends to each, and inputs of their last matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from core.models.facts import DOWN


@dataclass(frozen=True)
class Routing:
    """Inputs of all experts of a layer in one forward pass."""

    module: nn.Module
    hidden: Tensor
    """Hidden states of all tokens, [tokens, cols]."""
    tokens: tuple[Tensor, ...]
    """Indices of the tokens that the router sends to each expert, in their order."""

    def last_input(self, expert: int, hidden: Tensor) -> Tensor:
        """Return what the `down_proj` of an expert would read of tokens [tokens, cols]."""
        module, has_gate = self.module, self.module.has_gate
        leaf = "gate_up_proj" if has_gate else "up_proj"
        weight = module.get_parameter(leaf)[expert]
        bias = module.get_parameter(f"{leaf}_bias")[expert] if module.has_bias else None
        x = nn.functional.linear(hidden, weight.T if module.is_transposed else weight, bias)
        activate: Any = module._apply_gate if has_gate else module.act_fn
        return activate(x).detach()


def observe_experts(module: nn.Module, callback: Callable[[Routing], None]) -> RemovableHandle:
    """Call `callback` with the inputs of each forward pass of a layer's experts, before it runs.

    No hook sees what `down_proj` reads, since it is no module: `Routing.last_input` computes it.
    """

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # All functions of transformers' `ExpertsInterface` have these arguments.
        given: dict[str, Any] = dict(zip(("hidden_states", "top_k_index"), args)) | kwargs
        tokens = tokens_of_experts(given["top_k_index"], count_of(module))
        callback(Routing(module, given["hidden_states"].detach(), tokens))

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def count_of(module: nn.Module) -> int:
    """Return the number of experts of a layer."""
    return len(module.get_parameter(DOWN))


def tokens_of_experts(index: Tensor, num_experts: int) -> tuple[Tensor, ...]:
    """Return the tokens of each expert, in their order.

    Args:
        index: the experts of each token, [tokens, experts of a token]. Larger numbers stand for no
            expert.
        num_experts: experts of the layer.
    """
    experts, order = index.flatten().sort(stable=True)
    bounds = torch.arange(num_experts + 1, device=experts.device)
    # The host waits for the device once.
    ends = torch.searchsorted(experts, bounds).tolist()
    tokens = order // index.shape[1]
    return tuple(tokens[start:end] for start, end in zip(ends, ends[1:]))
