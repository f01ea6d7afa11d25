"""Tiny random stand-ins for models, tokenizers and texts, shared by all test modules."""

from __future__ import annotations

import gzip
import json
import random
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    OPTConfig,
    PreTrainedConfig,
    TokenizersBackend,
)

from core import accelerator
from core.config import CalibrationConfig, EvalConfig
from core.texts.named_texts import NAMED

SHARED = Path(__file__).resolve().parents[2] / "shared"
VOCAB = 320
LONGEST = ("faults_ray", "small_ray", "search_sweep", "browse_sweep", "pretended_gpu", "types")
LONGEST += ("two_nodes", "recovery_ranks", "parallel", "elsa", "cluster_yaml", "stored_sweep")
"""Files of tests that take longest, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that no process waits for one at the end."""
    place = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def words(count: int, seed: int) -> str:
    """Seeded nonsense prose of `count` words in sentences."""
    source = random.Random(seed)
    syllables = ["ka", "lo", "mi", "ren", "tus", "or", "a", "pel", "shi", "ning"]
    text = []
    for index in range(count):
        word = "".join(source.choices(syllables, k=source.randint(1, 4)))
        text.append(word + ("." if index % 11 == 10 else ""))
    return " ".join(text)


@pytest.fixture(scope="session", autouse=True)
def late_ray() -> Iterator[None]:
    """Commands that tests run in their own process start no Ray while they plan."""
    # The tests of core run where there is no orchestrator.
    cli = sys.modules.get("orchestrator.cli")
    with pytest.MonkeyPatch.context() as patch:
        if cli is not None:
            patch.setattr(cli, "begin_connection", lambda config: None)
        yield


def save_tokenizer(directory: Path, max_length: int = 128) -> None:
    """A byte-level BPE tokenizer of 320 ids that puts `</s>` (id 2) first, as OPT's does."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([words(2000, seed=0)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", special_tokens=[("</s>", 2)]
    )
    TokenizersBackend(
        tokenizer_object=tokenizer,
        bos_token="</s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=max_length,
    ).save_pretrained(directory)


def save_model(directory: Path, config: PreTrainedConfig, seed: int = 0) -> Path:
    """A random model of `config` and a tokenizer, as an ordinary checkpoint directory."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for name, parameter in model.named_parameters():
            # Biases and norm scales start at 0 and 1, which would hide mistakes with them.
            if parameter.dim() == 1:
                torch.nn.init.normal_(parameter, float("norm" in name), 0.1)
    model.save_pretrained(directory)
    save_tokenizer(directory, getattr(config, "max_position_embeddings", 128))
    return directory


def tiny_opt_config(**changes) -> OPTConfig:
    """Two blocks, hidden size 32, windows of at most 128 tokens, tied embeddings."""
    settings = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "ffn_dim": 64,
        "word_embed_proj_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "init_std": 0.2,
    }
    return OPTConfig(**(settings | changes))


def tiny_llama_config(**changes) -> LlamaConfig:
    """A config like `tiny_opt_config`, with grouped queries and a gated MLP."""
    settings = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "bos_token_id": 2,
        "eos_token_id": 2,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
    }
    return LlamaConfig(**(settings | changes))


@pytest.fixture(scope="session")
def make_model_dir(tmp_path_factory) -> Callable[..., Path]:
    """`make_model_dir(config, seed=0)` writes a random model of any config with a tokenizer."""

    def make(config: PreTrainedConfig, seed: int = 0) -> Path:
        return save_model(tmp_path_factory.mktemp(config.model_type), config, seed)

    return make


@pytest.fixture(scope="session")
def tiny_opt_dir(make_model_dir) -> Path:
    """A random OPT: 2 blocks, hidden 32, 320 ids, windows up to 128 tokens."""
    return make_model_dir(tiny_opt_config())


@pytest.fixture(scope="session")
def tiny_llama_dir(make_model_dir) -> Path:
    """A random LLaMA: 2 blocks, hidden 32, 320 ids, windows up to 128 tokens."""
    return make_model_dir(tiny_llama_config())


