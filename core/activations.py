"""Hidden states between two blocks, and statistics of the inputs of each matrix within one block.

Matrices that read the same tensor share one statistic. Each rank keeps the states of its share of
the calibration windows. Whoever solves with a statistic sums it over ranks first.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from core.calibration_config import ExpertTokens
from core.expert_statistics import ExpertLayer, expert_layers
from core.expert_windows import Windows
from core.finished_blocks import Resumption
from core.groups import Group
from core.models.blocks import Block, hidden_backbone
from core.models.calls import Calls, run_block
from core.models.experts import Routing, observe_experts
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
    experts: ExpertTokens = ExpertTokens()
    """The tokens on which experts are observed, in a mixture of experts."""

    def batches(self, ranks: Ranks) -> tuple[Tensor, ...]:
        """Return this rank's share of the windows, by micro-batch."""
        assert self.windows is not None and len(self.windows) >= ranks.size
        return ranks.share(self.windows).split(self.micro_batch)


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
        experts: ExpertTokens = ExpertTokens(),  # noqa: B008 - it is frozen
    ) -> None:
        """Compute the inputs of the first block.

        Args:
            model: the causal LM; its weights are in memory or streamed.
            batches: this rank's tokens, [micro_batch, seq_len] each.
            ranks: this process among the others.
            compute_dtype: dtype of forward passes; by default that of the weights.
            experts: the tokens on which experts are observed.
        """
        self.experts = experts
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

    def windows(self, ranks: Ranks) -> Windows:
        """Return the number and length of the windows of all ranks (collective)."""
        shapes = self.calls.shapes
        return Windows(ranks.total(sum(shape[0] for shape in shapes)), shapes[0][1])

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
    if kind is None or activations is None:
        return [Group([matrix], None) for matrix in block.matrices.values()]
    layers = []
    if any(one.piece.expert is not None for one in block.matrices.values()):
        windows = activations.windows(ranks)
        layers = expert_layers(kind, block.matrices.values(), windows, activations.experts)
    watch = Watch(kind, block, layers, ranks.device, stops=not advance)
    with watch.hooked():
        (activations.advance if advance else activations.look)(block, watch.update)
    return watch.groups()


class Watch:
    """The inputs of the matrices of a block, micro-batch after micro-batch."""

    def __init__(
        self,
        kind: type[Statistic],
        block: Block,
        layers: Sequence[ExpertLayer],
        device: torch.device,
        stops: bool,
    ) -> None:
        """Begin with no input.

        Args:
            kind: the statistic to gather.
            block: whole on this rank.
            layers: the layers of experts among its matrices.
            device: where statistics lie.
            stops: end each forward pass with `EverySeen`.
        """
        self.kind, self.layers, self.device, self.stops = kind, layers, device, stops
        routed = {one.name for layer in layers for one in layer.matrices}
        self.matrices = {n: one for n, one in block.matrices.items() if n not in routed}
        self.num_inputs = len(self.matrices) + len(layers)
        self.seen: dict[object, Tensor] = {}
        self.statistics: dict[tuple[str, ...], Statistic] = {}

    @contextlib.contextmanager
    def hooked(self) -> Iterator[None]:
        """Watch all forward passes for this long."""
        hooks = [m.observe(functools.partial(self.see, name)) for name, m in self.matrices.items()]
        hooks += [
            observe_experts(layer.module, functools.partial(self.see_experts, layer))
            for layer in self.layers
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def see(self, name: object, x: Tensor) -> None:
        """Note the input of a matrix, or of a layer of experts."""
        self.seen[name] = x
        if self.stops and len(self.seen) == self.num_inputs:
            raise EverySeen

    def see_experts(self, layer: ExpertLayer, routing: Routing) -> None:
        """Add the inputs of the experts of a layer to their statistics."""
        layer.update(routing)
        self.see(layer, routing.hidden)

    def update(self) -> None:
        """Add the inputs of a micro-batch to the statistics, one for each tensor that was read."""
        assert len(self.seen) == self.num_inputs, (
            f"never called: {sorted(self.matrices.keys() - self.seen.keys())}"
        )
        same: dict[tuple[int, torch.Size, tuple[int, ...]], list[str]] = {}
        for name in self.matrices:
            x = self.seen[name]
            same.setdefault((x.data_ptr(), x.shape, x.stride()), []).append(name)
        for names in same.values():
            x = self.seen[names[0]].flatten(0, -2)
            if tuple(names) not in self.statistics:
                self.statistics[tuple(names)] = self.kind(x.shape[-1], self.device)
            self.statistics[tuple(names)].update(x)
        self.seen.clear()

    def groups(self) -> list[Group]:
        """Return the matrices by input, with their statistics."""
        assert sum(map(len, self.statistics)) == len(self.matrices), (
            "a matrix changed its input between batches"
        )
        found = [
            Group([self.matrices[name] for name in names], statistic)
            for names, statistic in self.statistics.items()
        ]
        return found + [group for layer in self.layers for group in layer.groups()]
