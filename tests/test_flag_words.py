"""Words of a command line: what is taken, and the one line that refuses the rest."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from core.checks import BadInputError
from orchestrator import cli
from orchestrator.browse import BrowseConfig
from orchestrator.config import SweepConfig
from orchestrator.flag_words import as_typed, checked_words
from orchestrator.flags import parse_flags
from orchestrator.help import flags_of

ROOT = Path(__file__).resolve().parents[1]
FLAGS = list(flags_of(SweepConfig, SweepConfig()))


def settings(line: str) -> dict[str, object]:
    """Return all settings that a command line gives, by name; those of training, not of joint."""
    config = cli.parse(SweepConfig(), line.split(), "test")
    names = [field.name for field in dataclasses.fields(config)]
    groups = [getattr(config, name) for name in sorted(names, key="joint".__ne__)]
    return {f.name: getattr(group, f.name) for group in groups for f in dataclasses.fields(group)}


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("--methods SparseGPT", "methods", ("sparsegpt",)),
        ("--methods sparse-gpt WANDA", "methods", ("sparsegpt", "wanda")),
        ("--methods wanda,Magnitude", "methods", ("wanda", "magnitude")),
        ("--regimes One-Shot", "regimes", ("oneshot",)),
        ("--schedule Cubic", "schedule", "cubic"),
        ("--dtype BFloat16", "dtype", "bfloat16"),
        ("--finetune.trainable MaskLoRA", "trainable", "masklora"),
        ("--finetune.objective next-token", "objective", "next_token"),
        ("--keep FINAL", "keep", "final"),
        ("--trackers WandB,MLflow", "trackers", ("wandb", "mlflow")),
        ("--sparsities 0.3,0.5", "sparsities", (0.3, 0.5)),
        ("--sparsities 0.3, 0.5", "sparsities", (0.3, 0.5)),
        ("--sparsities 0.3 0.5,0.7", "sparsities", (0.3, 0.5, 0.7)),
        ("--sparsities=0.3,0.5", "sparsities", (0.3, 0.5)),
        ("--sparsities --mask-structures 2:4,4:8", "mask_structures", ("2:4", "4:8")),
        ("--seeds 0,1,2", "seeds", (0, 1, 2)),
        ("--seeds 0,1", "seeds", (0, 1)),
        ("--seeds 3.0", "seeds", (3,)),
        ("--finetune.tokens 1e6", "tokens", 1_000_000),
        ("--finetune.tokens=65_536", "tokens", 65_536),
        ("--finetune.lr 1e-4,3e-4", "lr", (1e-4, 3e-4)),
        ("--finetune.lr 1e-4", "lr", 1e-4),
        ("--num_workers 2", "num_workers", 2),
        ("--num-workers=2", "num_workers", 2),
        ("--no-use-gpu", "use_gpu", False),
        ("--eval.texts embedded,c4", "texts", ("embedded", "c4")),
        ("--eval.tasks piqa,arc_easy", "tasks", ("piqa", "arc_easy")),
        ("--models a/b,c/d", "models", ("a/b", "c/d")),
    ],
)
def test_many_spellings_are_taken(line, name, value):
    assert settings(line)[name] == value


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--nosuch 1", "--nosuch is unknown: --help lists all flags"),
        ("--method wanda", "--method is unknown: did you mean --methods?"),
        ("--sparsity 0.5", "--sparsity is unknown: did you mean --sparsities?"),
        ("--numworkers 2", "did you mean --num-workers?"),
        ("--num-samples 4", "did you mean --calibration.num-samples?"),
        ("--calibration.nsamples 4", "did you mean --calibration.num-samples"),
        ("--eval.text embedded", "did you mean --eval.texts"),
        ("--grid.models embedded", "--grid.models is unknown: did you mean --models?"),
        ("--seq-len 64", "--calibration.seq-len or --finetune.seq-len or --eval.seq-len?"),
        ("--Models embedded", "did you mean --models?"),
        ("-models embedded", "-models is unknown: did you mean --models?"),
        ("\u2013-models embedded", "\u2013-models is unknown: did you mean --models?"),
        ("--no-sparsities", "did you mean --sparsities?"),
        ("--finetune.no-distil", "did you mean --finetune.distill"),
        ("--", "-- is unknown"),
        ("embedded", "'embedded' stands before every flag"),
        ("--methods sparsgpt", "--methods 'sparsgpt' is unknown: did you mean 'sparsegpt'?"),
        ("--methods Sparsgpt", "--methods 'Sparsgpt' is unknown: did you mean 'sparsegpt'?"),
        ("--regimes oneshott", "did you mean 'oneshot'?"),
        ("--schedule lineer", "--schedule 'lineer' is unknown: did you mean 'linear'?"),
        ("--dtype bf16", "did you mean 'bfloat16'?"),
        ("--prune.refine swap", "--prune.refine 'swap' is unknown: did you mean 'swaps'?"),
        ("--trackers tensorboard", "--trackers 'tensorboard' is unknown: known are wandb, mlflow"),
        ("--num-workers two", "--num-workers two: give a whole number"),
        ("--num-workers 1.5", "--num-workers 1.5: give a whole number"),
        ("--num-workers inf", "--num-workers inf: give a whole number"),
        ("--num-workers 1 2", "--num-workers 1 2: takes only INT"),
        ("--num-workers", "--num-workers : give a value after it (INT)"),
        ("--num-workers --use-gpu", "--num-workers : give a value after it (INT)"),
        ("--finetune.tokens 32k", "--finetune.tokens 32k: give a whole number"),
        ("--finetune.tokens 32,768", "--finetune.tokens 32,768: give a whole number"),
        ("--finetune.lr high", "--finetune.lr high: give a number"),
        ("--sparsities half", "--sparsities half: give a number"),
        ("--sparsities 0.3;0.5", "--sparsities 0.3;0.5: give a number"),
        ("--sparsities [0.3,0.5]", "--sparsities [0.3,0.5]: give a number"),
        ("--sparsities 50%", "--sparsities 50%: write 0.5"),
        ("--sparsities 0,5", "--sparsities 0,5: write 0.5, or 0 5 for two values"),
        ("--sparsities 0.3,,0.5", "--sparsities '0.3,,0.5': a value is empty"),
        ("--sparsities=", "--sparsities '': a value is empty"),
        ("--out-dir=", "--out-dir '': a value is empty"),
        ("--use-gpu true", "--use-gpu true: takes no value; give it alone, or --no-use-gpu"),
        ("--use-gpu=false", "--use-gpu=false: takes no value"),
        ("--finetune.distill yes", "give it alone, or --finetune.no-distill"),
        ("--keep none --keep all", "--keep is given twice; give a flag once"),
        ("--use-gpu --no-use-gpu", "--no-use-gpu repeats --use-gpu"),
        ("--num-workers 1 --num_workers 2", "--num_workers repeats --num-workers"),
        # Values that the settings refuse are told as they were typed.
        ("--sparsities 50", "--sparsities 50: a sparsity is a fraction between 0 and 1"),
        ("--sparsities 0.5,50", "--sparsities 50: a sparsity is a fraction between 0 and 1"),
        ("--timeout-seconds -3", "--timeout-seconds -3: use a positive number of seconds"),
        ("--timeout-seconds inf", "--timeout-seconds inf: use a positive number of seconds"),
        ("--finetune.lr 1e999", "--finetune.lr 1e999: use a positive number"),
        ("--cpu-offload", "--cpu-offload: has no effect without --use-gpu"),
        ("--seeds -1", "--seeds -1: use 0 to 2^63 - 1"),
        ("--seeds 1e30", "--seeds 1e30: use 0 to 2^63 - 1"),
        ("--schedule linear --num-rounds 1e9", "--num-rounds 1e9: use 1 to 1000"),
        ("--mask-structures 2-4", "--mask-structures '2-4': write N:M"),
        ("--regimes oneshot --finetune.lr 0.1", "no chosen regime trains"),
    ],
)
def test_the_rest_is_refused_in_one_line_that_repeats_it(line, message):
    with pytest.raises(BadInputError) as caught:
        settings(line)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_no_flag_takes_an_empty_value():
    for flag in (flag for flag in FLAGS if flag.values):
        with pytest.raises(BadInputError, match=f"^{flag.name} '': a value is empty"):
            checked_words([flag.name, *[""] * len(flag.values.split())], FLAGS)


def test_every_misspelt_flag_has_its_flag_suggested():
    for name in (flag.name for flag in FLAGS):
        for word in (name.upper(), name + "x", name[:-1]):
            with pytest.raises(BadInputError) as caught:
                checked_words([word, "1"], FLAGS)
            start, hint = str(caught.value).split(" is unknown: did you mean ")
            assert start == word and name in hint.removesuffix("?").split(" or ")


def test_the_comma_of_an_existing_path_is_a_character(tmp_path, monkeypatch):
    path = tmp_path / "a,b.txt"
    path.write_text("words")
    assert checked_words(["--eval.texts", str(path)], FLAGS) == [f"--eval.texts={path}"]
    for text in (f"c4={path}", f"{path}#words", f"c4:validation={path}"):
        assert checked_words(["--eval.texts", text], FLAGS) == [f"--eval.texts={text}"]
    monkeypatch.setenv("HERE", str(tmp_path))
    assert checked_words(["--eval.texts", "$HERE/a,b.txt"], FLAGS) == ["--eval.texts=$HERE/a,b.txt"]
    assert checked_words(["--eval.texts", "c,d"], FLAGS) == ["--eval.texts", "c", "d"]


def test_a_long_value_is_repeated_whole():
    with pytest.raises(BadInputError, match=f"^--mask-structures '{'x' * 300}': write N:M"):
        settings(f"--mask-structures {'x' * 300}")


@pytest.mark.parametrize(
    "words",
    [
        ["out", "other", "--export"],
        ["--export", "out", "other"],
        ["--export-dir", "d", "out", "other", "--export"],
        ["out", "--export", "other"],
    ],
)
def test_words_that_no_flag_takes_are_out_dirs(words):
    config = parse_flags(BrowseConfig, words)
    assert config.out_dirs == ("out", "other") and config.export


def test_a_flag_with_two_values_takes_two():
    assert parse_flags(BrowseConfig, ["--get", "a", "b", "out"]).get == ("a", "b")
    with pytest.raises(BadInputError, match=r"--get a: give a value after it \(STR STR\)"):
        parse_flags(BrowseConfig, ["out", "--get", "a"])


def test_a_switch_is_told_without_the_value_that_the_code_looked_at():
    error = BadInputError("--use-gpu 2: needs 2 GPUs; there are 0")
    error.flag, error.value = "use-gpu", 2
    assert as_typed(error, ["--use-gpu", "--num-workers", "2"]).startswith("--use-gpu: needs 2")
    assert as_typed(error, []).startswith("--use-gpu 2: needs 2")


def test_a_wrong_flag_loads_no_heavy_library():
    code = (
        "import sys; from orchestrator.cli import prune_sweep; sys.argv[1:] = ['--nosuch']; "
        "code = prune_sweep(); print(code, {'torch', 'ray', 'pandas', 'transformers', 'datasets'} "
        "& set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "2 set()\n" and done.stderr.count("\n") == 1
