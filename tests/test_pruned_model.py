"""Any point is a model: out of the store, with its card, dense or without its zeros."""

import importlib.util
import json
import os
import runpy
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.models.blocks import prunable_matrices
from core.models.loading import load_model
from core.models.mask_files import save_masks
from core.models.saving import save_model
from core.models.sources import weight_paths
from core.ranks import Ranks
from orchestrator.browse import main
from orchestrator.cli import parse
from orchestrator.config import SweepConfig
from orchestrator.page.watched import Watched
from orchestrator.publish import sparse_files
from orchestrator.publish.model_card import licence_of
from orchestrator.publish.model_directory import find_cell, write_model
from orchestrator.publish.recompute_command import recompute_command

_stored = runpy.run_path(str(Path(__file__).with_name("stored_sweep.py")))
StoredSweep = _stored["StoredSweep"]
needs_compressed = pytest.mark.skipif(
    importlib.util.find_spec("compressed_tensors") is None,
    reason=f"needs compressed-tensors: {sparse_files.REMEDY}",
)
STAGES = {None: "a" * 32, "2:4": "b" * 32, "1:4": "c" * 32}
CELLS = [
    {
        "model": "tiny",
        "method": "sparsegpt",
        "sparsity": 0.75 if structure == "1:4" else 0.5,
        "mask_structure": structure,
        "perplexity": 41.5,
        "stage_id": stage,
        "stage_dir": f"stages/{stage}",
    }
    for structure, stage in STAGES.items()
]


def mask_of(weight, structure):
    """The largest half of all, or the largest N of every M."""
    if structure is None:
        return weight.abs() > weight.abs().flatten().median()
    kept, group = map(int, structure.split(":"))
    scores = weight.abs().view(-1, group)
    chosen = scores.topk(kept, dim=1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, chosen, True).view_as(weight)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, tiny_llama_dir):
    """Three cells with real (random) weights under real masks, one that failed, a dense one."""
    failed = {**CELLS[0], "sparsity": 0.9, "status": "failed", "error": "loss is not finite"}
    dense = {"model": "tiny", "method": "dense", "regime": "dense", "sparsity": 0.0, "seed": None}
    dense |= {"round": 0, "perplexity": 27.66}
    sweep = StoredSweep(tmp_path_factory.mktemp("got") / "out", [*CELLS, failed, dense])
    for structure, stage in STAGES.items():
        with sweep.store.scratch.directory() as directory:
            for file in tiny_llama_dir.iterdir():
                (directory / file.name).write_bytes(file.read_bytes())
            weights = load_file(tiny_llama_dir / "model.safetensors")
            names = [n for n, w in weights.items() if "layers" in n and w.dim() == 2]
            masks = {n.removesuffix(".weight"): mask_of(weights[n], structure) for n in names}
            for name in names:
                weights[name] = weights[name] * masks[name.removesuffix(".weight")]
            save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
            save_masks(directory / "masks.safetensors", masks)
            sweep.store.stages.at(stage).publish(
                directory, {"id": stage, "kind": "prune", "metrics": {}}
            )
    sweep.record["sources"] = {
        "tiny": {"name": "tiny", "path_or_repo": str(tiny_llama_dir), "revision": None}
        | {"identity": "sha256:0"}
    }
    sweep.write_record()
    sweep.finish(0, 1, 2, 3, 4)
    return sweep


def stored_file(sweep, structure, name):
    folder = Path(sweep.store.files.join("stages", STAGES[structure]))
    return next(folder.rglob(name))


def cell_id(sweep, number):
    return sweep.rows[number]["cell_id"]


def get(sweep, number, destination, form="huggingface"):
    watched, rows = find_cell([Watched(sweep.store.root)], cell_id(sweep, number)[:10])
    return write_model(watched, rows, destination, form)


def test_the_model_loads_generates_and_is_as_sparse_as_its_row_says(sweep, tmp_path):
    told = get(sweep, 0, tmp_path / "model")
    assert "sparsity 0.5, perplexity 41.50 on wikitext2" in told[-1]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = tokenizer("ka lo", return_tensors="pt").input_ids
    assert model.generate(ids, max_new_tokens=3, min_new_tokens=3).shape[1] == ids.shape[1] + 3
    pruned = [p for n, p in model.named_parameters() if "layers" in n and p.dim() == 2]
    zeros, total = sum(int((p == 0).sum()) for p in pruned), sum(p.numel() for p in pruned)
    assert zeros / total == pytest.approx(0.5, abs=1e-3)
    assert not (tmp_path / "model" / "manifest.json").exists()


