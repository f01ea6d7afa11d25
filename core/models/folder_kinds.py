"""Folders that hold something else than a checkpoint, and what to give instead.

An adapter, a GGUF file or a folder of checkpoints is a frequent mistake. Each kind of folder is one
line of `KINDS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core.checks import BadInputError, require

GGUF = "give the checkpoint that it was made from, with safetensors weights"
SAFE = "give a checkpoint with safetensors weights"
CONVERT = (
    "convert it to safetensors once: AutoModelForCausalLM.from_pretrained({path!r})"
    ".save_pretrained({new!r}), and the same with AutoTokenizer"
)


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that is no checkpoint."""

    patterns: tuple[str, ...]
    """A file that one of these patterns finds tells the kind."""
    told: str
    """The kind and the remedy; may name the folder (`path`) and a new one (`new`)."""


ADAPTER = FolderKind(
    ("adapter_config.json", "adapter_model.*"),
    "is a PEFT adapter, not a model; merge the adapter first: AutoPeftModelForCausalLM"
    ".from_pretrained({path!r}).merge_and_unload().save_pretrained({new!r}), and save its "
    "tokenizer there",
)
SENTENCE_TRANSFORMER = FolderKind(
    ("modules.json", "config_sentence_transformers.json"),
    "is a sentence-transformer, which predicts no tokens; give a causal language model",
)
NO_CHECKPOINT = (
    FolderKind(("*.gguf",), f"holds a GGUF file of llama.cpp; {GGUF}"),
    FolderKind(("*.onnx", "onnx/*.onnx"), "is an ONNX export; " + GGUF),
    FolderKind(("model_index.json",), "is a diffusers pipeline; give a causal language model"),
    FolderKind(("pytorch_model*.bin*",), "has pickled weights only; " + CONVERT),
    FolderKind(
        ("consolidated*.pth", "consolidated*.safetensors"),
        "has weights in their publisher's own layout; convert them with transformers' script for "
        "this model (convert_*_weights_to_hf.py)",
    ),
    FolderKind(("tf_model.h5", "*.h5"), f"has TensorFlow weights only; {SAFE}"),
    FolderKind(("*.msgpack",), f"has Flax weights only; {SAFE}"),
    FolderKind(
        ("zero_to_fp32.py", "global_step*", "*.distcp", "*/*.distcp"),
        "is a checkpoint of training in shards; write it with save_pretrained first",
    ),
    FolderKind(("*.pt", "*.pth", "*.ckpt"), "has a file of torch.save only; " + CONVERT),
)
"""Kinds of folders without the weights of a checkpoint; the first that fits counts."""
INNER = ("checkpoint-*/config.json", "snapshots/*/config.json", "*/config.json")
"""Places of a checkpoint below a folder."""


def refuse_folder(name: str, path: Path, lacks: str | None) -> None:
    """Refuse a folder that has no checkpoint; say what it is, or else what it lacks.

    Args:
        name: the model as the user gave it.
        path: the folder.
        lacks: the reason for any other folder; None if others will do.
    """
    for kind in (ADAPTER, SENTENCE_TRANSFORMER, *NO_CHECKPOINT):
        if holds(path, kind):
            raise refusal(name, path, kind)
    if lacks is None:
        return
    require(any(path.iterdir()), "models", name, "is empty; give a model directory")
    has_config = (path / "config.json").exists()
    inner = [] if has_config else [file for pattern in INNER for file in path.glob(pattern)]
    if inner:
        first = inner[0].parent
        lacks = f"holds models in folders below it; give one of them, such as {first}"
    elif any(path.glob("snapshots/*")):
        lacks = "is a repository of the hub's cache; give its name on the hub, or snapshots/COMMIT"
    raise BadInputError(f"--models {name}: {lacks}")


def require_model_folder(name: str, path: Path) -> None:
    """Refuse a folder that is more than the checkpoint it holds: an adapter, another head."""
    if holds(path, SENTENCE_TRANSFORMER):
        raise refusal(name, path, SENTENCE_TRANSFORMER)
    remedy = (
        "holds adapter_config.json beside its weights; if the adapter is merged, remove that file, "
        "else merge the adapter first (merge_and_unload) and save the model in a new folder"
    )
    require(not (path / "adapter_config.json").exists(), "models", name, remedy)


def holds(path: Path, kind: FolderKind) -> bool:
    """Return True if a folder has a file that tells the kind."""
    return any(True for pattern in kind.patterns for _ in path.glob(pattern))


def refusal(name: str, path: Path, kind: FolderKind) -> BadInputError:
    """Return the error that says what a folder is."""
    new = f"{path.name}-{'merged' if kind is ADAPTER else 'safetensors'}"
    return BadInputError(f"--models {name}: {kind.told.format(path=str(path), new=new)}")
