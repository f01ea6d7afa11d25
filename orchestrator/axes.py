"""Axes: flags with several values become blocks, one for each combination of values.

A combination that cannot be is left out, or only those of its cells that cannot be. A line says how
many cells that are. A value that no combination can have is refused.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import NoneType
from typing import Any, get_origin

from core.checks import BadInputError, require, require_unique
from core.methods import EVERY_METHOD, JOINT_METHODS
from core.typed_values import hints_of, members
from orchestrator.config import JOINT, GridConfig, SweepConfig, is_pair
from orchestrator.flag_words import (
    Choices,
    Given,
    checked_values,
    folded,
    given_flags,
    joined_values,
    off_name,
)
from orchestrator.help import EACH, Flag

MOST_BLOCKS = 4_096
SWITCH = {"true": "True", "false": "False"}
"""Values of a switch that has several."""

Axes = Mapping[str, Sequence[str]]
"""Checked values by the name of a flag without dashes, such as `prune.refine`."""


@dataclass
class Expansion:
    """The blocks of some axes."""

    blocks: list[SweepConfig] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """Cells that cannot be, by the reason."""

    def lines(self) -> list[str]:
        """Return a line for each reason."""
        return [f"left out {n:,} cells that cannot be: {why}" for why, n in self.left_out.items()]


# Words --------------------------------------------------------------------------------------------


def split_axes(
    arguments: Sequence[str], flags: Sequence[Flag], choices: Choices
) -> tuple[list[str], Axes]:
    """Return the words without flags that have several values, and these flags with their values.

    Raises:
        BadInputError: a value that its flag does not take or that is given twice.
    """
    known = {flag.name: flag for flag in flags if flag.is_axis}
    before, *rest = given_flags(arguments)
    names = [given.name for given in rest]
    words, axes = list(before.values), dict[str, Sequence[str]]()
    for given in rest:
        flag = known.get(given.name)
        values = axis_values(flag, given, choices) if flag and names.count(given.name) == 1 else []
        if flag is None or not values:
            words += given.words
            continue
        own = flag.name.lstrip("-")
        name, shown = own.replace(EACH, ""), " ".join(given.values)
        twice = name != own and f"--{name}" in names
        require(not twice, own, shown, f"leave out either this or --{name}")
        require_unique(own, values)
        axes[name] = values
    count = math.prod(map(len, axes.values()))
    if count > MOST_BLOCKS:
        named = ", ".join(f"--{name}" for name in axes)
        line = f"{named} make {count:,} combinations; give fewer values, at most {MOST_BLOCKS:,}"
        raise BadInputError(line)
    return words, axes


def axis_values(flag: Flag, given: Given, choices: Choices) -> list[str]:
    """Return the checked values of a flag that has several; none of one that has a single one."""
    if not flag.values:
        switched = [SWITCH.get(folded(value), "") for value in given.values]
        return switched if all(switched) else []
    values = checked_values(flag, given.values, choices) if given.values else []
    return values if len(values) > 1 or EACH in flag.name else []


def words_of(combination: Mapping[str, str]) -> list[str]:
    """Return the words that give each flag one value."""
    words = []
    for name, value in combination.items():
        if value in SWITCH.values():
            words.append(f"--{name}" if value == "True" else off_name(f"--{name}"))
        else:
            parts = joined_values(value)
            words += [f"--{name}={value}"] if len(parts) == 1 else [f"--{name}", *parts]
    return words


# Blocks -------------------------------------------------------------------------------------------


def expand(parse: Callable[[list[str]], SweepConfig], axes: Axes) -> Expansion:
    """Return the blocks of all combinations of values that can be.

    Args:
        parse: reads further words, one value of each axis, into settings.
        axes: values by flag.

    Raises:
        BadInputError: no combination can be, or none that has one of the values.
    """
    found, base = Expansion(), first_that_parses(parse, axes)
    taken: set[tuple[str, str]] = set()
    refused: dict[tuple[str, str], BadInputError] = {}
    for combination in combinations(axes):
        block, lost, error = fitted(base, combination)
        if error is not None:
            found.left_out[str(error)] += lost
            for pair in combination.items():
                refused.setdefault(pair, error)
        if block is not None:
            found.blocks.append(block)
            taken |= {*combination.items()}
    for pair, error in refused.items():
        if pair not in taken:
            raise error
    return found


def combinations(axes: Axes) -> Iterator[dict[str, str]]:
    """Yield every combination of values once; those of the last axis change first."""
    seen: set[tuple[str, ...]] = set()
    for values in itertools.product(*axes.values()):
        found = dict(zip(axes, values))
        if found.get("schedule") == "grid":
            found["num-rounds"] = "None"  # Its rounds are its sparsities.
        if (key := tuple(found.values())) not in seen:
            seen.add(key)
            yield found


def first_that_parses(parse: Callable[[list[str]], SweepConfig], axes: Axes) -> SweepConfig:
    """Return the settings of a combination that can be: of the first, the last or one near it."""
    first, last = ({name: values[i] for name, values in axes.items()} for i in (0, -1))
    near = [{**first, name: value} for name, values in axes.items() for value in values[1:]]
    refusals = []
    for combination in [first, *([last, *near] if len(near) else [])]:
        try:
            return parse(words_of(combination))
        except BadInputError as error:
            refusals.append(error)
    raise refusals[0]


def fitted(
    base: SweepConfig, combination: Mapping[str, str]
) -> tuple[SweepConfig | None, int, BadInputError | None]:
    """Return the settings of a combination, with as much of the grid as can be.

    Returns:
        The settings, None if no cell can be; the number of cells left out; and the reason.
    """
    try:
        return with_values(base, combination, base.grid), 0, None
    except BadInputError as error:
        refusal = error
    for part in parts_of(base.grid):
        try:
            settings = with_values(base, combination, part())
            return settings, lost_cells(base.grid, settings.grid, refusal), refusal
        except BadInputError:
            continue
    return None, lost_cells(base.grid, None, refusal), refusal


def with_values(base: SweepConfig, combination: Mapping[str, str], grid: GridConfig) -> SweepConfig:
    """Return settings with one value of each axis."""
    changes: dict[str, dict[str, Any]] = {}
    for name, word in combination.items():
        group, _, last = name.rpartition(".")
        group, own = group or "grid", last.replace("-", "_")
        hint = hints_of(type(getattr(base, group)))[own]
        changes.setdefault(group, {})[own] = value_of(name, word, hint)
    groups = {"grid": grid, **{group: getattr(base, group) for group in changes if group != "grid"}}
    return replace(base, **{g: replace(old, **changes.get(g, {})) for g, old in groups.items()})


def value_of(name: str, word: str, hint: Any) -> Any:
    """Return the value that a checked word stands for, in the type of its field."""
    kinds = members(hint)
    is_list = any(get_origin(kind) is tuple for kind in kinds)
    if word == "None":
        require(is_list or NoneType in kinds, name, word, "it has no value that is none; give one")
        return None if NoneType in kinds else ()
    if bool in kinds:
        return word == "True"
    parts = joined_values(word)
    if is_list and len(parts) > 1 or kinds[0] not in (int, float) and is_list:
        return tuple(float(part) if float in kinds else part for part in parts)
    return int(word) if int in kinds else float(word) if float in kinds else word


def parts_of(grid: GridConfig) -> Iterator[Callable[[], GridConfig]]:
    """Yield functions that return parts of a grid, larger ones first; each may be refused."""
    whole = {} if not grid.sparsities else {"mask_structures": ()}
    pruning = tuple(method for method in grid.methods if method not in JOINT_METHODS)
    later = tuple(regime for regime in grid.regimes if regime != JOINT)
    no_joint = {"methods": pruning, "regimes": later}
    oneshot = {"methods": pruning, "regimes": ("oneshot",) if "oneshot" in grid.regimes else ()}
    for change in (whole, no_joint, {**whole, **no_joint}, oneshot, {**whole, **oneshot}):
        yield lambda change=change: replace(grid, **change)


def lost_cells(grid: GridConfig, part: GridConfig | None, error: BadInputError) -> int:
    """Return the points of a grid that are not in a part of it, of methods that read a setting.

    Args:
        grid: the grid.
        part: the part; None for no point.
        error: the refusal that names the setting.
    """
    group, _, name = (error.flag or "").partition(".")

    def points(grid: GridConfig) -> int:
        read = (m for m in grid.methods if group != "prune" or reads(m, name))
        pairs = sum(is_pair(method, regime) for method in read for regime in grid.regimes)
        return len(grid.models) * pairs * len(grid.targets()) * len(grid.seeds)

    return points(grid) - (0 if part is None else points(part))


def reads(method: str, flag: str) -> bool:
    """Return True if a method reads a flag of pruning, given without its group."""
    return flag.replace("-", "_") in EVERY_METHOD[method].fields_read
