"""Facts of the model families. All code that depends on a family reads them here.

Each family states all of its facts. A new family is one entry of `FAMILIES` and one tiny config in
`tests/tiny_families.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Family:
    """Facts of one family.

    Every `nn.Linear` inside a decoder block is prunable, and nothing else is.
    """

    backbone: str
    """Path of the module that runs the embeddings, the decoder blocks and the final norm."""
    blocks: str
    """Path of the `nn.ModuleList` of decoder blocks."""
    mlp_half: tuple[str, ...]
    """Children of a block that make its MLP half. All other children are the attention half."""
    shared_inputs: tuple[tuple[str, ...], ...]
    """Groups of matrices of a block that read the same input, by the last part of their names."""
    kept_outputs: tuple[str, ...]
    """Matrices of a block whose outputs wait for the backward pass; named twice if those of the
    activation function after them wait too. The inputs of all matrices do in any case."""
    kept_widths: tuple[int, int]
    """Further values that wait for each token and block, counted in hidden sizes: those in the
    dtype of products, and those in float32. Norms keep most of them."""


QKV = ("q_proj", "k_proj", "v_proj")
GATE_UP = ("gate_proj", "up_proj")

OPT = Family(
    backbone="model.decoder",
    blocks="model.decoder.layers",
    # In OPT-350M `final_layer_norm` runs after `fc2`, in the other sizes before `fc1`.
    mlp_half=("final_layer_norm", "fc1", "fc2"),
    shared_inputs=(QKV,),
    kept_outputs=QKV,
    kept_widths=(2, 0),
)
NORM_BEFORE = Family(
    backbone="model",
    blocks="model.layers",
    mlp_half=("post_attention_layernorm", "mlp"),
    shared_inputs=(QKV, GATE_UP),
    kept_outputs=(*QKV, *GATE_UP, "gate_proj"),
    kept_widths=(2, 2),
)
"""Rotary embeddings, a gated MLP, RMSNorm before each half."""
NORM_AROUND = Family(
    backbone="model",
    blocks="model.layers",
    mlp_half=("pre_feedforward_layernorm", "mlp", "post_feedforward_layernorm"),
    shared_inputs=(QKV, GATE_UP),
    kept_outputs=(*QKV, *GATE_UP, "gate_proj"),
    # Gemma's norms compute in float32 alone. Scores of attention are not counted.
    kept_widths=(0, 8),
)
"""Rotary embeddings, a gated MLP, RMSNorm before and after each half."""

FAMILIES = {
    "opt": OPT,
    "llama": NORM_BEFORE,
    "mistral": NORM_BEFORE,
    "qwen2": NORM_BEFORE,
    "qwen3": replace(NORM_BEFORE, kept_widths=(4, 4)),  # Norms of queries and keys too.
    "gemma": replace(NORM_BEFORE, kept_widths=(0, 4)),
    "gemma2": NORM_AROUND,
    "gemma3_text": replace(NORM_AROUND, kept_widths=(0, 12)),
}
"""All supported families by the `model_type` of their config."""


def needs_bos(model_type: str) -> bool:
    """Return True if a family predicts nonsense in a window that does not begin with BOS.

    Gemma 2B has a perplexity of 650 without it and 21 with it.
    """
    return "gemma" in model_type
