"""Hidden states between two blocks, and statistics of the inputs of each matrix within one block.

Matrices that read the same tensor share one statistic. Each rank keeps the states of its share of
the calibration windows. Whoever solves with a statistic sums it over ranks first.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from core.finished_blocks import Resumption
from core.models.blocks import Block, hidden_backbone
from core.models.calls import Calls, run_block
from core.models.matrices import Matrix
from core.models.residence import residence_of
from core.precision import autocast
from core.pruners.pruner import Statistic
from core.ranks import Ranks


@dataclass(frozen=True)
class Calibration:
    """Windows on which matrices are observed, and how they run through the blocks."""

    windows: Tensor | None = None
    """Tokens [num_samples, seq_len], the same on every rank; None if nothing is observed."""
    micro_batch: int = 8
    """Windows of one forward pass."""
    compute_dtype: torch.dtype | None = None
    """Dtype of forward passes; by default that of the weights."""
    resumption: Resumption = Resumption()
    """Blocks that need not be pruned again, and a keeper of those that are."""

    def batches(self, ranks: Ranks) -> tuple[Tensor, ...]:
        """Return this rank's share of the windows, by micro-batch."""
        assert self.windows is not None and len(self.windows) >= ranks.size
        return ranks.share(self.windows).split(self.micro_batch)


@dataclass(frozen=True)
class Group:
    """Matrices of one block that read the same input, and the statistic of that input."""

    matrices: list[Matrix]
    statistic: Statistic | None


class EverySeen(Exception):  # noqa: N818
    """Raised once every matrix has seen its input; the rest of the block need not run."""


class Activations:
    """This rank's hidden states between two blocks, and the arguments of each block."""

    def __init__(
        self,
        model: PreTrainedModel,
        batches: Iterable[Tensor],
        ranks: Ranks,
        compute_dtype: torch.dtype | None = None,
    ) -> None:
        """Compute the inputs of the first block.

        Args:
            model: the causal LM; its weights are in memory or streamed.
            batches: this rank's tokens, [micro_batch, seq_len] each.
            ranks: this process among the others.
            compute_dtype: dtype of forward passes; by default that of the weights.
        """
        place = residence_of(model)
        stored = next(hidden_backbone(model).parameters()).dtype
        dtype = compute_dtype or stored
        # Entered anew for each forward. Autocast keeps copies of the weights until it ends, but
        # pruning changes the weights. It would also round the products of the solvers.
        self.autocast = functools.partial(autocast, ranks.device, stored, dtype)
        self.hidden = place.hidden_states()
        with place.opened(model), self.autocast():
            self.calls = Calls(model, ranks.device)
            for batch in batches:
                self.hidden.append(self.calls.add(batch))

    def advance(self, block: Block, after: Callable[[], None] = lambda: None) -> None:
        """Make the block's outputs the next inputs; call `after` after each micro-batch."""
        for i, hidden in enumerate(self.hidden):
            with self.autocast():
                self.hidden[i] = self.calls.run(block.module, block.index, i, hidden)
            after()

    def look(self, block: Block, after: Callable[[], None]) -> None:
        """Run the block until `EverySeen` and drop its outputs; call `after` as `advance` does."""
        for i, hidden in enumerate(self.hidden):
            # Without FSDP's hooks: they count forwards that begin and end, and this one never ends.
            with self.autocast(), contextlib.suppress(EverySeen):
                run_block(block.module.forward, hidden, self.calls.of(i, block.index))
            after()


def gather_statistics(
    kind: type[Statistic] | None,
    block: Block,
    activations: Activations | None,
    ranks: Ranks,
    advance: bool = False,
) -> list[Group]:
    """Return the matrices of a block by the input that they read, observed in one forward pass.

    Args:
        kind: the statistic to gather; with None every matrix is a group of its own.
        block: whole on this rank.
        activations: inputs of the block, this rank's windows.
        ranks: this process among the others.
        advance: also make the outputs the next inputs, for a block that is not pruned afterwards.
    """
    matrices = block.matrices
    if kind is None or activations is None:
        return [Group([matrix], None) for matrix in matrices.values()]
    seen: dict[str, Tensor] = {}
    statistics: dict[tuple[str, ...], Statistic] = {}

    def see(name: str, x: Tensor) -> None:
        seen[name] = x
        if not advance and len(seen) == len(matrices):
            raise EverySeen

    def update() -> None:
        assert len(seen) == len(matrices), f"never called: {sorted(matrices.keys() - seen.keys())}"
        same: dict[tuple[int, torch.Size, tuple[int, ...]], list[str]] = {}
        for name in matrices:
            x = seen[name]
            same.setdefault((x.data_ptr(), x.shape, x.stride()), []).append(name)
        for names in same.values():
            x = seen[names[0]].flatten(0, -2)
            if tuple(names) not in statistics:
                statistics[tuple(names)] = kind(x.shape[-1], ranks.device)
            statistics[tuple(names)].update(x)
        seen.clear()

    hooks = [m.observe(functools.partial(see, name)) for name, m in matrices.items()]
    try:
        (activations.advance if advance else activations.look)(block, update)
    finally:
        for hook in hooks:
            hook.remove()
    assert sum(map(len, statistics)) == len(matrices), "a matrix changed its input between batches"
    return [Group([matrices[n] for n in names], found) for names, found in statistics.items()]
