"""Block-wise reconstruction: each half of a block is trained to give the dense block's outputs.

After arXiv 2510.14444. The blocks are trained in order, and in each block first the attention half,
then the MLP half. A block whose attention and MLP run side by side has no halves and is trained as
a whole. A half reads the outputs of the blocks before it, which are already trained. Its
goal is what the dense model has at the same place, so it also corrects the errors of the blocks
before it. The loss of a window is `|y - t|^2 / |t|^2`. Each half passes once over the round's
windows, in batches and with its own learning-rate schedule. Embeddings, final norm and head stay
as they are.

Only one block at a time is whole, with its gradients and moments: every rank trains the same copy
on its share of the windows, and gradients are summed.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from core.models.blocks import decoder_blocks, have_routers
from core.models.calls import Calls
from core.parallel import gathered
from core.precision import autocast
from core.ranks import Ranks
from core.training.halves import Half, PlainBlocks
from core.training.loop import Loop, Progress
from core.training.optimizer import MaskedAdamW
from core.training.trainable import trained
from core.training_config import Training


class Chain:
    """This rank's hidden states of all batches, between two blocks of one model."""

    @torch.no_grad()
    def __init__(self, model: PreTrainedModel, batches: tuple[Tensor, ...], loop: Loop) -> None:
        """Compute the inputs of the first block."""
        ranks, dtype = loop.ranks, loop.compute_dtype
        self.autocast = functools.partial(autocast, ranks.device, torch.float32, dtype)
        self.index = 0
        """The block whose inputs these are."""
        self.hidden: list[list[Tensor]] = []
        self.first: list[int] = []
        """Number of the first piece of each batch, among the pieces of all batches."""
        stored = next(model.parameters()).dtype
        with gathered(model), autocast(ranks.device, stored, dtype):
            self.calls = Calls(model, ranks.device)
            dealt = 0
            for batch in batches:
                # A rank may have no window of a small batch.
                mine = ranks.share(batch, dealt)
                pieces = mine.split(loop.micro_batch) if len(mine) else ()
                dealt += len(batch)
                self.first.append(len(self.calls.shapes))
                self.hidden.append([self.calls.add(ids).float() for ids in pieces])

    @torch.no_grad()
    def advance(self, block: nn.Module, half: Half | None = None) -> list[list[Tensor]]:
        """Replace the inputs of this block by its outputs, which the next block reads.

        Return its hidden states after the first half, of each batch and piece, if `half` is given.
        """
        between: list[list[Tensor]] = [[] for _ in self.hidden]
        for first, pieces, states in zip(self.first, self.hidden, between):
            for i, hidden in enumerate(pieces):
                seen: list[Tensor] = []
                noting = nullcontext() if half is None else half.at_mlp(seen.append)
                with self.autocast(), noting:
                    pieces[i] = self.calls.run(block, self.index, first + i, hidden).float()
                # Of the modules of the MLP half, the first gets the states between the halves.
                states += [state.view(hidden.shape).float() for state in seen[:1]]
        self.index += 1
        return between

    def output(self, half: Half, step: int, piece: int) -> Tensor:
        """Return the output of a half of this block for one piece of the inputs of a batch."""
        call = self.calls.of(self.first[step] + piece, self.index)
        with self.autocast():
            return half.output(self.hidden[step][piece], call).float()


def reconstruct_(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    masks: Mapping[str, Tensor],
    batches: tuple[Tensor, ...],
    config: Training,
    loop: Loop,
) -> Progress:
    """Reconstruct all blocks in place; return what was done.

    Checkpoints lie between blocks. They hold weights alone, because each half starts its moments
    anew.
    """
    plain, dense_plain = PlainBlocks(model, have_routers(model, masks)), PlainBlocks(teacher)
    num_blocks, device = len(decoder_blocks(model)), loop.ranks.device
    steps = [len(batches) * plain.num_halves(index) for index in range(num_blocks)]
    progress = Progress(loop, sum(steps), model, optimizer=None)
    ours, dense = Chain(model, batches, loop), Chain(teacher, batches, loop)
    for index in range(num_blocks):
        block, dense_block = plain.take(index, device), dense_plain.take(index, device)
        halves = plain.halves(block, index)
        attention, *mlp = dense_plain.halves(dense_block, index)
        between = dense.advance(dense_block, attention if mlp else None)
        targets = [between, dense.hidden][-len(halves) :]
        if sum(steps[: index + 1]) > progress.first:
            for half, target in zip(halves, targets, strict=True):
                train_half_(Lesson(half, ours, target, batches), masks, config, progress)
            plain.put_(index, block)
        ours.advance(block)
        progress.save_if_due()
    return progress


@dataclass(frozen=True)
class Lesson:
    """One half to train, its inputs, and the outputs that it should give."""

    half: Half
    ours: Chain
    targets: list[list[Tensor]]
    """Outputs of the dense half, of each batch and piece."""
    batches: tuple[Tensor, ...]


def train_half_(
    lesson: Lesson, masks: Mapping[str, Tensor], config: Training, progress: Progress
) -> None:
    """Take one optimizer step for each batch."""
    half, loop, num_steps = lesson.half, progress.loop, len(lesson.batches)
    dtype, among = loop.compute_dtype, half.parameters()
    with trained(half.block, half.matrices, masks, config, dtype, among) as params:
        optimizer = MaskedAdamW(params, config, loop.ranks)
        for step in range(num_steps):
            loss = accumulate_gradients(lesson, step, loop.ranks)
            progress.add(optimizer.step(step, num_steps, loss))


def accumulate_gradients(lesson: Lesson, step: int, ranks: Ranks) -> Tensor:
    """Add the gradients of the mean relative error of a global batch.

    Return this rank's part of that error.
    """
    ours, num_windows = lesson.ours, len(lesson.batches[step])
    total = torch.zeros((), dtype=torch.float64, device=ranks.device)
    for piece, target in enumerate(lesson.targets[step]):
        error = (ours.output(lesson.half, step, piece) - target).flatten(1).square().sum(1)
        loss = (error / target.flatten(1).square().sum(1)).sum() / num_windows
        (loss * ranks.size).backward()
        total += loss.detach()
    for param in lesson.half.block.parameters():
        if param.requires_grad and param.grad is None:
            # This rank has no window of this batch, or no window reaches the unit.
            param.grad = torch.zeros_like(param)
    return total
