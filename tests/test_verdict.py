"""The output and exit code of presets after a sweep, from rows that lie in the out-dir."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from core.models.weight_writer import write_header
from orchestrator.results.parquet import write_parquet

make_row = runpy.run_path(str(Path(__file__).with_name("synthetic_rows.py")))["make_row"]
EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
GROUPS = {"eval": {"max_windows": None}, "calibration": {"sampling": None}}
SPARSEGPT = {
    "method": "sparsegpt",
    "method_settings": json.dumps({"block_size": 128, "dampening_frac": 0.01}),
}
DENSE = {"method": "dense", "regime": "dense", "sparsity": 0.0, "seed": None}


@pytest.fixture(scope="module")
def opt_125m(tmp_path_factory) -> Path:
    """A directory that its config makes OPT-125M; its weights are a hole in a file."""
    directory = tmp_path_factory.mktemp("weights")
    OPTConfig().save_pretrained(directory)
    with torch.device("meta"):
        weights = OPTForCausalLM(OPTConfig()).state_dict()
    del weights["lm_head.weight"]  # tied
    with open(directory / "model.safetensors", "wb") as file:
        begins = write_header(file, weights, {"format": "pt"})
        file.truncate(max(begins[name] + each.nbytes for name, each in weights.items()))
    return directory


@pytest.fixture
def judge(opt_125m, hub_texts, tmp_path, monkeypatch, capsys):
    """Verdict of a preset's script over these rows of one model: exit code and output."""

    def call(name, rows, model=None, protocol="sparsegpt", **grid):
        verdicts = []

        def main(preset, _, verdict):
            config = replace(preset.grid, models=(str(model or opt_125m),), **grid)
            output = replace(preset.output, out_dir=str(tmp_path / "out"))
            verdicts.append(verdict(replace(preset, grid=config, output=output)))
            return verdicts[0]

        monkeypatch.setattr("orchestrator.cli.main", main)
        known = {"model": str(model or opt_125m), "protocol": protocol}
        known |= {"config": json.dumps(GROUPS)}
        stored = [make_row(**(known | row)) for row in rows]
        write_parquet(stored, tmp_path / "out" / "results.parquet")
        with pytest.raises(SystemExit) as exited:
            runpy.run_path(str(EXPERIMENTS / f"{name}.py"), run_name="__main__")
        return exited.value.code, capsys.readouterr().out

    return call


def test_values_within_their_bounds_exit_0(judge):
    rows = [
        DENSE | {"perplexity": 27.66},
        DENSE | {"perplexity": 26.56, "eval_text": "c4"},
        SPARSEGPT | {"perplexity": 37.1},
    ]
    code, said = judge("reproduce_sparsegpt", rows)
    assert code == 0 and said.splitlines()[-1] == "3 of 3 judged values within their bounds"
    words = [line.split() for line in said.splitlines() if line.startswith("opt-125m")]
    assert ["opt-125m", "wikitext2", "sparsegpt", "0.5", "37.10", "36.85", "+0.7%"] == words[2][:7]
    assert "dense and magnitude, which draw nothing, were chosen here" in said


def test_a_value_outside_exits_1(judge):
    rows = [DENSE | {"perplexity": 27.66}, SPARSEGPT | {"perplexity": 57.0}]
    code, said = judge("reproduce_sparsegpt", rows)
    assert code == 1 and "OUTSIDE" in said
    assert said.endswith("1 of 2 judged values within their bounds\n")


def test_a_run_that_judged_nothing_reproduced_nothing(judge, tiny_opt_dir):
    foreign = DENSE | {"perplexity": 27.66, "eval_seq_len": 512, "eval_stride": 512}
    code, said = judge("reproduce_sparsegpt", [foreign])
    assert code == 1 and "not judged: --eval.seq-len 512" in said
    assert said.endswith("nothing was judged, so nothing is reproduced\n")
    code, said = judge("reproduce_sparsegpt", [DENSE | {"perplexity": 27.66}], model=tiny_opt_dir)
    assert code == 1 and "papers report on no model of these sizes" in said
    assert said.endswith(
        "nothing was judged: the SparseGPT paper and the SLiM paper report on no cell here\n"
    )


@pytest.mark.parametrize(
    ("name", "who"),
    [
        ("reproduce_sparsegpt", "the SparseGPT paper and the SLiM paper say"),
        ("reproduce_prune_and_tune", "these claims say"),
    ],
)
def test_a_hub_model_that_no_paper_knows_is_named(judge, monkeypatch, name, who):
    monkeypatch.setattr("orchestrator.publish.verdict.models_of", lambda _: {"gpt2": "gpt2"})
    code, said = judge(name, [DENSE | {"perplexity": 30.0}], model="gpt2")
    assert code == 1 and f"gpt2: {who} nothing about gpt2" in said and "nothing was judged" in said


def tuned(iterative, finetuned):
    """Iterative and fine-tuned SparseGPT at 0.6 under the figure's protocol."""
    known = SPARSEGPT | {"sparsity": 0.6, "eval_seq_len": 1024, "eval_stride": 512}
    return [
        known | {"regime": "iterative", "perplexity": iterative},
        known | {"regime": "finetune", "perplexity": finetuned},
    ]


@pytest.mark.parametrize(
    ("rows", "code", "end"),
    [
        (tuned(40.0, 50.0), 0, ": 40.00 against 50.00: holds\n"),
        (tuned(50.0, 40.0), 1, ": does NOT hold\n"),
        (tuned(40.0, 40.1), 1, "nothing was judged, so nothing is reproduced\n"),
        ([], 1, "nothing was judged, so nothing is reproduced\n"),
    ],
)
def test_claims_of_prune_and_tune(judge, rows, code, end):
    found, said = judge("reproduce_prune_and_tune", rows, protocol="prune-and-tune")
    claims = said.split("facebook/opt-125m: magnitude iterative")[0]
    assert found == code and (claims.endswith(end) or said.endswith(end))
    assert "prints no table" in said and "none is compared with" in said
    assert "27.66" not in said, "the value of other windows"
