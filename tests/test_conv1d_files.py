"""GPT-2 in files: a cell as a directory, and a sweep of a model that does not fit into memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

from core.config import CalibrationConfig, EvalConfig
from core.models.blocks import prunable_matrices
from core.models.loading import load_model
from core.models.mask_files import MASKS_FILE, load_masks
from orchestrator.browse import main
from orchestrator.config import GridConfig, OutputConfig, ResourceConfig, SweepConfig
from orchestrator.store.store import Store
from tests.walked import rows_of, walk

SIZES = {"vocab_size": 320, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
CONFIG = GPT2Config(**SIZES, initializer_range=0.2, bos_token_id=2, eos_token_id=2)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def make_config(make_model_dir, write_texts, tmp_path_factory):
    """`make_config(out_dir)`: SparseGPT to half of all weights, and to 2:4."""
    folder = tmp_path_factory.mktemp("texts")
    write_texts(folder)
    model = make_model_dir(CONFIG)

    def make(out: Path) -> SweepConfig:
        return SweepConfig(
            grid=GridConfig(
                models=(str(model),),
                methods=("sparsegpt",),
                regimes=("oneshot",),
                sparsities=(0.5,),
                mask_structures=("2:4",),
            ),
            calibration=CalibrationConfig(
                text=str(folder / "calibration.txt"), num_samples=4, seq_len=32
            ),
            eval=EvalConfig(texts=(str(folder / "test.txt"),), seq_len=32, max_windows=4),
            resources=ResourceConfig(cpus_per_worker=1),
            output=OutputConfig(out_dir=str(out), keep="all"),
        )

    return make


@pytest.fixture(scope="module")
def whole(make_config, tmp_path_factory):
    """The out-dir of the sweep with the model in memory."""
    out = tmp_path_factory.mktemp("whole")
    walk(make_config(out))
    return out


def stages_of(out: Path) -> dict[str, Path]:
    """The folder with the weights of each pruned stage, by its name."""
    return {path.parents[1].name: path.parent for path in out.glob(f"stages/*/*/{MASKS_FILE}")}


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in folder.glob("model*.safetensors"):
        found |= load_file(file)
    return found


@pytest.mark.parametrize("structure", [None, "2:4"])
def test_a_cell_becomes_a_directory_that_transformers_loads(whole, structure, tmp_path, capsys):
    rows = Store(str(whole)).rows.read().values()
    row = next(r for r in rows if r["sparsity"] and r["mask_structure"] == structure)
    assert main([str(whole), "--get", row["cell_id"][:10], str(tmp_path / "model")]) == 0
    assert "sparsity 0.5, perplexity" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(tmp_path / "model")("ka lo", return_tensors="pt").input_ids
    assert model.generate(ids, max_new_tokens=3, min_new_tokens=3).shape[1] == ids.shape[1] + 3
    stored = load_model(stages_of(whole)[row["stage_id"]], torch.float32)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, stored(ids).logits)
    masks = load_masks(tmp_path / "model" / MASKS_FILE)
    for name, matrix in prunable_matrices(model).items():
        zeros = matrix.read() == 0
        assert torch.equal(zeros, ~masks[name]) and zeros.sum() * 2 == zeros.numel()
        if structure is not None:
            assert (zeros.view(matrix.rows, -1, 4).sum(2) == 2).all()
        assert model.get_submodule(name).weight.shape == (matrix.cols, matrix.rows)


def test_the_sparse_form_is_refused_in_one_line(whole, tmp_path, capsys):
    pytest.importorskip("compressed_tensors", reason="needs .[compressed]")
    row = next(r for r in Store(str(whole)).rows.read().values() if r["sparsity"])
    flags = ["--get", row["cell_id"][:10], str(tmp_path / "model")]
    assert main([str(whole), *flags, "--format", "compressed-tensors"]) == 2
    assert "is stored as [in, out], which the form does not have" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_a_streamed_sweep_equals_one_in_memory(make_config, whole, tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.trial.weights.usable_bytes", lambda *_: 1.0)
    walk(make_config(tmp_path))
    assert rows_of(tmp_path) == rows_of(whole)
    assert {row["status"] for row in rows_of(tmp_path).values()} == {"done"}
    manifests = Store(str(tmp_path)).stages.manifests().values()
    assert {manifest["environment"].get("streamed") for manifest in manifests} == {True}
    mine, theirs = stages_of(tmp_path), stages_of(whole)
    assert mine.keys() == theirs.keys() and len(mine) == 2
    for stage, folder in mine.items():
        masks, wanted = (load_masks(place / MASKS_FILE) for place in (folder, theirs[stage]))
        assert masks.keys() == wanted.keys()
        assert all(torch.equal(masks[name], wanted[name]) for name in masks)
        again, before = (load_model(place, torch.float32) for place in (folder, theirs[stage]))
        assert all(map(torch.equal, again.parameters(), before.parameters()))
        assert weights_in(folder).keys() == weights_in(theirs[stage]).keys()
