"""Losses of logits in pieces: the numbers of all rows at once, and the memory of few."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from core.measures import row_pieces
from core.measures.gap import Divergence, divergence
from core.measures.row_pieces import RowLosses, losses_in_pieces
from core.training.losses import Distillation, token_losses

BATCH, SEQ_LEN, VOCAB = 2, 7, 50
IDS = torch.randint(0, VOCAB, (BATCH, SEQ_LEN), generator=torch.Generator().manual_seed(1))


class Teacher:
    """A model that has its logits already."""

    def __init__(self, logits):
        self.logits = logits

    def __call__(self, ids):
        return self


def drawn(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, SEQ_LEN, VOCAB, generator=generator).to(dtype)


LOSSES = {
    "next token": lambda teacher: token_losses,
    "distillation": lambda teacher: Distillation(teacher, temperature=2.0, mix=1.0),
    "both": lambda teacher: Distillation(teacher, temperature=2.0, mix=0.25),
}


def losses_and_gradient(name, dtype):
    logits = drawn(2, dtype).requires_grad_()
    losses = LOSSES[name](Teacher(drawn(3, dtype)))(logits, IDS)
    weights = torch.linspace(0.1, 2.0, losses.numel()).view_as(losses)
    (losses * weights).sum().backward()
    return losses.detach(), logits.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("rows", [1, 3, 14])
def test_pieces_give_the_bits_of_all_rows_at_once(monkeypatch, name, dtype, rows):
    whole = losses_and_gradient(name, dtype)
    monkeypatch.setitem(row_pieces.PIECE_VALUES, "cpu", rows * VOCAB)
    for found, wanted in zip(losses_and_gradient(name, dtype), whole, strict=True):
        assert torch.equal(found, wanted)


def test_the_gradient_is_that_of_plain_autograd():
    # float64: by the formula, 1e-12.
    logits, wanted = drawn(2, torch.float64).requires_grad_(), drawn(3, torch.float64)

    class Plain(RowLosses):
        def losses(self, rows, goals):
            return (goals.softmax(-1) * (goals.log_softmax(-1) - rows.log_softmax(-1))).sum(-1)

    ours = losses_in_pieces(Plain(), logits, wanted)
    (found,) = torch.autograd.grad(ours.sum(), logits)
    torch.testing.assert_close(found, logits.softmax(-1) - wanted.softmax(-1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_gradient_of_a_divergence_has_the_bits_of_autograd(temperature, dtype):
    rows, goals = (drawn(seed, dtype).flatten(0, 1) for seed in (2, 3))
    given = torch.linspace(0.1, 2.0, len(rows))
    function = Divergence(temperature)
    found = function.gradient(rows, goals, given)
    assert found.dtype == dtype
    assert torch.equal(found, RowLosses.gradient(function, rows, goals, given))


@pytest.mark.parametrize("name", LOSSES)
def test_no_copy_of_the_logits_waits_for_the_backward_pass(name):
    kept: dict[int, int] = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    logits, teacher = drawn(2).requires_grad_(), drawn(3)
    with saved_tensors_hooks(note, lambda tensor: tensor):
        LOSSES[name](Teacher(teacher))(logits, IDS).sum()
    large = {place for place, size in kept.items() if size >= 4 * logits.numel()}
    assert large <= {each.untyped_storage().data_ptr() for each in (logits, teacher)}


def test_no_call_has_more_rows_than_a_piece(monkeypatch):
    seen: list[int] = []

    class Counting(RowLosses):
        def losses(self, rows, goals):
            seen.append(len(rows))
            return (rows - goals).sum(-1)

    monkeypatch.setitem(row_pieces.PIECE_VALUES, "cpu", 4 * VOCAB + 1)
    logits = drawn(2).requires_grad_()
    losses_in_pieces(Counting(), logits, drawn(3)).sum().backward()
    assert seen == [4, 4, 4, 2] * 2


def test_a_row_longer_than_a_piece_is_one(monkeypatch):
    monkeypatch.setitem(row_pieces.PIECE_VALUES, "cpu", VOCAB // 2)
    assert divergence(drawn(2), drawn(3)).shape == (BATCH, SEQ_LEN)
