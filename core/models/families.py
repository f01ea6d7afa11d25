"""Facts of the model families. All code that depends on a family reads them here.

Each family states all of its facts. A new family is one entry of `FAMILIES` and one tiny config in
`tests/tiny_families.py`.
"""

from __future__ import annotations

from dataclasses import dataclass


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
    kept_widths: int
    """Extra activation values that training stores for each token and block, in float32 and counted
    in hidden sizes. The inputs and outputs of the matrices come on top."""


QKV = ("q_proj", "k_proj", "v_proj")
GATE_UP = ("gate_proj", "up_proj")

OPT = Family(
    backbone="model.decoder",
    blocks="model.decoder.layers",
    # In OPT-350M `final_layer_norm` runs after `fc2`, in the other sizes before `fc1`.
    mlp_half=("final_layer_norm", "fc1", "fc2"),
    shared_inputs=(QKV,),
    kept_widths=3,
)
NORM_BEFORE = Family(
    backbone="model",
    blocks="model.layers",
    mlp_half=("post_attention_layernorm", "mlp"),
    shared_inputs=(QKV, GATE_UP),
    kept_widths=10,
)
"""Rotary embeddings, a gated MLP, RMSNorm before each half."""
NORM_AROUND = Family(
    backbone="model",
    blocks="model.layers",
    mlp_half=("pre_feedforward_layernorm", "mlp", "post_feedforward_layernorm"),
    shared_inputs=(QKV, GATE_UP),
    kept_widths=10,
)
"""Rotary embeddings, a gated MLP, RMSNorm before and after each half."""

FAMILIES = {
    "opt": OPT,
    "llama": NORM_BEFORE,
    "mistral": NORM_BEFORE,
    "qwen2": NORM_BEFORE,
    "qwen3": NORM_BEFORE,
    "gemma": NORM_BEFORE,
    "gemma2": NORM_AROUND,
    "gemma3_text": NORM_AROUND,
}
"""All supported families by the `model_type` of their config."""
