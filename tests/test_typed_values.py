"""Settings take the types of their fields, so equal values give equal identities."""

import runpy
from pathlib import Path

import numpy
import pytest

from core.config import CalibrationConfig, EvalConfig, FinetuneConfig, PruneConfig
from core.targets import Target
from core.training_config import Training
from orchestrator.config import GridConfig, OutputConfig, ResourceConfig
from orchestrator.plan.identity import canonical_json

GRIDS = runpy.run_path(str(Path(__file__).with_name("identity_grids.py")))
Case = GRIDS["Case"]


def ids(grid, prune, finetune):
    plan = Case(grid, prune=PruneConfig(**prune), finetune=FinetuneConfig(**finetune)).plan()
    return [*plan.stages], [*plan.cells]


def test_equal_numbers_of_any_type_give_equal_identities():
    base = {"methods": ("sparsegpt",), "regimes": ("finetune",)}
    rates = {"lr": 1.0, "weight_decay": 0.0, "clip_norm": 1.0, "warmup_frac": 0.0}
    floats = ids(
        {**base, "sparsities": (0.0, 1.0), "seeds": (1,)},
        {"dampening_frac": 1.0, "block_size": 64},
        {**rates, "tokens": 1000},
    )
    others = ids(
        {**base, "sparsities": [-0.0, numpy.float64(1)], "seeds": [1.0]},
        {"dampening_frac": 1, "block_size": numpy.int64(64)},
        {"lr": 1, "weight_decay": -0.0, "clip_norm": True, "warmup_frac": 0, "tokens": 1000.0},
    )
    assert floats == others


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        (GridConfig(models=[Path("a/b")], seeds=[3.0]), GridConfig(models=("a/b",), seeds=(3,))),
        (CalibrationConfig(text=Path("t"), num_samples=8.0), CalibrationConfig("t", 8)),
        (PruneConfig(weight_bits=4.0, dampening_frac=1), PruneConfig(1.0, weight_bits=4)),
        (Training(lr=[1, 2], distill=1), Training(lr=(1.0, 2.0), distill=True)),
        (EvalConfig(texts=[Path("t")], stride=2.0), EvalConfig(texts=("t",), stride=2)),
        (ResourceConfig(timeout_seconds=5), ResourceConfig(timeout_seconds=5.0)),
        (OutputConfig(out_dir=Path("out")), OutputConfig(out_dir="out")),
        (Target(1), Target(1.0)),
        (Target.structured("02:04"), Target.structured("2:4")),
    ],
)
def test_settings_have_the_types_of_their_fields(settings, same):
    assert repr(settings) == repr(same)
    assert hash(settings) == hash(same)


def test_a_fraction_is_no_whole_number():
    with pytest.raises(ValueError, match=r"^--prune.block-size 1.5: use a whole number$"):
        PruneConfig(block_size=1.5)


def test_one_structure_in_two_spellings_is_given_twice():
    with pytest.raises(ValueError, match="given twice"):
        GridConfig(mask_structures=("2:4", "02:04"))


def test_canonical_json_itself_changes_no_value():
    assert canonical_json([0, 0.0, "0"]) == '[0,0.0,"0"]'
