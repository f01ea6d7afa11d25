"""The identity of a model in a local directory: a hash of all that its numbers depend on.

That is its weights, its tokenizer files, and the parts of its config that change numbers.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from core.hub.identity import file_hash, files_hash

CONFIG = "config.json"
ORIGIN = {"_name_or_path", "_commit_hash", "architectures", "auto_map", "transformers_version"}
"""Keys that say where a checkpoint comes from. `model_type` alone chooses the class."""
DTYPE = {"dtype", "torch_dtype"}
"""The dtype of the stored weights. Each stage has its own dtype in its identity."""
RANDOM = {"init_std", "initializer_factor", "initializer_range"}
"""Sizes of random weights. Every weight is read from files."""
DROPOUT = {"activation_dropout", "attention_dropout", "dropout", "layerdrop"}
"""Shares that dropout leaves out. Training runs without (`core/training/finetune.py`)."""
ANSWERS = {"output_attentions", "output_hidden_states", "return_dict", "use_cache"}
"""Values that a forward pass gives beside the logits."""
GENERATION = {
    *("bos_token_id", "eos_token_id", "do_sample", "early_stopping", "length_penalty"),
    *("max_length", "max_new_tokens", "min_length", "no_repeat_ngram_size", "num_beams"),
    *("num_return_sequences", "repetition_penalty", "suppress_tokens", "begin_suppress_tokens"),
    *("temperature", "top_k", "top_p", "typical_p", "bad_words_ids", "task_specific_params"),
}
"""Settings for generating text. The tokenizer files name the tokens that texts begin with."""
CLASSES = {"finetuning_task", "id2label", "label2id", "num_labels", "problem_type"}
"""Settings of classifiers."""
INERT = ORIGIN | DTYPE | RANDOM | DROPOUT | ANSWERS | GENERATION | CLASSES
"""Config keys that change no number of a causal language model. A key that is not known counts."""

RENAMED = {
    # The model that comes with the project.
    "sha256:6b74b9f447c503b4738406a4ff1afcb7708492c5d83295f9d1191ee51a28626e": (
        "sha256:17dfeab859f5dd0ee3c905696bf23cceda443cc4e96b635f78d544f655529d05"
    ),
}
"""Identities that were given before configs were read by their keys, and that stay."""


def local_identity(directory: Path, files: list[Path]) -> str:
    """Return the identity of a local model.

    Args:
        directory: the directory with the config.
        files: its weights and tokenizer files.
    """
    lines = [f"{path.name} {file_hash(path)}" for path in files]
    lines.append(f"{CONFIG} {config_hash(directory / CONFIG)}")
    digest = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
    return RENAMED.get(f"sha256:{digest}", f"sha256:{digest}")


def former_identity(directory: Path, files: list[Path]) -> str:
    """Return the identity by the rule of earlier versions: all bytes of the config count."""
    return f"sha256:{files_hash([directory / CONFIG, *files])}"


def config_hash(path: Path) -> str:
    """Return a hash of the keys of a config that change numbers; of all bytes if it is no JSON."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return file_hash(path)  # Whoever reads it refuses it.
    text = json.dumps(with_effect(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def with_effect(value: Any) -> Any:
    """Return a config without the keys that change no number; `1` and `1.0` are one value."""
    if isinstance(value, dict):
        return {key: with_effect(each) for key, each in value.items() if key not in INERT}
    if isinstance(value, list):
        return [with_effect(each) for each in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
