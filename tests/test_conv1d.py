"""GPT-2: its layers are `Conv1D`, whose weights are stored as [in, out].

Everything must equal the same model built of `nn.Linear`, whose weights are [out, in].
"""

from __future__ import annotations

import copy
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config
from transformers.pytorch_utils import Conv1D

from core.activations import Calibration
from core.allocation import allocate, outlier_ratios
from core.config import CalibrationConfig, EvalConfig, FinetuneConfig, PruneConfig
from core.measures.sparsity import measure
from core.models.blocks import prunable_matrices
from core.models.loading import load_model
from core.pruners import make_pruner
from core.ranks import Ranks
from core.sequential import prune_
from core.targets import Target
from core.training import halves
from core.training.finetune import finetune_
from core.training.loop import Loop
from orchestrator.config import GridConfig, OutputConfig, ResourceConfig, SweepConfig

walk = runpy.run_path(str(Path(__file__).with_name("walked.py")))["walk"]
RANKS = Ranks.current()
SIZES = {"vocab_size": 320, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
CONFIG = GPT2Config(**SIZES, initializer_range=0.2, bos_token_id=2, eos_token_id=2)
WINDOWS = torch.randint(320, (6, 40), generator=torch.Generator().manual_seed(0))
CALIBRATION = Calibration(WINDOWS, micro_batch=4)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def pair():
    """A random GPT-2, and the same model built of `nn.Linear`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(CONFIG, dtype=torch.float32).eval()
        for name, param in model.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(param, std=0.1)
    twin = copy.deepcopy(model)
    for block in twin.transformer.h:
        for name, module in list(block.named_modules()):
            if isinstance(module, Conv1D):
                linear = nn.Linear(module.nx, module.nf)
                linear.weight.data, linear.bias = module.weight.data.T.contiguous(), module.bias
                block.set_submodule(name, linear)
    return model, twin


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: one.read().clone() for name, one in prunable_matrices(model).items()}


CASES = [
    *((method, text, {}) for method in ("magnitude", "wanda", "sparsegpt", "alps")
      for text in ("0.5", "2:4")),
    ("wanda", "0.5", {"refine": "swaps"}),
    ("sparsegpt", "2:4", {"refine": "swaps"}),
    ("sparsegpt", "0.5", {"weight_bits": 4}),
    ("sparsegpt", "0.5", {"allocation": "owl"}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "text", "settings"), CASES, ids=str)
def test_masks_and_weights_are_those_of_linear_layers(pair, method, text, settings):
    config = PruneConfig(**settings)
    target = Target.structured(text) if ":" in text else Target(float(text))
    masks = []
    for model in pair:
        goal = target
        if config.allocation == "owl":
            ratios = outlier_ratios(model, CALIBRATION, RANKS)
            goal = allocate(prunable_matrices(model), ratios, target)
        masks.append(prune_(model, make_pruner(method, config), goal, RANKS, CALIBRATION).masks)
    one, other = masks
    assert [*one] == [*other] and all(torch.equal(one[name], other[name]) for name in one)
    found, wanted = map(weights_of, pair)
    # Products of transposed weights may round otherwise: 1e-4 of the largest weight.
    for name in found:
        most = 1e-4 * float(wanted[name].abs().max())
        assert torch.allclose(found[name], wanted[name], rtol=0, atol=most), name
    assert measure(pair[0], one).sparsity == pytest.approx(0.5, abs=1e-3)
    if ":" in text:
        groups = {name: mask.view(len(mask), -1, 4).sum(2) for name, mask in one.items()}
        assert all((kept == 2).all() for kept in groups.values())


TRAINED = [
    {"trainable": "all"},
    {"trainable": "bias_norm"},
    {"trainable": "masklora"},
    {"objective": "reconstruct"},
]


@pytest.mark.parametrize("settings", TRAINED, ids=str)
def test_training_under_masks_is_that_of_linear_layers(pair, settings, monkeypatch):
    # The config of the twin is that of a model with `Conv1D`.
    monkeypatch.setattr(halves, "skeleton_of", lambda model, _: copy.deepcopy(model).to("meta"))
    weights, losses = [], []
    config = FinetuneConfig(lr=1e-3, **settings)
    for model in pair:
        dense = copy.deepcopy(model)
        pruner = make_pruner("magnitude", PruneConfig())
        masks = prune_(model, pruner, Target(0.5), RANKS).masks
        report = finetune_(
            model, masks, WINDOWS.split(3), config, Loop(RANKS, micro_batch=2), dense
        )
        assert measure(model, masks).sparsity == 0.5
        weights.append(weights_of(model))
        losses.append(report.losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for name, weight in weights[0].items():
        assert torch.allclose(weight, weights[1][name], rtol=0, atol=1e-4), name


def test_a_sweep_prunes_trains_and_gives_a_model(make_model_dir, write_texts, tmp_path):
    write_texts(tmp_path)
    model = make_model_dir(CONFIG)
    config = SweepConfig(
        grid=GridConfig(
            models=(str(model),),
            methods=("wanda", "sparsegpt"),
            sparsities=(0.3, 0.5),
            mask_structures=("2:4",),
            regimes=("oneshot", "iterative"),
        ),
        calibration=CalibrationConfig(
            text=str(tmp_path / "calibration.txt"), num_samples=4, seq_len=32
        ),
        finetune=FinetuneConfig(text=str(tmp_path / "train.txt"), tokens=256, batch_tokens=128),
        eval=EvalConfig(texts=(str(tmp_path / "test.txt"),), seq_len=32, max_windows=4),
        resources=ResourceConfig(cpus_per_worker=1),
        output=OutputConfig(out_dir=str(tmp_path / "out"), keep="all"),
    )
    sweep = walk(config)
    rows = sweep.store.rows.read().values()
    assert {row["status"] for row in rows} == {"done"}
    for row in rows:
        assert row["measured_sparsity"] == pytest.approx(row["sparsity"], abs=1e-2)
    stage = next(row for row in rows if row["mask_structure"] and row["regime"] == "iterative")
    with sweep.store.stages.at(stage["stage_id"]).opened() as directory:
        again = load_model(directory, torch.float32)
    for matrix in prunable_matrices(again).values():
        zeros = (matrix.read() == 0).view(matrix.rows, -1, 4).sum(2)
        assert (zeros == 2).all() and matrix.parameter.shape == (matrix.cols, matrix.rows)
