"""Command lines into blocks: flags with several values, and the blocks of `--grid`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from core.checks import BadInputError, require
from orchestrator.axes import Expansion, expand, split_axes
from orchestrator.blocks import GROUPS, BlocksConfig
from orchestrator.config import OutputConfig, ResourceConfig, SweepConfig
from orchestrator.flag_words import Choices, given_flags
from orchestrator.grid_file import BLOCKS, read_blocks
from orchestrator.help import EACH, Flag
from orchestrator.unread_flags import explicit_flags, require_read


@dataclass(frozen=True)
class Reader:
    """Reads the flags of one command."""

    read: Callable[[list[str]], SweepConfig]
    """Reads words in which each flag has one value, or one list."""
    flags: Sequence[Flag]
    choices: Choices

    def config(self, arguments: list[str]) -> SweepConfig:
        """Return the settings of a command line, those of all blocks.

        Raises:
            BadInputError: a refusal of one line, also for a flag that no cell reads.
        """
        path = file_of(arguments)
        if path is None:
            return self.of_words([arguments], arguments)
        found = read_blocks(path)
        if isinstance(found, dict):
            return self.of_record(found, path, arguments)
        given = explicit_flags(arguments)
        for words in found:
            twice = sorted(explicit_flags(words) & given)
            require(not twice, "".join(twice[:1]), "has no effect", f"{path} gives it too")
        return self.of_words([[*arguments, *words] for words in found], arguments)

    def of_words(self, lines: Sequence[list[str]], arguments: list[str]) -> SweepConfig:
        """Return the settings of some command lines, each with a product of axes."""
        every, read_by = Expansion(), dict[str, list[SweepConfig]]()
        for i, line in enumerate(lines, start=1):
            try:
                words, axes = split_axes(line, self.flags, self.choices)
                found = expand(lambda more, words=words: self.read([*words, *more]), axes)
            except BadInputError as error:
                raise error if line is arguments else in_block(i, error) from None
            every.blocks += found.blocks
            every.left_out += found.left_out
            for name in explicit_flags(line):
                read_by.setdefault(name.replace(EACH, ""), []).extend(found.blocks)
        require_read(read_by)
        blocks = [replace(b, grid=replace(b.grid, grid=None)) for b in every.blocks]
        return BlocksConfig.of(blocks, every.lines())

    def of_record(self, record: Mapping[str, Any], path: str, arguments: list[str]) -> SweepConfig:
        """Return the blocks of a recorded sweep, with resources and output of the command line."""
        config, given = self.read(arguments), explicit_flags(arguments)
        kinds = (ResourceConfig, OutputConfig)
        own = {f.name.replace("_", "-") for kind in kinds for f in dataclasses.fields(kind)}
        for name in sorted(given - own - {"grid"}):
            require(name.startswith("eval."), name, "has no effect", f"{path} gives it too")
        recorded = record["config"]
        kept = {name: recorded.get(name, {}) for name in ("grid", *GROUPS, "eval")}
        blocks = [SweepConfig.from_dict({**kept, **block}) for block in record.get(BLOCKS, [{}])]
        asked = config.eval if any(n.startswith("eval.") for n in given) else blocks[0].eval
        shared = {"eval": asked, "resources": config.resources, "output": config.output}
        return BlocksConfig.of([replace(block, **shared) for block in blocks])


def file_of(arguments: list[str]) -> str | None:
    """Return the file that `--grid` names; None without that flag."""
    files = [given.values for given in given_flags(arguments) if given.name == "--grid"]
    return files[0][0] if files and files[0] else None


def in_block(number: int, error: BadInputError) -> BadInputError:
    """Return an error that says in which block of a file it is."""
    found = BadInputError(f"block {number} of --grid: {error}")
    return found
