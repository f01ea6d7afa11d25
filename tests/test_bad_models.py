"""Bad models are refused in one line before Ray starts; good ones give no alarm.

Each row of `KINDS` spoils a copy of a good checkpoint in one way.
"""

from __future__ import annotations

import itertools
import json
import re
import runpy
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from core.checks import BadInputError
from core.models.config_checks import require_dtype
from core.models.description import describe_model
from core.models.loading import load_model
from core.models.sources import ModelSource, local_source, resolve_model
from core.models.tokenizers import NO_TOKENIZER, load_tokenizer
from orchestrator.config import EvalConfig, GridConfig, OutputConfig, SweepConfig
from orchestrator.inputs.checkpoint_checks import require_fitting_weights
from orchestrator.inputs.tokenizer_checks import fitting_tokenizer, require_known_ids
from orchestrator.preparation import prepare, read_texts

pytestmark = pytest.mark.usefixtures("one_thread")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345678\n"
Spoil = Callable[[Path], None]


def prepared(model: Path | str, text: Path, out: Path, **output: Any) -> Any:
    """Return a sweep of one model made ready to run, as a command makes it before Ray starts."""
    grid = GridConfig(
        models=(str(model),), methods=("magnitude",), regimes=("oneshot",), sparsities=(0.5,)
    )
    evaluation = EvalConfig(texts=(str(text),))
    sweep = prepare(SweepConfig(grid, eval=evaluation, output=OutputConfig(str(out), **output)))
    read_texts(sweep)
    return sweep


def text_of(name: str, content: str | bytes) -> Spoil:
    """Return a way to spoil a model: replace a file by such content."""

    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return spoil


def config_of(**changes: Any) -> Spoil:
    """Return a way to spoil a model: change values of its config; `...` removes one."""

    def spoil(folder: Path) -> None:
        file = folder / "config.json"
        values = json.loads(file.read_text(encoding="utf-8")) | changes
        kept = {key: value for key, value in values.items() if value is not ...}
        file.write_text(json.dumps(kept), encoding="utf-8")

    return spoil


def weights_by(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Spoil:
    """Return a way to spoil a model: write other weights."""

    def spoil(folder: Path) -> None:
        weights = {name: w.clone() for name, w in change(load_file(folder / WEIGHTS)).items()}
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    return spoil


def renamed(rename: Callable[[str], str]) -> Spoil:
    """Return a way to spoil a model: rename its weights."""
    return weights_by(lambda found: {rename(name): weight for name, weight in found.items()})


def cut_to(size: int) -> Spoil:
    """Return a way to spoil a model: keep `[:size]` of the bytes of its weights."""

    def spoil(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:size])

    return spoil


def then(*steps: Spoil) -> Spoil:
    """Return a way to spoil a model in several steps."""

    def spoil(folder: Path) -> None:
        for step in steps:
            step(folder)

    return spoil


def without(*names: str) -> Spoil:
    """Return a way to spoil a model: remove files."""

    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return spoil


def bare(folder: Path) -> None:
    """Remove all files of a model."""
    for file in folder.iterdir():
        file.unlink()


def a_folder(name: str) -> Spoil:
    """Return a way to spoil a model: a folder stands in the place of a file."""

    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return spoil


def broken_link(name: str) -> Spoil:
    """Return a way to spoil a model: a file is a link to nowhere, as in an emptied cache."""

    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(folder / "blobs" / "absent")

    return spoil


def shards(folder: Path) -> None:
    """Write the weights in two files with an index."""
    weights = load_file(folder / WEIGHTS)
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[::2]}
    parts["model-00002-of-00002.safetensors"] = names[1::2]
    for file, mine in parts.items():
        save_file({name: weights[name] for name in mine}, folder / file, {"format": "pt"})
    where = {name: file for file, mine in parts.items() for name in mine}
    index = {"metadata": {}, "weight_map": where}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
    (folder / WEIGHTS).unlink()


