"""Residence of a model's weights: in memory, or in files of which one part at a time is open.

The walks over blocks (pruning, allocation, evaluation) ask `residence_of(model)` and are the same
for both. A streamed model is a skeleton on `meta`. A part of it is a decoder block, or the model
itself, which stands for all that lies outside of the blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from core.models.anatomy import anatomy_of
from core.models.blocks import decoder_blocks
from core.models.hidden_states import HiddenStates
from core.models.mask_files import PackedMasks
from core.models.model_writer import ModelWriter
from core.models.weight_files import WeightFiles
from core.parallel import gathered
from core.ranks import Ranks

ATTRIBUTE = "residence"
"""Attribute of a streamed model that names its residence."""


class InMemory:
    """Weights that stay in memory: whole, or as the shards of FSDP2."""

    streamed = False

    def __init__(self) -> None:
        self.masks: MutableMapping[str, Tensor] = PackedMasks()
        """Masks that `keep` was given, as bits.

        Where weights are streamed, they lie on disk, and only rank 0 knows them.
        """

    def opened(self, part: nn.Module) -> AbstractContextManager[None]:
        """Keep the weights of a part whole on this rank's device, to read them."""
        return gathered(part)

    def changing(self, part: nn.Module) -> AbstractContextManager[None]:
        """Keep what `Matrix.write_` writes to a block in the body, outside of `opened`."""
        return nullcontext()

    def keep(self, part: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """Keep the weights of a block that is being changed, and its masks."""
        self.masks.update(masks)

    def hidden_states(self) -> list[Tensor] | HiddenStates:
        """Return an empty list for the hidden states of micro-batches."""
        return []


@dataclass(frozen=True)
class Place:
    """A parameter's place in a model; a tied one has several."""

    name: str
    """Qualified name."""
    module: nn.Module
    """The module that holds it."""
    leaf: str
    """Its name there."""

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter as it is now."""
        return self.module.get_parameter(self.leaf)

    def put(self, parameter: nn.Parameter) -> None:
        """Replace the parameter."""
        self.module._parameters[self.leaf] = parameter


class Streamed(InMemory):
    """Weights in files. Only parts that are open are in memory, whole on every rank."""

    streamed = True

    def __init__(
        self,
        files: WeightFiles,
        ranks: Ranks,
        scratch: Path | None = None,
        room: float | None = None,
    ) -> None:
        """Note the residence in the model, and put its buffers on the device.

        Args:
            files: the weights to start from, and a skeleton of their model on `meta`.
            ranks: this process among the others, all of which read.
            scratch: directory for hidden states that do not fit host memory.
            room: bytes of host memory for them; by default half of what is free.
        """
        super().__init__()
        model = files.model
        self.files, self.ranks, self.scratch, self.room = files, ranks, scratch, room
        self.output: ModelWriter | None = None
        self.path = anatomy_of(model).path
        self.blocks: dict[nn.Module, int] = {
            block: index for index, block in enumerate(decoder_blocks(model))
        }
        self.open: set[nn.Module] = set()
        files.fill_buffers_(model, "", ranks.device)
        setattr(model, ATTRIBUTE, self)

    @contextmanager
    def opened(self, part: nn.Module) -> Iterator[None]:
        """Read a part from its files and drop it at the end; nothing to do if it is open."""
        if part in self.open:
            yield
            return
        skeleton = [(place, place.parameter) for place in self.places(part)]
        self.open.add(part)
        try:
            self.fill_(part)
            yield
        finally:
            self.open.discard(part)
            for place, parameter in skeleton:
                place.put(parameter)

    @contextmanager
    def running(self, look: Callable[[int, nn.Module, Any], None]) -> Iterator[None]:
        """Let the whole model run for this long, one block open at a time.

        The model itself must be open. `look` gets the number, the module and the output of each
        block that has run, before it is closed.
        """
        with ExitStack() as hooks, ExitStack() as stack:

            def enter(block: nn.Module, _: object) -> None:
                stack.enter_context(self.opened(block))

            def leave(block: nn.Module, _: object, output: Any) -> None:
                look(self.blocks[block], block, output)
                stack.close()

            for block in self.blocks:
                hooks.callback(block.register_forward_pre_hook(enter).remove)
                hooks.callback(block.register_forward_hook(leave).remove)
            yield

    def changing(self, part: nn.Module) -> AbstractContextManager[None]:
        """Keep a block open. Changes are lost without `keep`."""
        return self.opened(part)

    def keep(self, part: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """Write a part that is open to the new files, its masks first."""
        if self.output is None:
            return
        for name, mask in masks.items():
            self.output.masks[name] = mask
        tensors = {place.name: place.parameter.detach() for place in self.places(part)}
        self.output.write(self.number(part), untied(tensors))

    def write_to(self, output: ModelWriter) -> None:
        """Let changed blocks and masks go to new files. Only one rank does this."""
        self.output, self.masks = output, output.masks

    def finish(self, model: PreTrainedModel) -> None:
        """Write what lies outside of the blocks, and the index."""
        if self.output is not None:
            with self.opened(model):
                self.keep(model, {})
            self.output.finish()

    def hidden_states(self) -> HiddenStates:
        """Return an empty list in host memory, or on disk past a limit."""
        return HiddenStates(self.ranks.device, self.scratch, self.room)

    def places(self, part: nn.Module) -> list[Place]:
        """Return the places of all parameters of a part."""
        index = self.blocks.get(part)
        prefix = "" if index is None else f"{self.path}.{index}"
        return [
            Place(f"{path}.{leaf}" if path else leaf, module, leaf)
            for path, module in part.named_modules(prefix=prefix)
            if index is not None or not f"{path}.".startswith(f"{self.path}.")
            for leaf, parameter in module._parameters.items()
            if parameter is not None
        ]

    def fill_(self, part: nn.Module) -> None:
        """Read the weights of a part; tied ones stay tied."""
        filled: dict[int, nn.Parameter] = {}
        with self.reading(part) as read:
            for place in self.places(part):
                key = id(place.parameter)
                if key not in filled:
                    weight = read(place.name).to(self.ranks.device)
                    filled[key] = nn.Parameter(weight, requires_grad=False)
                place.put(filled[key])

    @contextmanager
    def reading(self, part: nn.Module) -> Iterator[Callable[[str], Tensor]]:
        """A function that reads a weight by name: from the new files, if the part is there."""
        written = self.output and self.output.written.get(self.number(part))
        if written is None:
            with self.files.opened():
                yield self.files.read
            return
        with safe_open(written, framework="pt") as file:
            # A copy, for tensors of safetensors keep the file's pages mapped.
            yield lambda name: file.get_tensor(name).clone()

    def number(self, part: nn.Module) -> int:
        """Return the number of a part's shard: 0 for the root, then the blocks."""
        return self.blocks.get(part, -1) + 1


def untied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under the first name of each. Loading ties the other names again."""
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        first.setdefault(tensor.data_ptr(), name)
    return {name: tensors[name] for name in first.values()}


def residence_of(model: nn.Module) -> InMemory:
    """Return where a model's weights live."""
    return getattr(model, ATTRIBUTE, None) or InMemory()
