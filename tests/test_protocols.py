"""Named protocols: texts, windows and strides as each paper's code has them."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import get_args

import datasets
import pytest

from core.config import CalibrationConfig, EvalConfig, FinetuneConfig
from core.models.tokenizers import load_tokenizer
from core.texts.content import joined
from core.texts.protocols import PROTOCOLS, ProtocolName
from core.texts.sources import resolve_text
from core.texts.windows import calibration_windows
from orchestrator.config import GridConfig, OutputConfig, SweepConfig
from orchestrator.inputs.tokens import COUNTS, missing_tokens
from orchestrator.plan.kinds import Evaluate
from orchestrator.preparation import Sweep, prepare

WINDOW = 128


@pytest.fixture(scope="module")
def tokenizer(tiny_opt_dir):
    return load_tokenizer(tiny_opt_dir)


@pytest.fixture
def prepared(tmp_path):
    """Resolves a sweep of one model under a protocol; writes nothing."""

    def prepare_(model, protocol, *, evaluation=None, calibration=None, **grid) -> Sweep:
        settings = {"methods": ("wanda",), "regimes": ("oneshot",), "sparsities": (0.5,)}
        return prepare(
            SweepConfig(
                grid=GridConfig(models=(str(model),), protocol=protocol, **(settings | grid)),
                calibration=calibration or CalibrationConfig(num_samples=4),
                finetune=FinetuneConfig(tokens=40_000),
                eval=evaluation or EvalConfig(),
                output=OutputConfig(out_dir=str(tmp_path / "out")),
            )
        )

    return prepare_


def column(path, name="text") -> list[str]:
    return list(datasets.Dataset.from_parquet(str(path))[name])


def shard(path) -> list[str]:
    return [json.loads(line)["text"] for line in gzip.open(path, "rt")]


def document_windows(rows, tokenizer, count: int, seed: int) -> list[list[int]]:
    """The loop of the original `get_c4`."""
    random.seed(seed)
    windows = []
    for _ in range(count):
        while True:
            ids = tokenizer(rows[random.randint(0, len(rows) - 1)])["input_ids"]
            if len(ids) > WINDOW:
                break
        start = random.randint(0, len(ids) - WINDOW - 1)
        windows.append(ids[start : start + WINDOW])
    return windows


def evaluated_tokens(sweep: Sweep) -> list[list[int]]:
    """The token streams that the evaluate stages read."""
    stages = [s for s in sweep.plan.stages.values() if isinstance(s.work, Evaluate)]
    found = missing_tokens(sweep.models, stages, sweep.store)
    return [tokens.tolist() for name, tokens in found.items() if not name.endswith(COUNTS)]


def test_every_protocol_can_be_named():
    assert tuple(PROTOCOLS) == get_args(ProtocolName)


@pytest.mark.parametrize(
    ("name", "file", "kind"),
    [
        ("wikitext2", "wikitext-2-raw-v1/train-00000-of-00001.parquet", "text"),
        ("ptb", "penn_treebank/train/0000.parquet", "sentence"),
    ],
)
@pytest.mark.parametrize(
    ("protocol", "joiner"),
    [("sparsegpt", " "), ("wanda", " "), ("alps", "\n\n"), ("prune-and-tune", " ")],
)
def test_streams_are_sampled_as_the_original_loader_samples_them(
    hub_texts, tokenizer, protocol, joiner, name, file, kind
):
    rows = column(hub_texts / file, kind)
    stream = tokenizer(joiner.join(rows), verbose=False)["input_ids"]
    text = PROTOCOLS[protocol].resolve(name, "calibration")
    found = calibration_windows(text, tokenizer, 8, WINDOW, None, seed=5)
    random.seed(5)
    starts = [random.randint(0, len(stream) - WINDOW - 1) for _ in range(8)]
    assert found.tolist() == [stream[start : start + WINDOW] for start in starts]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_c4_is_sampled_as_the_original_loader_samples_it(hub_texts, tokenizer, protocol):
    rows = shard(hub_texts / "en" / "c4-train.00000-of-01024.json.gz")
    text = PROTOCOLS[protocol].resolve("c4", "calibration")
    found = calibration_windows(text, tokenizer, 8, WINDOW, None, seed=5)
    assert found.tolist() == document_windows(rows, tokenizer, 8, seed=5)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_wikitext_is_evaluated_joined_by_empty_lines(hub_texts, protocol):
    rows = column(hub_texts / "wikitext-2-raw-v1" / "test-00000-of-00001.parquet")
    assert joined(PROTOCOLS[protocol].resolve("wikitext2", "evaluation")) == "\n\n".join(rows)


@pytest.mark.parametrize(
    ("protocol", "part", "joiner"),
    [("sparsegpt", "test", " "), ("wanda", "test", " "), ("alps", "validation", "\n\n")],
)
def test_ptb_is_read_as_the_original_reads_it(hub_texts, protocol, part, joiner):
    rows = column(hub_texts / "penn_treebank" / part / "0000.parquet", "sentence")
    text = PROTOCOLS[protocol].resolve("ptb", "evaluation")
    assert joined(text) == joiner.join(rows) and text.name == "ptb"


def test_a_part_that_is_named_wins(hub_texts):
    text = PROTOCOLS["alps"].resolve("ptb:test", "evaluation")
    assert "penn_treebank/test" in text.part


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("ptb", "penn_treebank/{}/0000.parquet"),
        ("wikitext2", "wikitext-2-raw-v1/{}-00000-of-00001.parquet"),
        ("c4", "en/c4-validation.00000-of-00008.json.gz"),
    ],
)
def test_a_local_copy_is_evaluated_as_the_hubs_text_is(
    hub_texts, prepared, tiny_opt_dir, protocol, name, file
):
    part = "validation" if (protocol, name) == ("alps", "ptb") else "test"
    copy = f"{name}={hub_texts / file.format(part)}"
    texts, inputs = [], []
    for given in (name, copy):
        evaluation = EvalConfig(texts=(given,), seq_len=128, stride=128)
        sweep = prepared(tiny_opt_dir, protocol, evaluation=evaluation)
        (one,) = sweep.models[0].inputs.evaluations
        inputs.append(one)
        texts.append(sweep.models[0].texts[one.text])
        works = [stage.work for stage in sweep.plan.stages.values()]
        assert {work.text.name for work in works if isinstance(work, Evaluate)} == {name}
    assert inputs[0].name == inputs[1].name == name, "rows compare as that text"
    assert joined(texts[0]) == joined(texts[1])
    ids = [one.text for one in inputs]
    assert replace(inputs[0], text="") == replace(inputs[1], text="")
    assert ids[0].split(" ", 1)[1] == ids[1].split(" ", 1)[1] and ids[0] != ids[1]


def test_evaluation_texts_of_equal_contents_are_told_as_such(prepared, tmp_path, tiny_opt_dir):
    content = joined(resolve_text("embedded", "evaluation"))
    names = [str(tmp_path / name) for name in ("a.txt", "b.txt", "c.raw")]
    for name in names:
        Path(name).write_text(content, encoding="utf-8")
    calibration = CalibrationConfig(text="embedded", num_samples=4)

    def evaluate(*texts: str) -> Sweep:
        texts_of = EvalConfig(texts=texts)
        return prepared(tiny_opt_dir, "sparsegpt", evaluation=texts_of, calibration=calibration)

    with pytest.raises(ValueError, match=r"^--eval.texts .*b.txt: .*a.txt is evaluated already"):
        evaluate(*names)
    # Read as prose and as rows of WikiText it is two texts.
    evaluations = evaluate(names[0], names[2]).models[0].inputs.evaluations
    assert [text.name for text in evaluations] == [names[0], names[2]]


def test_one_text_is_not_evaluated_twice_nor_used_in_two_roles(hub_texts, prepared, tiny_opt_dir):
    copy = hub_texts / "penn_treebank" / "test" / "0000.parquet"
    evaluation = EvalConfig(texts=("ptb", f"ptb={copy}"))
    with pytest.raises(ValueError, match="^--eval.texts ptb=.*: ptb is evaluated already"):
        prepared(tiny_opt_dir, "sparsegpt", evaluation=evaluation)
    calibration = CalibrationConfig(text=f"ptb:test={copy}", num_samples=4)
    with pytest.raises(ValueError, match="^--eval.texts ptb: is the same text as --calibration"):
        prepared(
            tiny_opt_dir,
            "sparsegpt",
            evaluation=EvalConfig(texts=("ptb",)),
            calibration=calibration,
        )


def test_local_and_embedded_texts_are_the_same_under_every_protocol(tiny_text_file):
    for name in (str(tiny_text_file), "embedded"):
        plain = resolve_text(name, "calibration")
        assert all(p.resolve(name, "calibration") == plain for p in PROTOCOLS.values())


@pytest.mark.parametrize("protocol", ["sparsegpt", "wanda"])
def test_c4_is_evaluated_on_its_first_256_windows(hub_texts, prepared, tiny_opt_dir, protocol):
    sweep = prepared(tiny_opt_dir, protocol, evaluation=EvalConfig(texts=("c4", "wikitext2")))
    c4, wikitext = sweep.models[0].inputs.evaluations
    assert (c4.max_windows, wikitext.max_windows) == (256, None)
    evaluation = EvalConfig(texts=("c4",), max_windows=3)
    (c4,) = prepared(tiny_opt_dir, protocol, evaluation=evaluation).models[0].inputs.evaluations
    assert c4.max_windows == 3


def test_alps_evaluates_c4_on_random_windows_of_its_documents(
    hub_texts, prepared, tiny_opt_dir, tokenizer
):
    rows = shard(hub_texts / "en" / "c4-validation.00000-of-00008.json.gz")
    sweep = prepared(tiny_opt_dir, "alps", evaluation=EvalConfig(texts=("c4",)), seeds=(7,))
    windows = document_windows(rows, tokenizer, 256, seed=0)
    assert evaluated_tokens(sweep) == [[token for window in windows for token in window]]


def test_the_same_text_in_two_protocols_is_two_token_streams(hub_texts, prepared, tiny_opt_dir):
    evaluation = EvalConfig(texts=("c4",))
    one, other = (
        evaluated_tokens(prepared(tiny_opt_dir, protocol, evaluation=evaluation))
        for protocol in ("sparsegpt", "alps")
    )
    assert one != other


def test_c4_without_a_long_document_is_refused_in_one_line(
    hub_texts, prepared, make_model_dir, tiny_opt_dir
):
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(tiny_opt_dir)
    config.max_position_embeddings = 1024
    sweep = prepared(make_model_dir(config), "alps", evaluation=EvalConfig(texts=("c4",)))
    with pytest.raises(ValueError, match="^--eval.texts c4: none of .*lower --eval.seq-len$"):
        evaluated_tokens(sweep)


@pytest.mark.parametrize(
    ("protocol", "calibration", "evaluation", "stride", "text"),
    [
        ("sparsegpt", 2048, 2048, 2048, "c4"),
        ("wanda", 4096, 4096, 4096, "c4"),
        ("alps", 2048, 2048, 2048, "c4"),
        ("prune-and-tune", 2048, 1024, 512, "wikitext2"),
    ],
)
def test_windows_and_training_text(
    hub_texts, prepared, make_model_dir, protocol, calibration, evaluation, stride, text
):
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=4096,
    )
    sweep = prepared(make_model_dir(config), protocol, regimes=("finetune",))
    inputs = sweep.models[0].inputs
    assert inputs.calibration is not None and inputs.finetune is not None
    assert inputs.calibration.seq_len == calibration
    (test,) = inputs.evaluations
    assert (test.seq_len, test.stride) == (evaluation, stride)
    assert (inputs.finetune.name, inputs.finetune.seq_len) == (text, 2048)