def header_of(change: Callable[[dict[str, Any]], None]) -> Spoil:
    """Return a way to spoil a model: change the header of its weights."""

    def spoil(folder: Path) -> None:
        data = (folder / WEIGHTS).read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + size])
        change(header)
        made = json.dumps(header).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(made)) + made + data[8 + size :])

    return spoil


def set_weight(name: str, value: Any) -> Spoil:
    """Return a way to spoil a model: set, or with None remove, one tensor."""

    def change(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        made = {**weights, name: value(weights[name]) if callable(value) else value}
        return {each: weight for each, weight in made.items() if weight is not None}

    return weights_by(change)


def cast(dtype: torch.dtype) -> Spoil:
    """Return a way to spoil a model: store its weights in another dtype."""
    return weights_by(lambda found: {name: w.to(dtype) for name, w in found.items()})


def spoilt_values(weight: torch.Tensor, value: float) -> torch.Tensor:
    """Return a weight whose last value is another."""
    made = weight.clone()
    made.view(-1)[-1] = value
    return made


def tokenizer_of(change: Callable[[dict[str, Any]], None]) -> Spoil:
    """Return a way to spoil a model: change its tokenizer.json."""

    def spoil(folder: Path) -> None:
        file = folder / "tokenizer.json"
        values = json.loads(file.read_text(encoding="utf-8"))
        change(values)
        file.write_text(json.dumps(values), encoding="utf-8")

    return spoil


Q = "model.layers.1.self_attn.q_proj.weight"
CONFIGS: dict[str, tuple[Spoil, str]] = {
    "config empty": (text_of("config.json", ""), "config.json is empty"),
    "config cut": (text_of("config.json", '{"model_type": "lla'), "config.json is no JSON"),
    "config is a list": (text_of("config.json", "[1]"), "config.json holds a list"),
    "config null": (text_of("config.json", "null"), "config.json holds"),
    "config not utf-8": (text_of("config.json", b'{"a": "\xff\xfe"}'), "config.json is not UTF-8"),
    "config utf-16": (text_of("config.json", "{}".encode("utf-16")), "config.json is not UTF-8"),
    "config a git-lfs pointer": (text_of("config.json", POINTER), "config.json .*git lfs pull"),
    "config a folder": (a_folder("config.json"), "config.json is a folder"),
    "config deep": (text_of("config.json", "[" * 100_000), "config.json is no JSON"),
    "model type absent": (config_of(model_type=...), "model_type"),
    "model type unknown": (config_of(model_type="lama9"), "lama9"),
    "model type a list": (config_of(model_type=["llama"]), "model_type"),
    "remote code": (
        config_of(model_type="mine", auto_map={"AutoConfig": "a.B"}),
        "code of its own",
    ),
    "no longest window": (config_of(max_position_embeddings=None), "max_position_embeddings"),
    "windows negative": (config_of(max_position_embeddings=-4), "max_position_embeddings"),
    "windows zero": (config_of(max_position_embeddings=0), "max_position_embeddings"),
    "a whole number for a fraction": (config_of(rms_norm_eps=1), "rms_norm_eps"),
    "rope unknown": (config_of(rope_scaling={"type": "foo", "factor": 2.0}), "foo"),
    "rope a number": (config_of(rope_parameters=3), "rope_parameters"),
    "activation unknown": (config_of(hidden_act="foo"), "foo"),
    "hidden a text": (config_of(hidden_size="32"), "hidden_size"),
    "hidden null": (config_of(hidden_size=None), "hidden_size"),
    "hidden zero": (config_of(hidden_size=0), "hidden_size"),
    "hidden negative": (config_of(hidden_size=-32), "hidden_size"),
    "hidden absurd": (config_of(hidden_size=10**12), "hidden_size"),
    "hidden not divisible": (config_of(hidden_size=33, head_dim=...), "attention heads"),
    "heads zero": (config_of(num_attention_heads=0), "num_attention_heads"),
    "heads negative": (config_of(num_attention_heads=-4), "num_attention_heads"),
    "kv heads do not divide": (config_of(num_key_value_heads=3), "num_key_value_heads"),
    "kv heads zero": (config_of(num_key_value_heads=0), "num_key_value_heads"),
    "kv heads more": (config_of(num_key_value_heads=8), "num_key_value_heads"),
    "head size odd": (config_of(head_dim=7), "head_dim"),
    "head size zero": (config_of(head_dim=0), "head_dim"),
    "no blocks": (config_of(num_hidden_layers=0), "num_hidden_layers"),
    "blocks negative": (config_of(num_hidden_layers=-1), "num_hidden_layers"),
    "blocks absurd": (config_of(num_hidden_layers=10**10), "num_hidden_layers"),
    "blocks a fraction": (config_of(num_hidden_layers=2.5), "num_hidden_layers"),
    "vocabulary zero": (config_of(vocab_size=0), "vocab_size"),
    "vocabulary absurd": (config_of(vocab_size=10**15), "vocab_size"),
    "mlp zero": (config_of(intermediate_size=0), "intermediate_size"),
    "an epsilon below zero": (config_of(rms_norm_eps=-0.5), "rms_norm_eps"),
    "NaN in the config": (config_of(attention_dropout=float("nan")), "attention_dropout nan"),
    "dropout above 1": (config_of(attention_dropout=3.0), "attention_dropout"),
    "architectures a number": (config_of(architectures=3), "config.json"),
    "pad outside": (config_of(pad_token_id=5000), "Padding_idx"),
    "dtype auto": (config_of(dtype="auto"), "dtype"),
    "dtype a typo": (config_of(dtype="float31"), "float31"),
    "dtype a number": (config_of(dtype=32), "dtype"),
    "dtype float64": (config_of(dtype="float64"), "float64.*--dtype"),
    "dtype int8": (config_of(dtype="int8"), "int8"),
    "dtype fp8": (config_of(dtype="float8_e4m3fn"), "float8"),
    "bitsandbytes": (
        config_of(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "quantized.*bitsandbytes",
    ),
    "gptq": (
        config_of(quantization_config={"quant_method": "gptq", "bits": 4}),
        "quantized.*gptq",
    ),
    "awq": (config_of(quantization_config={"quant_method": "awq"}), "quantized.*awq"),
    "a classifier": (
        config_of(architectures=["LlamaForSequenceClassification"]),
        "LlamaForSequenceClassification",
    ),
    "generation config broken": (text_of("generation_config.json", "{"), "generation_config.json"),
}
"""Kinds of bad configs: how to spoil a model, and the regular expression of the refusal."""

WEIGHT_FILES: dict[str, tuple[Spoil, str]] = {
    "weights a git-lfs pointer": (text_of(WEIGHTS, POINTER), f"{WEIGHTS}.*git lfs pull"),
    "weights empty": (text_of(WEIGHTS, ""), f"{WEIGHTS} is empty"),
    "weights a few bytes": (text_of(WEIGHTS, "abc"), f"{WEIGHTS}.*cut"),
    "weights no safetensors": (text_of(WEIGHTS, "x" * 5000), f"{WEIGHTS}.*no safetensors"),
    "weights cut in the header": (cut_to(100), f"{WEIGHTS}.*100 bytes"),
    "weights cut at the end": (cut_to(-100), f"{WEIGHTS}.*100 bytes"),
    "weights too long": (
        lambda folder: text_of(WEIGHTS, (folder / WEIGHTS).read_bytes() + b"abc")(folder),
        f"{WEIGHTS}.*3 bytes",
    ),
    "header a list": (text_of(WEIGHTS, struct.pack("<Q", 4) + b"[1] "), WEIGHTS),
    "header without offsets": (
        header_of(lambda header: header[Q].pop("data_offsets")),
        f"{WEIGHTS}.*{Q}",
    ),
    "header's size against its shape": (
        header_of(lambda header: header[Q].update(shape=[1, 1])),
        f"{WEIGHTS}.*{Q}",
    ),
    "weights a folder": (a_folder(WEIGHTS), WEIGHTS),
    "weights in .bin only": (
        lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin") and None,
        r"from_pretrained\(.*save_pretrained\(",
    ),
    "weights a broken link": (broken_link(WEIGHTS), WEIGHTS),
    "weights absent": (without(WEIGHTS), f"has no {WEIGHTS}"),
    "index cut": (then(shards, text_of(INDEX, "{")), f"{INDEX} is no JSON"),
    "index a git-lfs pointer": (then(shards, text_of(INDEX, POINTER)), f"{INDEX}.*git lfs pull"),
    "index without a map": (then(shards, text_of(INDEX, "{}")), f"{INDEX}.*weight_map"),
    "index a list": (then(shards, text_of(INDEX, "[]")), f"{INDEX} holds a list"),
    "index of numbers": (then(shards, text_of(INDEX, '{"weight_map": {"a": 3}}')), INDEX),
    "index leads outside": (
        then(shards, text_of(INDEX, '{"weight_map": {"a": "../b.safetensors"}}')),
        INDEX,
    ),
    "index empty": (then(shards, text_of(INDEX, '{"weight_map": {}}')), INDEX),
    "shard missing": (
        then(shards, without("model-00002-of-00002.safetensors")),
        "model-00002-of-00002.safetensors",
    ),
    "shard cut": (
        then(shards, text_of("model-00002-of-00002.safetensors", "abc")),
        "model-00002-of-00002.safetensors",
    ),
    "shards without an index": (then(shards, without(INDEX)), INDEX),
}
"""Kinds of bad files of weights."""

NAMES: dict[str, tuple[Spoil, str]] = {
    "prefix module": (renamed(lambda name: f"module.{name}"), "module.*wrapper"),
    "prefix _orig_mod": (renamed(lambda name: f"_orig_mod.{name}"), "_orig_mod.*wrapper"),
    "_orig_mod inside": (
        renamed(lambda name: name.replace("layers.1.", "layers.1._orig_mod.")),
        "_orig_mod.*wrapper",
    ),
    "prefix base_model.model": (
        renamed(lambda name: f"base_model.model.{name}"),
        "base_model.*wrapper",
    ),
    "prefix unknown": (renamed(lambda name: f"student.{name}"), "student"),
    "adapters not merged": (
        renamed(lambda name: name.replace("q_proj.weight", "q_proj.base_layer.weight")),
        "merge",
    ),
    "more blocks than the config": (config_of(num_hidden_layers=1), "2 blocks.*num_hidden_layers"),
    "fewer blocks than the config": (config_of(num_hidden_layers=3), "2 blocks.*num_hidden_layers"),
    "a weight absent": (set_weight(Q, None), Q),
    "a bias that nothing reads": (
        set_weight(Q.replace("weight", "bias"), torch.zeros(32)),
        "q_proj.bias",
    ),
    "a weight misshapen": (set_weight(Q, torch.ones(31, 32)), f"{Q}.*31.*32"),
    "another vocabulary": (config_of(vocab_size=300), "vocab_size"),
    "another width": (config_of(intermediate_size=80), "intermediate_size|mlp"),
    "packed weights": (
        renamed(lambda name: name.replace("q_proj.weight", "q_proj.qweight")),
        "quantized",
    ),
    "stored as int8": (cast(torch.int8), "I8"),
    "stored as fp8": (cast(torch.float8_e4m3fn), "F8_E4M3"),
    "one stored as int8": (set_weight(Q, lambda w: w.to(torch.int8)), "I8"),
    "weights with NaN": (set_weight(Q, lambda w: spoilt_values(w, float("nan"))), f"{Q}.*NaN"),
    "weights infinite": (set_weight(Q, lambda w: spoilt_values(w, float("inf"))), f"{Q}.*infinite"),
}
"""Kinds of weights that do not fit the config."""

TOKENIZERS: dict[str, tuple[Spoil, str]] = {
    "tokenizer absent": (without("tokenizer.json", "tokenizer_config.json"), NO_TOKENIZER),
    "tokenizer config alone": (without("tokenizer.json"), NO_TOKENIZER),
    "tokenizer another object": (text_of("tokenizer.json", "{}"), "KeyError: 'added_tokens'"),
    "tokenizer cut": (text_of("tokenizer.json", '{"version": "1.0", "mo'), "tokenizer"),
    "tokenizer a git-lfs pointer": (text_of("tokenizer.json", POINTER), "tokenizer.json.*git lfs"),
    "tokenizer a broken link": (broken_link("tokenizer.json"), "tokenizer.json cannot be read"),
    "tokenizer empty": (text_of("tokenizer.json", ""), "tokenizer"),
    "tokenizer config cut": (text_of("tokenizer_config.json", "{"), "tokenizer"),
    "tokenizer larger than the embedding": (
        then(
            config_of(vocab_size=300),
            weights_by(lambda found: {n: w[:300] for n, w in found.items()}),
        ),
        "tokenizer.*319.*300",
    ),
}
"""Kinds of bad tokenizers."""

ADAPTER = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "org/base"})
FOLDERS: dict[str, tuple[Spoil, str]] = {
    "an adapter": (
        then(
            bare,
            text_of("adapter_config.json", ADAPTER),
            text_of("adapter_model.safetensors", "abc"),
        ),
        "merge the adapter first.*merge_and_unload.*save_pretrained",
    ),
    "an adapter with a config": (
        then(without(WEIGHTS), text_of("adapter_config.json", ADAPTER)),
        "merge the adapter first",
    ),
    "an adapter beside weights": (text_of("adapter_config.json", ADAPTER), "adapter_config.json"),
    "gguf": (then(bare, text_of("model.Q4_K_M.gguf", "GGUF")), "GGUF"),
    "gguf beside a config": (then(without(WEIGHTS), text_of("model.gguf", "GGUF")), "GGUF"),
    "onnx": (then(without(WEIGHTS), text_of("model.onnx", "onnx")), "ONNX"),
    "a sentence-transformer": (text_of("modules.json", "[]"), "sentence-transformer"),
    "flax": (then(without(WEIGHTS), text_of("flax_model.msgpack", "a")), "Flax"),
    "tensorflow": (then(without(WEIGHTS), text_of("tf_model.h5", "a")), "TensorFlow"),
    "an original llama": (
        then(bare, text_of("params.json", "{}"), text_of("consolidated.00.pth", "a")),
        "convert",
    ),
    "diffusers": (then(bare, text_of("model_index.json", "{}")), "diffusers"),
    "empty": (bare, "is empty"),
    "other files": (then(bare, text_of("notes.txt", "a")), "no config.json"),
    "a folder of checkpoints": (
        then(
            bare,
            lambda folder: (folder / "checkpoint-500").mkdir(),
            text_of("checkpoint-500/config.json", "{}"),
        ),
        "checkpoint-500",
    ),
    "a repository of the hub's cache": (
        then(bare, lambda folder: (folder / "snapshots" / "abc").mkdir(parents=True)),
        "snapshots",
    ),
}
"""Folders that are no checkpoint, or that are more than one."""


