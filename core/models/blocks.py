"""Decoder blocks of a model with their prunable matrices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from core.checks import require
from core.models.anatomy import BlockFacts, anatomy_of
from core.models.matrices import Matrix
from core.models.pieces import named_pieces


@dataclass(frozen=True)
class Block:
    """One decoder block of a model."""

    index: int
    module: nn.Module
    matrices: dict[str, Matrix]
    """Its prunable matrices by name, in module order."""


def hidden_backbone(model: PreTrainedModel) -> nn.Module:
    """Return the module from token ids to the final norm, without a head."""
    return model.base_model


def decoder_blocks(model: PreTrainedModel) -> nn.ModuleList:
    """Return the decoder blocks in the order in which they run."""
    blocks = model.get_submodule(anatomy_of(model).path)
    assert isinstance(blocks, nn.ModuleList) and len(blocks) > 0
    return blocks


def prunable_blocks(model: PreTrainedModel, routers: bool = False) -> list[Block]:
    """Return the decoder blocks with their prunable matrices.

    Embeddings, `lm_head` and OPT-350M's `project_in/out` are outside the blocks. Pruning a weight
    that another place in the model shares would change that place too.

    Args:
        model: the causal LM.
        routers: True if routers and gates are among the matrices.

    Raises:
        BadInputError: a matrix is tied to another place all the same.
    """
    anatomy = anatomy_of(model)
    blocks = [
        Block(index, module, matrices_of(module, f"{anatomy.path}.{index}", index, facts, routers))
        for index, (module, facts) in enumerate(
            zip(decoder_blocks(model), anatomy.blocks, strict=True)
        )
    ]
    places = Counter(place(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    for block in blocks:
        for name, matrix in block.matrices.items():
            remedy = f"{name} shares its tensor with another place; save it with a copy of its own"
            alone = places[place(matrix.parameter)] == 1
            require(alone, "models", model.config.name_or_path or "given", remedy)
    return blocks


def prunable_matrices(model: PreTrainedModel, routers: bool = False) -> dict[str, Matrix]:
    """Return all prunable matrices by name, in model order; see `prunable_blocks`."""
    return {
        name: matrix
        for block in prunable_blocks(model, routers)
        for name, matrix in block.matrices.items()
    }


def matrices_of(
    module: nn.Module, path: str, index: int, facts: BlockFacts, routers: bool = False
) -> dict[str, Matrix]:
    """Return the matrices of a block, or of a copy of it, that is found at `path` in the model."""
    return {
        f"{path}.{name}": Matrix(f"{path}.{name}", index, owner, piece)
        for name, owner, piece in named_pieces(module)
        if name not in facts.left_out or (routers and name in facts.routers)
    }


def have_routers(model: PreTrainedModel, masks: Mapping[str, Tensor]) -> bool:
    """Return True if some of the masks are of routers or gates, so that these were pruned too."""
    anatomy = anatomy_of(model)
    return any(
        f"{anatomy.path}.{index}.{name}" in masks
        for index, facts in enumerate(anatomy.blocks)
        for name in facts.routers
    )


def place(parameter: Tensor) -> int:
    """Return a number that is equal for two parameters if a write to one shows in the other."""
    if isinstance(parameter, DTensor) or parameter.is_meta or parameter.numel() == 0:
        return id(parameter)
    return parameter.data_ptr()
