"""Facts of model families that running a model cannot show, each with the reason.

All else is found in `anatomy.py`. A family without an entry is pruned and trained like any other.
Only its estimated memory for training is less exact, because it was never measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Family:
    """Facts of one family."""

    mlp_half: tuple[str, ...] | None = None
    """Children of a block that make its MLP half, if these are not the ones that are found.

    Only weights that were trained under an earlier rule need it.
    """
    kept_outputs: tuple[str, ...] | None = None
    """Matrices of a block whose outputs wait for the backward pass; named twice if those of the
    activation function after them wait too; None for all matrices. Inputs wait in any case. What
    autograd keeps was measured, and cannot be seen in a forward pass."""
    kept_widths: tuple[int, int] = (4, 4)
    """Further values that wait for each token and block, counted in hidden sizes: those in the
    dtype of products, and those in float32. Norms keep most of them."""


QKV = ("q_proj", "k_proj", "v_proj")
GATE_UP = ("gate_proj", "up_proj")

NORM_BEFORE = Family(kept_outputs=(*QKV, *GATE_UP, "gate_proj"), kept_widths=(2, 2))
"""Rotary embeddings, a gated MLP, RMSNorm before each half."""
# Gemma's norms compute in float32 alone. Scores of attention are not counted.
NORM_AROUND = replace(NORM_BEFORE, kept_widths=(0, 8))
"""Rotary embeddings, a gated MLP, RMSNorm before and after each half."""

FAMILIES = {
    # In OPT-350M the cut that is found lies before the norm of the attention half.
    "opt": Family(("final_layer_norm", "fc1", "fc2"), QKV, (2, 0)),
    "llama": NORM_BEFORE,
    "mistral": NORM_BEFORE,
    "qwen2": NORM_BEFORE,
    "qwen3": replace(NORM_BEFORE, kept_widths=(4, 4)),  # Norms of queries and keys too.
    "gemma": replace(NORM_BEFORE, kept_widths=(0, 4)),
    "gemma2": NORM_AROUND,
    "gemma3_text": replace(NORM_AROUND, kept_widths=(0, 12)),
}
"""Families by the `model_type` of their config."""


def family_of(model_type: str) -> Family:
    """Return the facts of a family; those of most families are the defaults."""
    return FAMILIES.get(model_type, Family())


def needs_bos(model_type: str) -> bool:
    """Return True if a family predicts nonsense in a window that does not begin with BOS.

    Gemma 2B has a perplexity of 650 without it and 21 with it.
    """
    return "gemma" in model_type