@pytest.mark.parametrize("form", ["huggingface", "compressed-tensors"])
def test_all_files_have_the_mode_of_new_files(sweep, tmp_path, form):
    if form != "huggingface":
        pytest.importorskip("compressed_tensors", reason="needs .[compressed]")
    get(sweep, 0, tmp_path / "model", form)
    (tmp_path / "new").touch()
    modes = {p.name: p.stat().st_mode for p in (tmp_path / "model").rglob("*") if p.is_file()}
    assert set(modes.values()) == {(tmp_path / "new").stat().st_mode}, modes


def test_the_card_says_how_it_was_made_and_how_good_it_is(sweep, tmp_path):
    get(sweep, 1, tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    head, body = card.split("---\n", 2)[1:]
    assert "library_name: transformers" in head and "- sparsegpt" in head
    for fact in ("2:4", "sparsegpt", "41.50", "27.66", "262,144 tokens", "sha256:0", "Licence"):
        assert fact in body, fact
    rows = json.loads((tmp_path / "model" / "rows.json").read_text())
    assert rows[0]["cell_id"] == cell_id(sweep, 1)


def test_the_licence_is_the_one_that_the_base_names(tmp_path, sweep):
    assert licence_of(tmp_path, None, None) is None
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\nA model.\n")
    assert licence_of(tmp_path, None, None) == "mit"
    (tmp_path / "LICENSE").write_text("MIT Licence")
    sweep.record["sources"]["tiny"]["path_or_repo"] = str(tmp_path)
    sweep.write_record()
    get(sweep, 0, tmp_path / "model")
    assert "\nlicense: mit\n" in (tmp_path / "model" / "README.md").read_text()
    assert (tmp_path / "model" / "LICENSE").read_text() == "MIT Licence"


@needs_compressed
@pytest.mark.parametrize(("number", "structure"), list(enumerate(STAGES)))
def test_the_sparse_form_is_smaller_and_reads_back_to_the_same_weights(
    sweep, tmp_path, monkeypatch, capsys, number, structure
):
    told = get(sweep, number, tmp_path / "model", "compressed-tensors")
    directory = tmp_path / "model"
    form = json.loads((directory / "config.json").read_text())["quantization_config"]
    sparse = form["sparsity_config"]
    assert sparse["format"] == ("sparse-24-bitmask" if structure == "2:4" else "sparse-bitmask")
    before = load_file(stored_file(sweep, structure, "model.safetensors"))
    after = dict(sparse_files.compressor(sparse).decompress(str(directory)))
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    sizes = [int(n.replace(",", "")) for n in told[1].split() if n.replace(",", "").isdigit()]
    assert sizes[1] == (directory / "model.safetensors").stat().st_size < 0.8 * sizes[0]
    (code,) = (directory / "README.md").read_text().split("```python\n")[1:]
    monkeypatch.chdir(directory)
    exec(code.split("```")[0], {})  # what the card tells its reader to run
    assert capsys.readouterr().out.strip()


@needs_compressed
def test_the_sparse_form_of_several_files_reads_back(tiny_llama_dir, tmp_path):
    model = load_model(tiny_llama_dir, torch.float32)
    matrices = prunable_matrices(model)
    for matrix in matrices.values():
        matrix.write_(torch.where(torch.rand(matrix.rows, matrix.cols) > 0.7, matrix.read(), 0))
    save_model(tmp_path, model, {}, Ranks.current(), "16KB")
    form = sparse_files.sparse_form(None, 0.7)
    before, after = sparse_files.compress_(tmp_path, matrices, form)
    assert after < 0.8 * before and len(weight_paths(tmp_path)) > 3
    found = dict(sparse_files.compressor(form).decompress(str(tmp_path)))
    wanted = dict(model.named_parameters())
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], weight) for name, weight in wanted.items())


def test_the_sparse_form_is_refused_where_its_library_is_absent(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="--format compressed-tensors: .*pip install"):
        get(sweep, 0, tmp_path / "model", "compressed-tensors")
    assert not (tmp_path / "model").exists()


