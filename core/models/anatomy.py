"""Anatomy of a causal language model, found without names: its blocks and how they are called.

The decoder blocks are the outermost list of as many modules as the config says. One forward pass
without memory (`trace.py`) shows that each of them runs once and reads the output of the one before
it, how its call looks, which matrices read the same input, and where its two halves meet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from core.models.config_checks import EXPERT_COUNTS, count_of
from core.models.facts import BY_HEAD, ROUTER
from core.models.families import family_of
from core.models.pieces import ROUTERS, is_router, named_pieces, pieces_of
from core.models.trace import Trace, Visit, storage, trace

ATTRIBUTE = "anatomy"
"""Attribute of a model that holds its anatomy once it is found."""
HEAD_COUNTS = ("num_attention_heads", "linear_num_value_heads")
"""Config keys that hold the number of heads of a kind of attention."""


class AnatomyError(ValueError):
    """A model whose blocks cannot be pruned one by one; one line without the model's name."""


@dataclass(frozen=True)
class BlockFacts:
    """Facts of one block: its call and its parts."""

    num_outputs: int | None
    """Length of the tuple that it returns; None if it returns hidden states alone."""
    carried: Mapping[int | str, int]
    """Arguments that are outputs of the block before it: their place or name there, and which of
    its outputs."""
    mlp_half: tuple[str, ...]
    """Children that make the MLP half; all others are the attention half. Empty if no place lies
    between two halves."""
    inputs: Mapping[str, str]
    """The first matrix that reads the same input, by the name of each matrix within the block."""
    left_out: Mapping[str, str]
    """The reason for each matrix that is not pruned by default, by its name within the block."""
    routers: frozenset[str] = frozenset()
    """Routers and gates among these that can be pruned."""


@dataclass(frozen=True)
class Anatomy:
    """Blocks of a model."""

    path: str
    """Path of the `nn.ModuleList` of decoder blocks."""
    hidden_size: int
    blocks: tuple[BlockFacts, ...]


def anatomy_of(model: PreTrainedModel) -> Anatomy:
    """Return the anatomy of a model. It is found once, on a model of its config without memory.

    Raises:
        AnatomyError: the blocks cannot be run one by one.
    """
    found = getattr(model, ATTRIBUTE, None)
    if found is None:
        is_meta = all(t.is_meta for t in (*model.parameters(), *model.buffers()))
        found = find_anatomy(model if is_meta else skeleton_of(model, torch.float32))
        setattr(model, ATTRIBUTE, found)
    return found


