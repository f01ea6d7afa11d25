"""Matrices that are pruned and not compensated: survivors keep their value, others see it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from core.activations import Calibration
from core.config import PruneConfig
from core.models.blocks import prunable_matrices
from core.models.loading import load_model
from core.pruners import PRUNERS, make_pruner
from core.ranks import Ranks
from core.sequential import prune_
from core.targets import Target
from orchestrator.preparation import prepare
from orchestrator.unread_flags import require_read

WINDOWS = torch.randint(320, (6, 40), generator=torch.Generator().manual_seed(0))
READING = [name for name in PRUNERS if "uncompensated" in PRUNERS[name].facts.fields_read]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("target", [Target(0.6), Target.structured("2:4")])
@pytest.mark.parametrize("refine", [None, "swaps"])
@pytest.mark.parametrize("method", READING)
def test_survivors_of_the_named_matrices_alone_keep_their_value(
    tiny_llama_dir, method, refine, target
):
    model, before = (load_model(tiny_llama_dir, torch.float32) for _ in range(2))
    config = PruneConfig(block_size=16, refine=refine, uncompensated=("v_proj", "down_proj"))
    done = prune_(model, make_pruner(method, config), target, Ranks.current(), Calibration(WINDOWS))
    dense = prunable_matrices(before)
    for name, matrix in prunable_matrices(model).items():
        old, new, mask = dense[name].read(), matrix.read(), done.masks[name]
        assert not new[~mask].any()
        assert int((~mask).sum()) == round(target.sparsity * mask.numel())
        kept = name.endswith(("v_proj", "down_proj"))
        assert torch.equal(new[mask], old[mask]) == kept, name
        assert done.errors[name] is not None


def test_methods_that_move_no_survivor_do_not_read_it(two_cells):
    assert READING == ["sparsegpt", "alps"]
    config = dataclasses.replace(two_cells, prune=PruneConfig(uncompensated=("k_proj",)))
    with pytest.raises(ValueError, match="--prune.uncompensated has no effect"):
        require_read(dict.fromkeys({"prune.uncompensated"}, [config]))


def test_a_matrix_that_the_model_lacks_is_refused(tiny_opt_dir, two_cells):
    config = dataclasses.replace(two_cells, prune=PruneConfig(uncompensated=("k_prok",)))
    refusal = "--prune.uncompensated 'k_prok' is unknown: did you mean 'k_proj'"
    with pytest.raises(ValueError, match=refusal):
        prepare(config)
    model = load_model(tiny_opt_dir, torch.float32)
    with pytest.raises(ValueError, match=refusal):
        prune_(model, make_pruner("sparsegpt", config.prune), Target(0.5), Ranks.current())


@pytest.mark.parametrize("names", [("k_proj", "k_proj"), ("k_proj",)])
def test_what_means_nothing_is_refused(names):
    bits = None if len(names) == 2 else 4
    with pytest.raises(ValueError, match="--prune.(uncompensated|weight-bits)"):
        PruneConfig(uncompensated=names, weight_bits=bits)


def test_it_is_a_setting_of_methods_that_read_it():
    on, off = PruneConfig(uncompensated=("k_proj",)), PruneConfig()
    for method, pruner in PRUNERS.items():
        fields = pruner.facts.fields_read
        more = {"uncompensated": ("k_proj",)} if method in READING else {}
        assert on.settings(fields) == off.settings(fields) | more