@pytest.fixture(scope="session")
def tiny_text_file(tmp_path_factory) -> Path:
    """40 lines of nonsense prose, 200 words each: about 20,000 tokens of the tiny tokenizer."""
    path = tmp_path_factory.mktemp("text") / "tiny.txt"
    path.write_text("\n".join(words(200, seed) for seed in range(1, 41)) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def write_texts(tiny_text_file) -> Callable[[Path], None]:
    """`write_texts(directory)`: calibration.txt, train.txt and test.txt, disjoint."""
    lines = tiny_text_file.read_text(encoding="utf-8").splitlines()
    parts = {"calibration": lines[:12], "train": lines[12:28], "test": lines[28:]}

    def write(directory: Path) -> None:
        for name, part in parts.items():
            (directory / f"{name}.txt").write_text("\n".join(part) + "\n", encoding="utf-8")

    return write


@pytest.fixture
def two_cells(tiny_opt_dir, write_texts, tmp_path):
    """Settings of two one-shot cells of a tiny model, with their texts."""
    # The tests of core run where there is no orchestrator.
    from orchestrator.config import GridConfig, OutputConfig, ResourceConfig, SweepConfig

    write_texts(tmp_path)
    return SweepConfig(
        grid=GridConfig(
            models=(str(tiny_opt_dir),),
            methods=("magnitude",),
            regimes=("oneshot",),
            sparsities=(0.5, 0.7),
        ),
        calibration=CalibrationConfig(),
        eval=EvalConfig(texts=(str(tmp_path / "test.txt"),), seq_len=32, max_windows=2),
        resources=ResourceConfig(cpus_per_worker=1),
        output=OutputConfig(out_dir=str(tmp_path / "out")),
    )


@pytest.fixture(scope="session")
def hub_text_files(tmp_path_factory) -> Path:
    """Small WikiText-2, PTB and C4 in the files and columns that the hub has them in."""
    # Documents of 10 to 300 tokens, so that some are shorter than a window of 128.
    return save_hub_texts(tmp_path_factory.mktemp("texts"), [4 + 11 * (n % 10) for n in range(40)])


@pytest.fixture(scope="session")
def long_hub_text_files(tmp_path_factory) -> Path:
    """The same with some documents that are longer than a window of 2048."""
    return save_hub_texts(tmp_path_factory.mktemp("long"), [5, 60, 900] * 3)


def save_hub_texts(root: Path, lengths: list[int]) -> Path:
    """Writes WikiText-2 and C4 of documents with so many words, and PTB of short sentences."""

    def rows(seed: int) -> list[str]:
        return [words(length, 1000 * seed + n) for n, length in enumerate(lengths)]

    for seed, part in enumerate(("train", "validation", "test")):
        path = root / "wikitext-2-raw-v1" / f"{part}-00000-of-00001.parquet"
        path.parent.mkdir(exist_ok=True)
        datasets.Dataset.from_dict({"text": rows(seed)}).to_parquet(path)
        path = root / "penn_treebank" / part / "0000.parquet"
        path.parent.mkdir(parents=True)
        sentences = [words(1 + n % 4, 10 + seed) for n in range(1500)]
        datasets.Dataset.from_dict({"sentence": sentences}).to_parquet(path)
    (root / "en").mkdir()
    shards = ("train.00000-of-01024", "train.00001-of-01024", "validation.00000-of-00008")
    for seed, shard in enumerate(shards):
        lines = "\n".join(json.dumps({"text": row}) for row in rows(20 + seed))
        (root / "en" / f"c4-{shard}.json.gz").write_bytes(gzip.compress(lines.encode()))
    return root


@pytest.fixture
def hub_texts(hub_text_files, tmp_path, monkeypatch) -> Path:
    """`hub_text_files` under their short names, in this process and without the hub."""
    # PTB is known by its content, which no stand-in has.
    parts = {n: replace(part, rows_sha256=None) for n, part in NAMED["ptb"].parts.items()}
    monkeypatch.setitem(NAMED, "ptb", replace(NAMED["ptb"], parts=parts))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "tables")
    monkeypatch.setattr("core.texts.sources.hub_commit", lambda *_: "a" * 40)
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda _, file, **__: str(hub_text_files / file)
    )
    return hub_text_files


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Iterator[Any]:
    """Chromium in one headless window, for all tests of pages."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("needs Debian's chromium and chromium-driver")
    made = runpy.run_path(str(Path(__file__).with_name("chromium.py")))["Browser"]
    window = made(tmp_path_factory.mktemp("profile"))
    yield window
    window.close()


@pytest.fixture(scope="session")
def shared_dir() -> Iterator[Path]:
    """The folder of third-party data beside the checkout; the test is skipped without it."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared with third-party data beside this checkout")
    yield SHARED


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One torch thread while a module runs.

    Threads that wait for each other on a busy machine make tiny models several times slower.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["as on a CPU", "as on an accelerator"])
def each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Solvers take the way of a CPU, then that of an accelerator, on a CPU both times."""
    if request.param == "as on an accelerator":
        monkeypatch.setattr(accelerator, "HOSTS", frozenset())
