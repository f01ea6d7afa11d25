"""Facts of a model that plans need: sizes of the model and of its prunable matrices.

They are data alone. `description.py` finds them.
"""

from __future__ import annotations

from dataclasses import dataclass

NO_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class Linear:
    """One prunable matrix."""

    name: str
    rows: int
    cols: int
    block: int
    reads: str
    """The first matrix of the block that reads the same input."""
    share: float = 1.0
    """Share of all tokens that it multiplies: below 1 for a matrix of an expert."""


@dataclass(frozen=True)
class ModelFacts:
    """Sizes of a model and of its prunable matrices."""

    name: str
    model_type: str
    num_blocks: int
    hidden_size: int
    vocab_size: int
    max_seq_len: int
    """Tokens; `NO_LIMIT` if the config names none."""
    dtype: str
    """Dtype of the stored weights, by the config."""
    num_parameters: int
    linears: tuple[Linear, ...]
    left_out: dict[str, str]
    """Matrices of the blocks that are not pruned, each with the reason."""
    has_experts: bool = False
    """True for a mixture of experts."""
