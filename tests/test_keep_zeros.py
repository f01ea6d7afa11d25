"""The zeros of a model that is sparse already are the first mask, if that is asked for."""

from __future__ import annotations

import pytest
import torch

from core.activations import Calibration
from core.config import PruneConfig
from core.measures.sparsity import assert_growing
from core.models.blocks import prunable_matrices
from core.models.loading import load_model
from core.pruners import PRUNERS, make_pruner
from core.ranks import Ranks
from core.sequential import prune_
from core.targets import Target
from orchestrator.config import GridConfig, SweepConfig

RANKS = Ranks.current()
WINDOWS = torch.randint(320, (4, 40), generator=torch.Generator().manual_seed(0))
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def sparse(tiny_llama_dir):
    """A model of which four in ten weights to prune are zero, many in some rows."""
    model = load_model(tiny_llama_dir, torch.float32)
    generator = torch.Generator().manual_seed(0)
    for matrix in prunable_matrices(model).values():
        share = torch.linspace(0, 0.8, matrix.rows)[:, None]
        keep = torch.rand(matrix.rows, matrix.cols, generator=generator) >= share
        matrix.write_(matrix.read() * keep)
    return model


def nonzero(model) -> dict[str, torch.Tensor]:
    """The survivors of each matrix."""
    return {name: matrix.read() != 0 for name, matrix in prunable_matrices(model).items()}


@pytest.mark.parametrize("method", PRUNERS)
def test_zeros_are_the_first_mask(method, sparse):
    before = nonzero(sparse)
    pruner = make_pruner(method, PruneConfig(block_size=16, keep_zeros=True))
    first = prune_(sparse, pruner, Target(0.3), RANKS, Calibration(WINDOWS))
    # Fewer than there are already: nothing more goes, except in rows with few zeros.
    assert_growing(before, first.masks)
    by_row = pruner.facts.by_row
    assert by_row or all(torch.equal(first.masks[name], before[name]) for name in before)
    second = prune_(sparse, pruner, Target(0.9), RANKS, Calibration(WINDOWS), first.masks)
    assert_growing(before, second.masks)
    for name, matrix in prunable_matrices(sparse).items():
        assert not matrix.read()[~before[name]].any()
        assert int((~second.masks[name]).sum()) >= int(0.89 * matrix.numel)


def test_zeros_are_filled_unless_asked_for(sparse):
    before = nonzero(sparse)
    pruner = make_pruner("sparsegpt", PruneConfig(block_size=16))
    prune_(sparse, pruner, Target(0.5), RANKS, Calibration(WINDOWS))
    after = nonzero(sparse)
    assert any((after[name] & ~before[name]).any() for name in before)


def test_zeros_that_a_structure_has_no_room_for_are_refused():
    with pytest.raises(ValueError, match="prune.keep-zeros.*--mask-structures 2:4"):
        SweepConfig(GridConfig(mask_structures=("2:4",)), prune=PruneConfig(keep_zeros=True))
