"""Block-wise reconstruction: each half of a block is trained to give the dense block's outputs.

After arXiv 2510.14444. Blocks are done in order, and in each the attention half, then the MLP half.
A half is trained on the outputs of the blocks before it, as recovered so far, towards what the
dense model has at the same place, and thus makes up for their errors too. The loss of a window is
`|y - t|^2 / |t|^2`. A half passes over the round's windows once, in batches and with a schedule of
its own; embeddings, final norm and head stay as they are.

Only one block is whole, with its gradients and moments, at any time: every rank trains the same
copy on its share of the windows, and gradients are summed.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from core.config import FinetuneConfig
from core.models.blocks import block_inputs, decoder_blocks, prunable_linears, run_block
from core.models.masks import Masks
from core.parallel import Ranks, gathered
from core.precision import autocast
from core.training.checkpoints import load_training_, save_training
from core.training.halves import Half, PlainBlocks
from core.training.optimizer import MaskedAdamW, Report, SaveCheckpoint, time_to_save
from core.training.trainable import trained

HALVES = 2


class Chain:
    """This rank's hidden states of all batches between two blocks of one model."""

    @torch.no_grad()
    def __init__(
        self,
        model: PreTrainedModel,
        batches: tuple[Tensor, ...],
        ranks: Ranks,
        micro_batch: int,
        dtype: torch.dtype,
    ) -> None:
        self.autocast = functools.partial(autocast, ranks.device, torch.float32, dtype)
        self.hidden: list[list[Tensor]] = []
        # Windows are never padded, so arguments depend on the batch size alone.
        self.kwargs: dict[int, list[dict[str, Any]]] = {}
        stored = next(model.parameters()).dtype
        with gathered(model), autocast(ranks.device, stored, dtype):
            for batch in batches:
                # A rank may have no window of a small batch.
                pieces = ranks.share(batch).split(micro_batch) if ranks.rank < len(batch) else ()
                self.hidden.append([])
                for ids in pieces:
                    hidden, kwargs = block_inputs(model, ids.to(ranks.device))
                    self.hidden[-1].append(hidden.float())
                    self.kwargs.setdefault(len(ids), kwargs)

    @torch.no_grad()
    def advance(self, block: nn.Module, index: int) -> None:
        """Makes the block's outputs the next inputs."""
        for pieces in self.hidden:
            for i, hidden in enumerate(pieces):
                with self.autocast():
                    pieces[i] = run_block(block, hidden, self.kwargs[len(hidden)][index]).float()

    def output(self, half: Half, hidden: Tensor, index: int) -> Tensor:
        """What a half gives for one piece."""
        with self.autocast():
            return half.output(hidden, self.kwargs[len(hidden)][index]).float()


def reconstruct_(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    masks: Masks,
    batches: tuple[Tensor, ...],
    config: FinetuneConfig,
    ranks: Ranks,
    *,
    micro_batch: int,
    compute_dtype: torch.dtype,
    resume_from: Path | None,
    save_checkpoint: SaveCheckpoint | None,
    save_every_seconds: float,
    report: Report | None,
) -> tuple[list[float], int]:
    """Reconstructs all blocks; returns the losses and the steps that were done before.

    Checkpoints lie between blocks: they hold weights alone, since each half starts its moments
    anew.
    """
    plain, dense_plain = PlainBlocks(model), PlainBlocks(teacher)
    linears, num_blocks = prunable_linears(model), len(decoder_blocks(model))
    steps = HALVES * len(batches)
    first = 0 if resume_from is None else load_training_(resume_from, model, None)
    ours = Chain(model, batches, ranks, micro_batch, compute_dtype)
    dense = Chain(teacher, batches, ranks, micro_batch, compute_dtype)
    losses, saved = [], time.monotonic()
    for index in range(num_blocks):
        block = plain.take(index, ranks.device)
        dense_block = dense_plain.take(index, ranks.device)
        if (index + 1) * steps > first:
            pairs = zip(plain.halves(block), dense_plain.halves(dense_block))
            for turn, (half, wanted) in enumerate(pairs):
                chosen = linears_of(half, linears[index])
                with trained(
                    block, chosen, masks, config, compute_dtype, half.parameters()
                ) as params:
                    optimizer = MaskedAdamW(params, config, ranks)
                    for step in range(len(batches)):
                        loss = accumulate(ours, dense, half, wanted, index, step, batches, ranks)
                        optimizer.step(step, len(batches), loss)
                        losses.append(loss)
                        if report is not None:
                            done = index * steps + turn * len(batches) + step + 1
                            report(done, num_blocks * steps, loss)
            plain.put_(index, block)
        ours.advance(block, index)
        dense.advance(dense_block, index)
        due = time_to_save(ranks, saved, save_every_seconds) if save_checkpoint else False
        if save_checkpoint is not None and due and first < (index + 1) * steps < num_blocks * steps:
            done = (index + 1) * steps
            write = functools.partial(
                save_training, model=model, optimizer=None, step=done, ranks=ranks
            )
            save_checkpoint(done, write)
            saved = time.monotonic()
    return losses, first


def linears_of(half: Half, originals: dict[str, nn.Linear]) -> dict[str, nn.Linear]:
    """A half's matrices in the copied block, by the names that they have in the model."""
    mine, found = {id(param) for param in half.parameters()}, {}
    for path, module in half.block.named_modules():
        if isinstance(module, nn.Linear) and id(module.weight) in mine:
            (name,) = (name for name in originals if name.endswith(f".{path}"))
            found[name] = module
    return found


def accumulate(
    ours: Chain,
    dense: Chain,
    half: Half,
    wanted: Half,
    index: int,
    step: int,
    batches: tuple[Tensor, ...],
    ranks: Ranks,
) -> float:
    """Adds the gradients of one global batch's mean relative error; returns that error."""
    total = torch.zeros((), dtype=torch.float64)
    for hidden, dense_hidden in zip(ours.hidden[step], dense.hidden[step], strict=True):
        with torch.no_grad():
            target = dense.output(wanted, dense_hidden, index)
        error = (ours.output(half, hidden, index) - target).flatten(1).square().sum(1)
        loss = (error / target.flatten(1).square().sum(1)).sum() / len(batches[step])
        (loss * ranks.size).backward()
        total += loss.detach().double().cpu()
    for param in half.block.parameters():
        if param.requires_grad and param.grad is None:
            # A rank without a window of this batch, or a unit that no window reaches.
            param.grad = torch.zeros_like(param)
    return ranks.sum_(total).item()
