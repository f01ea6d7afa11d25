"""Statistics of the inputs of experts: of the tokens that the router sends to each, and of all.

An expert sees few tokens, and a statistic of few tokens misleads. Each is therefore the sum of the
routed tokens and of pseudo-tokens, which have the mean of all tokens of the layer: as many as the
matrix has inputs, by default. So an expert that no token reached is pruned by what all tokens would
give it. For `down_proj` all tokens would have to run through every expert, which costs as many
times the forward pass as there are experts for each chosen one. There the mean is that of tokens at
evenly spaced places of every window, about eight for each input.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from core.calibration_config import ExpertTokens
from core.expert_windows import SAMPLED, Windows
from core.groups import Group
from core.models.blocks import Block
from core.models.experts import Routing
from core.models.facts import DOWN
from core.models.matrices import Matrix
from core.pruners.hessian import Hessian
from core.pruners.pruner import PruningError, Statistic
from core.ranks import Ranks
from core.split.costs import EXPERT_BYTES

HESSIAN_WIDTH = 4


class ExpertLayer:
    """Statistics of the experts of one layer, of this rank's tokens."""

    def __init__(
        self, kind: type[Statistic], matrices: list[Matrix], windows: Windows, tokens: ExpertTokens
    ) -> None:
        """Begin with no token.

        Args:
            kind: the statistic to gather.
            matrices: matrices of some experts of one layer.
            windows: the calibration windows.
            tokens: the tokens to observe.
        """
        self.kind, self.matrices, self.windows, self.tokens = kind, matrices, windows, tokens
        self.module = matrices[0].module
        self.first: dict[int, list[Matrix]] = {}
        """Matrices of each expert that read the input of the layer."""
        self.last: dict[int, Matrix] = {}
        for one in matrices:
            expert = one.piece.expert
            assert expert is not None
            if one.piece.leaf == DOWN:
                self.last[expert] = one
            else:
                self.first.setdefault(expert, []).append(one)
        self.statistics: dict[tuple[int, bool], Statistic] = {}
        """The statistic of each expert and input; the second is True for `down_proj`."""
        self.all_tokens: Statistic | None = None
        """The statistic of the input of the layer."""
        self.routed: dict[int, int] = {}

    def update(self, routing: Routing) -> None:
        """Add the tokens of one forward pass."""
        hidden = routing.hidden
        if self.all_tokens is None:
            self.all_tokens = self.kind(hidden.shape[1], hidden.device)
        self.all_tokens.update(hidden)
        for expert, index in enumerate(routing.tokens):
            self.routed[expert] = self.routed.get(expert, 0) + len(index)
            x = hidden if self.tokens.all_experts else hidden[index]
            if expert in self.first and not self.tokens.all_experts:
                self.statistic(expert, x, False).update(x)
            if expert in self.last:
                x = routing.last_input(expert, x)
                self.statistic(expert, x, True).update(x)
                self.add_sample(routing, expert, x.shape[1])

    def statistic(self, expert: int, x: Tensor, is_last: bool) -> Statistic:
        """Return the statistic of inputs like x of an expert."""
        key = expert, is_last
        if key not in self.statistics:
            self.statistics[key] = self.kind(x.shape[1], x.device)
        return self.statistics[key]

    def add_sample(self, routing: Routing, expert: int, cols: int) -> None:
        """Add this pass's share of the pseudo-tokens of a `down_proj`."""
        pseudo = self.tokens.pseudo_tokens * cols
        if self.tokens.all_experts or not pseudo:
            return
        hidden, spacing = routing.hidden, self.windows.spacing(SAMPLED * cols)
        x = hidden[self.windows.places(len(hidden), spacing, hidden.device)]
        sample = self.kind(cols, hidden.device)
        sample.update(routing.last_input(expert, x))
        share = pseudo / self.windows.num_tokens(spacing)
        self.statistics[expert, True].merge_(sample, share)

    def groups(self) -> list[Group]:
        """Return the matrices by input, with their statistics; call it once."""
        assert self.all_tokens is not None
        found = []
        if self.tokens.all_experts and self.first:
            matrices = [one for each in self.first.values() for one in each]
            found.append(Group(matrices, self.all_tokens))
        for (expert, is_last), statistic in self.statistics.items():
            if is_last:
                routed = {self.path(expert): self.routed[expert]}
                found.append(Group([self.last[expert]], statistic, routed))
                continue
            share = self.tokens.pseudo_tokens * len(self.all_tokens.sums)
            statistic.merge_(self.all_tokens, share / self.windows.num_tokens(1))
            found.append(Group(self.first[expert], statistic))
        return found

    def path(self, expert: int) -> str:
        """Return the path of an expert in the model."""
        return self.last[expert].name.rpartition(".")[0]


def expert_layers(
    kind: type[Statistic], matrices: Iterable[Matrix], windows: Windows, tokens: ExpertTokens
) -> list[ExpertLayer]:
    """Return the layers of experts that some matrices belong to."""
    layers: dict[torch.nn.Module, list[Matrix]] = {}
    for one in matrices:
        if one.piece.expert is not None:
            layers.setdefault(one.module, []).append(one)
    return [ExpertLayer(kind, found, windows, tokens) for found in layers.values()]


def parts_of_block(block: Block, kind: type[Statistic] | None) -> list[Block]:
    """Return parts of a block whose experts' statistics fit `EXPERT_BYTES`, or all of it.

    Each part is observed in forward passes of its own.
    """
    parts: list[dict[str, Matrix]] = [{}]
    size, before = 0, None
    for name, one in block.matrices.items():
        expert = one.piece.expert
        if expert is not None and kind is Hessian:
            added = HESSIAN_WIDTH * one.cols * (one.cols + one.rows)
            if expert != before and size + added > EXPERT_BYTES:
                parts.append({})
                size = 0
            size, before = size + added, expert
        parts[-1][name] = one
    return [replace(block, matrices=part) for part in parts]


def routed_tokens(groups: Iterable[Group], tokens: ExpertTokens, ranks: Ranks) -> dict[str, int]:
    """Return the tokens that the router sent to each expert, on all ranks (collective).

    Raises:
        PruningError: an expert saw no token, and nothing stands for it.
    """
    found = {path: count for group in groups for path, count in (group.routed or {}).items()}
    if not found:
        return {}
    counts = ranks.sum_(torch.tensor([*found.values()], device=ranks.device)).tolist()
    found = dict(zip(found, counts, strict=True))
    unseen = [path for path, count in found.items() if count == 0]
    if unseen and not tokens.all_experts and not tokens.pseudo_tokens:
        raise PruningError(
            f"{unseen[0]}: the router sent it no calibration token ({len(unseen)} experts of this "
            "layer got none); leave out --calibration.pseudo-tokens 0, or use more "
            "--calibration.num-samples or --calibration.all-experts"
        )
    return found
