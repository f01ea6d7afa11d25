"""A pruned model's weights without their zeros, in the sparse forms of compressed-tensors.

2:4 weights become `sparse-24-bitmask`: the survivors in two columns, and one bit for each weight.
All others become `sparse-bitmask`: the survivors in one row, and one bit for each weight. Only
matrices that were pruned are compressed. The library has these forms up to version 0.13.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.checks import BadInputError
from core.models.sources import WEIGHTS_INDEX, weight_paths

REMEDY = "pip install -e '.[compressed]'"
LOADING = """\
from compressed_tensors.compressors.base import BaseCompressor
from compressed_tensors.config import SparsityCompressionConfig
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

config = AutoConfig.from_pretrained(".")
form = config.quantization_config["sparsity_config"]
del config.quantization_config
kind = SparsityCompressionConfig.load_from_registry(form["format"], **form)
reader = BaseCompressor.load_from_registry(kind.format, config=kind)
model = AutoModelForCausalLM.from_config(config, dtype=config.dtype)
missing, unknown = model.load_state_dict(dict(reader.decompress(".")), strict=False)
assert not unknown and set(missing) <= {"lm_head.weight"}  # tied to the embedding
tokenizer = AutoTokenizer.from_pretrained(".")
ids = tokenizer("The", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=40)[0]))
"""
"""Code for the card: it loads such a directory with compressed-tensors and transformers alone."""


def require_installed() -> None:
    """Refuse the form if the library is absent."""
    if importlib.util.find_spec("compressed_tensors") is None:
        raise BadInputError(f"--format compressed-tensors: the library is not installed; {REMEDY}")


def sparse_form(mask_structure: str | None, sparsity: float) -> dict[str, Any]:
    """Return the configuration that `config.json` names."""
    return {
        "format": "sparse-24-bitmask" if mask_structure == "2:4" else "sparse-bitmask",
        "targets": ["Linear"],
        "ignore": [],
        "global_sparsity": sparsity,
        "sparsity_structure": mask_structure or "unstructured",
    }


def require_rows_of_outputs(directory: Path, masks: Mapping[str, Tensor]) -> None:
    """Refuse weights that their files hold as [in, out], as GPT-2's do.

    Readers of these forms expect the inputs of an output side by side.
    """
    shapes = {name: tuple(mask.shape) for name, mask in masks.items()}
    for file in weight_paths(directory):
        if file.suffix != ".safetensors":
            continue
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():
                wanted = shapes.get(key.removesuffix(".weight"))
                if wanted is not None and tuple(opened.get_slice(key).get_shape()) != wanted:
                    told = f"{key} is stored as [in, out], which the form does not have"
                    raise BadInputError(f"--format compressed-tensors: {told}; use huggingface")


def compressor(form: Mapping[str, Any]) -> Any:
    """Return the library's reader and writer of a form."""
    from compressed_tensors.compressors.base import BaseCompressor
    from compressed_tensors.config import SparsityCompressionConfig

    config = SparsityCompressionConfig.load_from_registry(form["format"], **form)
    return BaseCompressor.load_from_registry(config.format, config=config)


def compress_(directory: Path, matrices: Iterable[str], form: dict[str, Any]) -> tuple[int, int]:
    """Replace the weights of a model directory by their sparse form.

    Args:
        directory: a Hugging Face directory; several weights files stay as many.
        matrices: names of the pruned matrices, without `.weight`.
        form: from `sparse_form`.

    Returns:
        The bytes of the weights before and after.
    """
    import compressed_tensors

    files = [path for path in weight_paths(directory) if path.suffix == ".safetensors"]
    before = sum(file.stat().st_size for file in files)
    places: dict[str, str] = {}
    ignored = []
    for file in files:
        dense = load_file(file)
        packed = compressor(form).compress(dense, compression_targets=set(matrices))
        save_file({name: t.contiguous() for name, t in packed.items()}, file, {"format": "pt"})
        places |= dict.fromkeys(packed, file.name)
        ignored += [
            name.removesuffix(".weight")
            for name, tensor in dense.items()
            if tensor.dim() == 2 and name.endswith(".weight") and name in packed
        ]
    after = sum(file.stat().st_size for file in files)
    if (directory / WEIGHTS_INDEX).is_file():
        index = {"metadata": {"total_size": after}, "weight_map": places}
        write_json(directory / WEIGHTS_INDEX, index)
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "version": compressed_tensors.__version__,
        "sparsity_config": {**form, "ignore": sorted(ignored)},
    }
    write_json(directory / "config.json", config)
    return before, after


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write a file of a Hugging Face directory."""
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