def test_what_has_no_model_says_why(sweep, tmp_path):
    with pytest.raises(ValueError, match=r"failed, no model \(loss is not finite\)"):
        get(sweep, 3, tmp_path / "model")
    with pytest.raises(ValueError, match="this is the dense model itself"):
        get(sweep, 4, tmp_path / "model")


def test_prefixes_must_name_one_cell(sweep):
    watched = [Watched(sweep.store.root)]
    with pytest.raises(ValueError, match="no such cell"):
        find_cell(watched, "zz")
    with pytest.raises(ValueError, match="5 cells begin so: .*wanda|sparsegpt"):
        find_cell(watched, "")


def test_an_existing_directory_is_never_written_into(sweep, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists already; name a new directory"):
        get(sweep, 0, tmp_path / "model")
    assert os.listdir(tmp_path) == ["model"], "nothing is left beside it"


def test_damaged_files_are_refused(sweep, tmp_path):
    file = stored_file(sweep, "1:4", "config.json")
    whole = file.read_bytes()
    file.write_bytes(whole[:-2] + b" }")
    try:
        with pytest.raises(ValueError, match="its files are damaged .config.json has"):
            get(sweep, 2, tmp_path / "model")
    finally:
        file.write_bytes(whole)
    assert not (tmp_path / "model").exists()


FULL = (
    "python experiments/sweep_opt.py --models a b --methods=magnitude wanda --out-dir here "
    "--calibration.num-samples 8 --finetune.tokens 1024 --prune.block-size 64 "
    "--prune.dampening-frac 0.1 --schedule grid --keep none --retry-failed"
)
START = "python experiments/sweep_opt.py --out-dir here"


@pytest.mark.parametrize(
    ("cell", "command"),
    [
        (
            {"regime": "iterative", "schedule": "grid", "path": [0.3, 0.5]}
            | {"method_settings": '{"block_size": 64}'},
            f"{START} --calibration.num-samples 8 --finetune.tokens 1024 --prune.block-size 64 "
            "--schedule grid --models tiny --methods sparsegpt --regimes iterative "
            "--sparsities 0.3 0.5 --mask-structures --seeds 0 --keep final",
        ),
        (
            {"method": "magnitude", "calibration_text": None, "seed": None}
            | {"mask_structure": "2:4"},
            f"{START} --models tiny --methods magnitude --regimes oneshot --sparsities "
            "--mask-structures 2:4 --keep final",
        ),
    ],
)
def test_the_command_that_computes_a_cell_again_is_the_sweeps_narrowed(sweep, cell, command):
    row = sweep.rows[0] | cell
    assert recompute_command({"command": FULL}, row) == command
    words = shlex.split(command)[2:]
    config = parse(SweepConfig(), words, "")  # which refuses flags without effect
    assert config.grid.methods == (row["method"],) and config.output.keep == "final"
    assert len(config.grid.targets()) == len(row["path"] if "schedule" in cell else [1])


def test_weights_that_were_not_kept_come_with_the_command_that_computes_them(sweep, tmp_path):
    sweep.store.stages.drop_weights(STAGES["2:4"])
    with pytest.raises(ValueError, match="its weights were not kept; compute them again: python"):
        get(sweep, 1, tmp_path / "model")


def test_the_command_line_gets_a_model(sweep, tmp_path, capsys):
    out = sweep.store.root
    assert main([out, "--get", cell_id(sweep, 0)[:8], str(tmp_path / "model")]) == 0
    assert "tiny sparsegpt oneshot 0.5 seed 0: " in capsys.readouterr().out
    assert main([out, "--get", "zz", str(tmp_path / "other")]) == 2
    assert capsys.readouterr().err.startswith("error: --get zz: no such cell")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--format", "huggingface"], "--format has no effect: only --get reads it"),
        (["--figures", "svg"], "--figures has no effect: only --export reads it"),
        (["--export", "--port", "1"], "--port has no effect: nothing is served"),
        (["--port", "70000"], "--port 70000: use 1 to 65535"),
        (["--export", "--get", "a", "b"], "--export has no effect: with --get"),
        (["--frmat", "x"], "--frmat"),
    ],
)
def test_flags_without_effect_are_refused(sweep, capsys, flags, said):
    assert main([sweep.store.root, *flags]) == 2
    assert said in capsys.readouterr().err