def skeleton_of(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Return a model of the same class and config without memory for its weights.

    What is known of the anatomy goes with it.
    """
    kind = next(one for one in type(model).__mro__ if not issubclass(one, FSDPModule))
    with torch.device("meta"):
        skeleton = kind._from_config(model.config, dtype=dtype).eval()
    if hasattr(model, ATTRIBUTE):
        setattr(skeleton, ATTRIBUTE, getattr(model, ATTRIBUTE))
    return skeleton


def find_anatomy(model: PreTrainedModel) -> Anatomy:
    """Return the anatomy of a model on `meta`."""
    path = path_of_blocks(model)
    blocks = list(model.get_submodule(path).children())
    watched = [
        part
        for block in blocks
        for part in (block, *block.children(), *(module for _, module, _ in named_pieces(block)))
    ]
    try:
        found = trace(model, list(dict.fromkeys(watched)))
    except Exception as error:
        told = (str(error).splitlines() or [""])[0].rstrip(". ")[:120]
        raise AnatomyError(
            f"no forward pass of it can be followed ({type(error).__name__}: {told})"
        ) from error
    visits = visits_of_blocks(path, blocks, found)
    hidden = visits[0].args[0]
    before = [None, *visits[:-1]]
    return Anatomy(
        path,
        hidden.shape[-1],
        tuple(
            facts_of(model, block, found, visit, last)
            for block, last, visit in zip(blocks, before, visits, strict=True)
        ),
    )


def facts_of(
    model: PreTrainedModel, block: nn.Module, found: Trace, visit: Visit, last: Visit | None
) -> BlockFacts:
    """Return the facts of a block from its call, and that of the block before it."""
    reasons = left_out(model, block, found)
    return BlockFacts(
        num_outputs=None if isinstance(visit.output, Tensor) else len(visit.output),
        carried={} if last is None else carried(last, visit),
        mlp_half=mlp_half(model, block, visit, found),
        inputs=shared_inputs(block, found),
        left_out=reasons,
        routers=frozenset(routers_of(block, reasons, found)),
    )


def path_of_blocks(model: PreTrainedModel) -> str:
    """Return the path of the list of decoder blocks.

    Most are of transformers' class of layers that can be computed again, and as many as the config
    says. Towers for images have this class too, so a part for text is looked at alone.
    """
    text = model.config.get_text_config(decoder=True)
    count = getattr(text, "num_hidden_layers", None)
    lists: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in lists)
        if isinstance(module, nn.ModuleList) and len(module) and not inside:
            lists[name] = module
    layers = [
        name
        for name, found in lists.items()
        if all(isinstance(one, GradientCheckpointingLayer) for one in found)
    ]
    counted = [name for name, found in lists.items() if len(found) == count]
    for found in ([name for name in layers if name in counted], counted, layers):
        if len(found) == 1:
            return found[0]
    told = f"{len(counted)} lists of {count} modules" if counted else f"no list of {count} modules"
    raise AnatomyError(f"its decoder blocks were not found: it has {told}")


def visits_of_blocks(path: str, blocks: list[nn.Module], found: Trace) -> list[Visit]:
    """Return the one call of each block, after checking that the blocks are one chain."""
    numbers = {block: index for index, block in enumerate(blocks)}
    order = [numbers[module] for module in found.order if module in numbers]
    if order != list(range(len(blocks))):
        skipped = sorted(set(numbers.values()) - set(order))
        told = f"block {skipped[0]} did not run" if skipped else "they run again or in turns"
        raise AnatomyError(f"its blocks ({path}) do not run once each, one after another: {told}")
    visits = [found.visits[block][0] for block in blocks]
    for index, visit in enumerate(visits):
        output = visit.output
        first = output[0] if isinstance(output, (tuple, list)) and output else output
        if not isinstance(first, Tensor):
            told = f"returns a {type(output).__name__}, not hidden states"
            raise AnatomyError(f"block {index} ({path}.{index}) {told}")
        if index + 1 < len(visits):
            following = visits[index + 1].args
            if not following or following[0] is not first:
                told = f"block {index + 1} does not read what block {index} returns"
                raise AnatomyError(f"its blocks ({path}) are not one chain: {told}")
    if not visits[0].args:
        raise AnatomyError(f"its blocks ({path}) get their hidden states by name")
    return visits


def carried(last: Visit, visit: Visit) -> dict[int | str, int]:
    """Return the arguments of a block that are further outputs of the block before it."""
    further = [] if isinstance(last.output, Tensor) else list(last.output)[1:]
    given: list[tuple[int | str, Any]] = [*enumerate(visit.args[1:]), *visit.kwargs.items()]
    return {
        key: place
        for key, value in given
        for place, output in enumerate(further, 1)
        if value is not None and value is output
    }


def linears(block: nn.Module) -> list[nn.Module]:
    """Return the modules of a block that multiply by matrices."""
    return [module for module in block.modules() if pieces_of(module)]


def shared_inputs(block: nn.Module, found: Trace) -> dict[str, str]:
    """Return the first matrix that reads the same input, for each matrix that runs."""
    first: dict[object, str] = {}
    groups = {}
    for name, module, piece in named_pieces(block):
        if module in found.visits:
            key: object = (module, piece.expert, piece.leaf)
            if piece.expert is None:
                x = found.visits[module][-1].input
                assert x is not None
                key = (storage(x), x.shape, x.stride(), x.storage_offset())
            groups[name] = first.setdefault(key, name)
    return groups


def mlp_half(
    model: PreTrainedModel, block: nn.Module, visit: Visit, found: Trace
) -> tuple[str, ...]:
    """Return the children from the first one that reads a new sum: the residual stream.

    It is the first child whose input is neither that of the block nor the output of another child.
    Blocks whose attention and MLP read the same hidden states have none.
    """
    known = family_of(model.config.model_type).mlp_half
    if known is not None:
        return known
    names = {child: name for name, child in block.named_children()}
    hidden = visit.args[0]
    seen, before, after = {storage(hidden)}, list[str](), list[str]()
    for child in (module for module in found.order if module in names):
        each = found.visits[child][0]
        x = each.input
        is_sum = x is not None and storage(x) not in seen and x.numel() == hidden.numel()
        (after if after or is_sum else before).append(names[child])
        seen |= {storage(output) for output in each.outputs}
    has_matrices = [any(linears(block.get_submodule(n)) for n in part) for part in (before, after)]
    apart = not set(before) & set(after)
    return tuple(dict.fromkeys(after)) if all(has_matrices) and apart else ()


def left_out(model: PreTrainedModel, block: nn.Module, found: Trace) -> dict[str, str]:
    """Return the matrices of a block that are not pruned, with the reason.

    Routers and gates are small, and each of their weights decides much. A matrix whose module no
    forward pass calls shows nobody its input.
    """
    config = model.config.get_text_config(decoder=True)
    experts = max(count_of(config, key) for key in EXPERT_COUNTS)
    heads = max(count_of(config, key) for key in HEAD_COUNTS)
    width = count_of(config, "head_dim") or count_of(config, "hidden_size") // max(heads, 1)
    reasons = {}
    for name, module, piece in named_pieces(block):
        rows = module.get_parameter(piece.leaf).shape[-1 if piece.transposed else -2]
        is_expert = piece.expert is not None
        named = any(part in ROUTERS for part in name.split(".")) or is_router(name, module)
        if (named or (experts > 1 and rows == experts)) and not is_expert:
            reasons[name] = ROUTER
        elif rows <= heads and rows < width and not is_expert:
            reasons[name] = BY_HEAD
        elif module not in found.visits:
            reasons[name] = "not called"
    return reasons


def routers_of(block: nn.Module, reasons: Mapping[str, str], found: Trace) -> Iterator[str]:
    """Yield the routers and gates of a block that multiply what their module is called with."""
    for name, module, piece in named_pieces(block):
        if reasons.get(name) not in (ROUTER, BY_HEAD) or module not in found.visits:
            continue
        cols = module.get_parameter(piece.leaf).shape[-2 if piece.transposed else -1]
        args = found.visits[module][-1].args
        if args and isinstance(args[0], Tensor) and args[0].shape[-1] == cols:
            yield name
