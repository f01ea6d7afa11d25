"""Hidden states between two blocks, and the statistics of every linear's inputs within one.

Linears that read the same tensor share one statistic. Each rank keeps the states of its share of
the calibration windows; statistics are summed over ranks by whoever solves with them.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from core.models.blocks import block_inputs, hidden_backbone, run_block
from core.parallel import Ranks, gathered
from core.precision import autocast
from core.pruners.base import Statistic


@dataclass(frozen=True)
class Group:
    """Linears of one block that read the same input, and the statistic of it."""

    names: list[str]
    statistic: Statistic | None


class EverySeen(Exception):  # noqa: N818
    """Ends a block's forward at its last linear, whose output nobody needs."""


class Activations:
    """This rank's hidden states between two blocks, and what each block is called with."""

    def __init__(
        self,
        model: PreTrainedModel,
        windows: Tensor,
        micro_batch: int,
        compute_dtype: torch.dtype | None,
        ranks: Ranks,
    ):
        stored = next(hidden_backbone(model).parameters()).dtype
        # Entered anew for each forward: while it lasts, autocast keeps its copies of the weights,
        # which pruning changes, and it would round the solvers' products.
        self.autocast = functools.partial(autocast, ranks.device, stored, compute_dtype or stored)
        self.hidden: list[Tensor] = []
        # Windows are never padded, so arguments depend on the batch size alone.
        self.kwargs: dict[int, list[dict[str, Any]]] = {}
        with gathered(model), self.autocast():
            for batch in ranks.share(windows).split(micro_batch):
                hidden, kwargs = block_inputs(model, batch.to(ranks.device))
                self.hidden.append(hidden)
                self.kwargs.setdefault(len(batch), kwargs)

    def run(self, block: nn.Module, index: int, store: bool, after: Callable[[], None]) -> None:
        """Runs a block on every micro-batch; `store` makes its outputs the next inputs."""
        for i, hidden in enumerate(self.hidden):
            if store:
                with self.autocast():
                    self.hidden[i] = run_block(block, hidden, self.kwargs[len(hidden)][index])
            else:
                # Not by FSDP's hooks, which count forwards that began and ended: this one does not.
                with self.autocast(), contextlib.suppress(EverySeen):
                    run_block(block.forward, hidden, self.kwargs[len(hidden)][index])
            after()


def gather_statistics(
    kind: type[Statistic] | None,
    block: nn.Module,
    index: int,
    named: dict[str, nn.Linear],
    activations: Activations | None,
    ranks: Ranks,
    store: bool = False,
) -> list[Group]:
    """One forward over this rank's windows; linears with the same input tensor form a group.

    With `store` its outputs become the next inputs, as they do where nothing is pruned.
    """
    if kind is None or activations is None:
        return [Group([name], None) for name in named]
    seen: dict[str, Tensor] = {}
    groups: dict[tuple[str, ...], Statistic] = {}

    def record(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[name] = inputs[0].detach()
            if not store and len(seen) == len(named):
                raise EverySeen

        return hook

    def update() -> None:
        assert len(seen) == len(named), f"never called: {sorted(named.keys() - seen.keys())}"
        same: dict[tuple[int, torch.Size, tuple[int, ...]], list[str]] = {}
        for name in named:
            x = seen[name]
            same.setdefault((x.data_ptr(), x.shape, x.stride()), []).append(name)
        for names in same.values():
            x = seen[names[0]].flatten(0, -2)
            if tuple(names) not in groups:
                groups[tuple(names)] = kind(x.shape[-1], ranks.device)
            groups[tuple(names)].update(x)
        seen.clear()

    hooks = [linear.register_forward_pre_hook(record(name)) for name, linear in named.items()]
    try:
        activations.run(block, index, store, after=update)
    finally:
        for hook in hooks:
            hook.remove()
    assert sum(map(len, groups)) == len(named), "linears changed their inputs between batches"
    return [Group(list(names), statistic) for names, statistic in groups.items()]
