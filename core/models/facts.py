"""Facts of a model that plans need: sizes of the model and of its prunable matrices.

They are data alone. `description.py` finds them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

NO_LIMIT = 2**31 - 1
GATE, UP, DOWN = "gate_proj", "up_proj", "down_proj"
"""Names of an expert's matrices. The first two read the input of the layer."""
ROUTER, BY_HEAD = "router", "one output a head"
"""Reasons why a small matrix, of which each weight decides much, is not pruned by default."""


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
    """Matrices of the blocks that are not pruned by default, each with the reason."""
    has_experts: bool = False
    """True for a mixture of experts."""
    routers: tuple[Linear, ...] = ()
    """Routers and gates among those left out that can be pruned."""

    def pruned(self, routers: bool) -> ModelFacts:
        """Return the facts for a run that prunes routers and gates too, or does not."""
        if not routers:
            return self
        names = {one.name for one in self.routers}
        left_out = {name: why for name, why in self.left_out.items() if name not in names}
        return replace(self, linears=self.linears + self.routers, left_out=left_out)
