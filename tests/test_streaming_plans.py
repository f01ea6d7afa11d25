"""Plans for models that fit no card and no machine whole, from their config alone."""

import re
from dataclasses import replace

import pytest
from transformers import LlamaConfig

from core.checks import BadInputError
from core.config import FinetuneConfig
from core.models import sources
from core.models.description import describe_model
from core.models.sources import ModelSource, is_stored, resolve_model
from orchestrator import cli, sweep
from orchestrator.config import GridConfig, SweepConfig
from orchestrator.estimate.devices import GIB, GPUS
from orchestrator.estimate.forecast import on_gpu
from orchestrator.estimate.model_cost import ModelCost
from orchestrator.estimate.plans import Machine, plan_lines, require_training_fits, way_to_run
from orchestrator.plan.inputs import CalibrationText, EvaluationText, ModelInputs
from orchestrator.plan.planner import Planner

LLAMA_70B = LlamaConfig(
    vocab_size=32_000,
    hidden_size=8192,
    intermediate_size=28_672,
    num_hidden_layers=80,
    num_attention_heads=64,
    num_key_value_heads=8,
    dtype="bfloat16",
)
INPUTS = ModelInputs(
    name="m",
    identity="m",
    dtype="bfloat16",
    training_dtype="bfloat16",
    calibration=CalibrationText("c", "c" * 64, 128, 2048, "documents"),
    finetune=None,
    finetune_tokens=0,
    batch_tokens=0,
    evaluations=(EvaluationText("test", "e", 2048, 2048),),
)


@pytest.fixture(scope="module")
def cost(tmp_path_factory):
    """Counts of LLaMA-70B on a CPU."""
    folder = tmp_path_factory.mktemp("llama")
    LLAMA_70B.save_pretrained(folder)
    return ModelCost(describe_model(ModelSource("m", str(folder), None, "m")), INPUTS, "cpu")


def test_a_model_of_70b_has_a_plan_for_one_card_for_eight_and_for_a_small_machine(cost):
    card = on_gpu(cost, "A100")
    machines = [
        Machine("here", cost, 1, 24 * GIB, 2048),
        Machine("one", card, 1, GPUS["A100"].usable_bytes, 16_384),
        Machine("eight", card, 8, GPUS["A100"].usable_bytes, 16_384),
        Machine("huge", cost, 1, 999 * GIB, 2048),
        Machine("laptop", cost, 1, 8 * GIB, 2048),
        Machine("watch", cost, 1, 2 * GIB, 2048),
    ]
    ways = [way_to_run(machine) for machine in machines]
    assert [way for way, _ in ways] == [
        "streamed",
        "streamed",
        "in shards",
        "whole",
        "streamed, only magnitude or wanda",
        "does not fit",
    ]
    assert all(size <= m.usable_bytes for m, (_, size) in zip(machines[:5], ways[:5]))
    # A block of 0.86e9 weights, the old and the new; Hessians of 8192 and 28,672 inputs.
    assert 10 * GIB < ways[1][1] < 40 * GIB


def test_eight_cards_take_less_time_than_one_and_the_lines_tell_all(cost):
    grid = GridConfig(
        models=("m",), methods=("sparsegpt",), regimes=("oneshot",), sparsities=(0.5,)
    )
    stages = Planner(grid, SweepConfig().prune, SweepConfig().finetune).build([INPUTS]).stages
    card = on_gpu(cost, "A100")
    machines = [Machine(f"{n} x A100", card, n, 74 * GIB, 16_384) for n in (1, 8)]
    head, one, eight = plan_lines(machines, stages.values(), dict.fromkeys(stages, 300_000))
    assert head.split("  ")[-1].strip() == "hours" and "1 x A100: streamed" in one
    assert "GiB a worker" in head and "GiB host or disk" in head
    hours = [float(line.split()[-2]) for line in (one, eight)]
    assert hours[0] / 8 < hours[1] < hours[0] / 2


def test_columns_stay_below_their_heads_whatever_the_longest_row(cost):
    machines = [Machine(n, cost, 1, 8 * GIB, 2048) for n in ("here", "another machine of ours")]
    head, *rows = plan_lines(machines, (), {})
    assert [row.index(" GiB") if " GiB" in row else len(row) for row in rows] == [len(head)] * 2
    assert rows[1].startswith("  another machine of ours: streamed, only magnitude or wanda ")


def test_training_that_does_not_fit_names_every_flag_that_helps(cost):
    def said(**changes):
        with pytest.raises(BadInputError) as error:
            require_training_fits(replace(cost, **changes), 9 * GIB, 8 * GIB)
        return set(re.findall(r"--[\w-]+", str(error.value))) - {"--models"}

    always = {"--micro-batch-tokens", "--num-workers", "--regimes"}
    assert said() == always | {"--activation-checkpointing"}
    assert said(device="cuda") == always | {"--activation-checkpointing", "--cpu-offload"}
    assert said(device="cuda", cpu_offload=True, recompute=True) == always
    assert said(finetune=FinetuneConfig(objective="reconstruct")) == always


@pytest.fixture
def bare(tiny_llama_dir, tmp_path):
    """A directory with config and tokenizer, and no weights."""
    folder = tmp_path / "bare"
    folder.mkdir()
    for path in tiny_llama_dir.iterdir():
        if "safetensors" not in path.name:
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_a_dry_run_needs_no_weights(bare, write_texts, tmp_path, capsys):
    write_texts(tmp_path)
    flags = ["--models", bare, "--regimes", "oneshot", "--methods", "wanda", "--sparsities", "0.5"]
    flags += ["--calibration.text", tmp_path / "calibration.txt", "--calibration.seq-len", "32"]
    flags += ["--eval.texts", tmp_path / "test.txt", "--eval.seq-len", "32"]
    flags += ["--out-dir", tmp_path / "out"]

    def run(*further):
        config = cli.parse(SweepConfig(), [*map(str, flags), *further], "")
        return sweep.run_sweep(config)

    assert run("--dry-run") == 0
    assert "its weights are not here" in capsys.readouterr().out
    with pytest.raises(BadInputError, match="has no .*safetensors"):
        run()
    assert not (tmp_path / "out").exists()


def test_a_hub_name_needs_its_cached_config_alone(monkeypatch):
    def commit(repo, file, revision, kind):
        if file == "config.json":
            return "a" * 40
        raise ConnectionError("no network")

    monkeypatch.setattr(sources, "hub_commit", commit)
    found = resolve_model("some/model", needs_weights=False)
    assert (found.revision, found.identity) == ("a" * 40, "a" * 40) and not is_stored(found)
    with pytest.raises(ValueError):
        resolve_model("some/model")


def test_training_beyond_the_memory_here_is_refused_in_one_line(two_cells, tmp_path, monkeypatch):
    training = FinetuneConfig(text=str(tmp_path / "train.txt"), seq_len=32)
    grid = replace(two_cells.grid, regimes=("finetune",))
    config = replace(two_cells, grid=grid, finetune=training)
    monkeypatch.setattr(sweep, "usable_bytes", lambda *_: 1e4)
    with pytest.raises(BadInputError, match="training takes about .* --regimes oneshot") as error:
        sweep.run_sweep(config)
    assert len(str(error.value).splitlines()) == 1 and not (tmp_path / "out").exists()
