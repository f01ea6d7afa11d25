"""ELSA's splitting of weights into trained ones and a sparse copy (arXiv 2510.01650).

For each matrix: x are the trained weights, z is their sparse copy, u a scaled dual, zero at first.

    every step       after clipping, the gradient gets penalty * (x - z + u)
    every interval   u *= penalty before / penalty, if it changed
                     z = the k largest of x + u, else 0;  u += x - z;  penalty = schedule
    at the end       x = the k largest of x, else 0

`k largest` counts whole matrices over all ranks, or groups of N:M. What an earlier mask pruned is
pruned first. Scores are squares, with `second_moment` times Adam's second moment; their roots are
compared, which have the same order. z and u are cut as the weights are. Gradients are averaged over
ranks before the penalty is added, so it does not depend on their number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.joint_config import JointConfig
from core.models.mask_files import Masks, PackedMasks
from core.models.matrices import Matrix
from core.parallel import local
from core.pruners.masks import group_mask, keep_earlier, lowest_pruned, num_pruned, require_room
from core.ranks import Ranks
from core.targets import Target


@dataclass
class Split:
    """One matrix: this rank's parts of its tensors, [rows, cols] of the part."""

    matrix: Matrix
    earlier: Tensor | None
    """Mask that binds; None if nothing is pruned yet."""
    count: int
    """Weights of the whole matrix to prune, where it is unstructured."""
    sparse: Tensor
    """z."""
    dual: Tensor
    """u."""

    @property
    def weight(self) -> Tensor:
        """The trained weights, x; writes to it stay."""
        return self.matrix.part()


class Splitting:
    """The sparse copies and duals of all matrices while a model trains."""

    def __init__(self, config: JointConfig, target: Target, earlier: Masks, ranks: Ranks) -> None:
        """Note what is asked for; `begin` makes the tensors.

        Args:
            config: penalty, its schedule, interval and score.
            target: of every matrix.
            earlier: full masks that bind, or none.
            ranks: the ranks that train together.
        """
        self.config = config.at(target.sparsity)
        self.target, self.earlier, self.ranks = target, earlier, ranks
        self.splits: list[Split] = []
        self.copies: dict[nn.Parameter, tuple[Tensor, Tensor]] = {}
        """z and u of each parameter, of which the splits have the parts of each matrix."""
        self.optimizer: torch.optim.Optimizer | None = None
        self.num_steps, self.interval = 0, 1
        self.penalty = self.config.penalty_at(0.0)
        self.dual_penalty = self.penalty
        """The penalty that the duals are scaled to."""
        self.masks: Masks = PackedMasks()
        """Full masks of the trained model; empty before the end."""
        self.dropped_share = 0.0
        """Share of the squares of all weights that the last projection took away."""

    @torch.no_grad()
    def begin(
        self, matrices: Mapping[str, Matrix], optimizer: torch.optim.Optimizer, num_steps: int
    ) -> None:
        """Start from the weights as they are now: z is the largest of them (collective)."""
        self.optimizer, self.num_steps = optimizer, num_steps
        self.interval = self.config.steps_between(num_steps)
        structure = self.target.structure
        for name, matrix in matrices.items():
            earlier, gone = None, 0
            if name in self.earlier:
                mask = self.earlier[name]
                if structure is not None:
                    require_room(mask, structure)
                earlier, gone = matrix.cut(mask), int((~mask).sum())
            count = max(gone, num_pruned(self.target.sparsity, matrix.numel))
            if matrix.parameter not in self.copies:
                empty = torch.zeros_like(local(matrix.parameter.detach()))
                self.copies[matrix.parameter] = empty, empty.clone()
            sparse, dual = map(matrix.inside, self.copies[matrix.parameter])
            split = Split(matrix, earlier, count, sparse, dual)
            sparse.copy_(split.weight * self.mask_of(split, split.weight.abs()))
            self.splits.append(split)

    @torch.no_grad()
    def pull_(self) -> None:
        """Add the pull towards the sparse copies to the gradients."""
        for parameter, (sparse, dual) in self.copies.items():
            assert parameter.grad is not None
            away = (local(parameter.detach()) - sparse).add_(dual)
            local(parameter.grad).add_(away, alpha=self.penalty)

    @torch.no_grad()
    def follow_(self, steps_done: int) -> None:
        """Project, if it is time (collective)."""
        if steps_done % self.interval:
            return
        for split in self.splits:
            if self.dual_penalty != self.penalty:
                split.dual.mul_(self.dual_penalty / self.penalty)
            goal = split.weight + split.dual
            mask = self.mask_of(split, self.scores(split, goal))
            split.sparse.copy_(goal * mask)
            split.dual.copy_(goal - split.sparse)
        self.dual_penalty = self.penalty
        self.penalty = self.config.penalty_at(steps_done / self.num_steps)

    @torch.no_grad()
    def finish_(self) -> None:
        """Prune the trained weights themselves, not their copies; note their masks (collective)."""
        masks, sums = PackedMasks(), torch.zeros(2, dtype=torch.float64, device=self.ranks.device)
        for split in self.splits:
            weight = split.weight
            mask = self.mask_of(split, self.scores(split, weight))
            squares = weight.double().square()
            sums += torch.stack([(squares * ~mask).sum(), squares.sum()]).to(sums.device)
            weight.masked_fill_(~mask, 0.0)
            masks[split.matrix.name] = split.matrix.gather(mask.byte()).bool()
        dropped, total = self.ranks.sum_(sums).tolist()
        self.masks, self.dropped_share = masks, dropped / total if total else 0.0

    def scores(self, split: Split, goal: Tensor) -> Tensor:
        """Return the roots of the scores of weights."""
        if self.config.score == "magnitude":
            return goal.abs()
        assert self.optimizer is not None
        # Without bias correction, which would not change the order.
        second: Tensor = self.optimizer.state[split.matrix.parameter]["exp_avg_sq"]
        return split.matrix.inside(local(second)).sqrt() * goal.abs()

    def mask_of(self, split: Split, scores: Tensor) -> Tensor:
        """Return this rank's part of the mask that keeps the highest scores (collective)."""
        structure = self.target.structure
        if structure is None:
            scores = keep_earlier(scores, split.earlier)
            return lowest_pruned(scores, split.count, self.ranks)
        matrix = split.matrix
        if matrix.transposed:
            # A group of inputs may lie on two ranks.
            full, earlier = matrix.gather(scores), self.earlier.get(matrix.name)
            binding = None if earlier is None else earlier.to(full.device)
            return matrix.cut(group_mask(full, structure, binding))
        if scores.numel() == 0:
            return torch.ones_like(scores, dtype=torch.bool)
        return group_mask(scores, structure, split.earlier)

    # What checkpoints hold ------------------------------------------------------------------------

    def tensors(self) -> dict[str, dict[nn.Parameter, Tensor]]:
        """Return this rank's parts of all tensors by name and parameter."""
        return {
            "sparse": {parameter: sparse for parameter, (sparse, _) in self.copies.items()},
            "dual": {parameter: dual for parameter, (_, dual) in self.copies.items()},
        }

    def numbers(self) -> dict[str, float]:
        """Return the penalties of now."""
        return {"penalty": self.penalty, "dual_penalty": self.dual_penalty}

    def restore(self, numbers: Mapping[str, float]) -> None:
        """Set the penalties that `numbers` returned."""
        self.penalty, self.dual_penalty = numbers["penalty"], numbers["dual_penalty"]