def refused(spoil: Spoil, good: Path, text: Path, folder: Path) -> str:
    """Return the line that refuses a spoilt copy of a model; nothing may be written."""
    copy, out = Path(shutil.copytree(good, folder / "model")), folder / "out"
    spoil(copy)
    with pytest.raises(BadInputError) as caught:
        prepared(copy, text, out)
    assert not out.exists()
    line = str(caught.value)
    assert line.startswith((f"--models {copy}: ", "--dtype ")), line
    assert "\n" not in line and len(line) < 600, line
    return line


KINDS = CONFIGS | WEIGHT_FILES | NAMES | TOKENIZERS | FOLDERS


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_model_is_refused_in_one_line(kind, tiny_llama_dir, tiny_text_file, tmp_path):
    spoil, said = KINDS[kind]
    line = refused(spoil, tiny_llama_dir, tiny_text_file, tmp_path)
    assert re.search(said, line), line


TINY = runpy.run_path(str(Path(__file__).with_name("tiny_families.py")))["FAMILIES"]


def save_family(folder: Path, family: str, dtype: torch.dtype, **options: Any) -> ModelSource:
    """Write a random model of a family as its users have it; return its source."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(TINY[family][0], dtype=dtype)
    model.save_pretrained(folder, **options)
    return local_source(str(folder), folder)


def old_names(folder: Path, family: str) -> None:
    """Rename weights as older files of a family have them, with buffers that they stored."""
    weights = load_file(folder / WEIGHTS)
    if family.startswith("opt"):
        made = {name.removeprefix("model."): weight for name, weight in weights.items()}
    else:
        buffer = "model.layers.{}.self_attn.rotary_emb.inv_freq"
        made = weights | {buffer.format(index): torch.ones(4) for index in range(2)}
    save_file(made, folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("family", "dtype"),
    list(zip(TINY, itertools.cycle((torch.bfloat16, torch.float16)), strict=False)),
)
def test_good_models_of_every_family_give_no_alarm(family, dtype, tmp_path, caplog):
    whole = save_family(tmp_path / "whole", family, torch.float32)
    require_fitting_weights(whole)
    parts = save_family(tmp_path / "parts", family, dtype, max_shard_size="20KB")
    require_dtype(parts.name, "auto", describe_model(parts).dtype)
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    require_fitting_weights(parts)
    old_names(tmp_path / "whole", family)
    require_fitting_weights(whole)
    load_model(whole, torch.float32)  # It reads what the checks passed.
    assert not caplog.records


def test_shipped_and_shared_models_give_no_alarm(tmp_path, tiny_text_file, caplog, shared_dir):
    for model in ("embedded", shared_dir / "models" / "stories260K"):
        prepared(model, tiny_text_file, tmp_path / "out")
    assert not caplog.records


def test_weights_that_nothing_outside_blocks_reads_are_told(
    tiny_llama_dir, tiny_text_file, tmp_path, caplog
):
    copy = Path(shutil.copytree(tiny_llama_dir, tmp_path / "copy"))
    set_weight("value_head.weight", torch.ones(1, 32))(copy)
    prepared(copy, tiny_text_file, tmp_path / "out")
    assert "1 weights in its files are read by nothing, first value_head" in caplog.text


def test_a_sparse_checkpoint_is_told(tiny_llama_dir, tiny_text_file, tmp_path, caplog):
    copy = Path(shutil.copytree(tiny_llama_dir, tmp_path / "copy"))
    mask = torch.rand(32, 32, generator=torch.Generator().manual_seed(0)) < 0.5
    weights_by(
        lambda found: {n: w * mask if w.shape == mask.shape else w for n, w in found.items()}
    )(copy)
    prepared(copy, tiny_text_file, tmp_path / "out")
    (record,) = caplog.records
    assert re.search(r"about \d\d % of its weights to prune are zero already", record.getMessage())


@pytest.mark.parametrize("dtype", ["float64", "int8"])
def test_a_dtype_that_is_asked_for_replaces_one_that_nothing_computes_in(
    dtype, tiny_llama_dir, tmp_path
):
    copy = Path(shutil.copytree(tiny_llama_dir, tmp_path / "copy"))
    then(config_of(dtype=dtype), cast(torch.float64))(copy)
    source = local_source(str(copy), copy)
    require_dtype(source.name, "float32", describe_model(source).dtype)
    require_fitting_weights(source)
    assert load_model(source, torch.float32).dtype == torch.float32


def test_added_tokens_beyond_the_embedding_are_refused_only_where_a_text_has_them(
    tiny_llama_dir, tmp_path
):
    copy = Path(shutil.copytree(tiny_llama_dir, tmp_path / "copy"))
    tokenizer = load_tokenizer(copy)
    tokenizer.add_tokens(["<unused>"])
    tokenizer.save_pretrained(copy)
    source = local_source(str(copy), copy)
    facts, found = describe_model(source), fitting_tokenizer(source, describe_model(source))
    require_known_ids(facts, found("ka lo", return_tensors="pt").input_ids, found)
    with pytest.raises(BadInputError, match="gives id 320 .*<unused>"):
        require_known_ids(facts, found("ka <unused>", return_tensors="pt").input_ids, found)


def test_a_path_of_a_file_is_refused(tiny_llama_dir):
    with pytest.raises(BadInputError, match="is a file; give the directory"):
        resolve_model(str(tiny_llama_dir / WEIGHTS))
