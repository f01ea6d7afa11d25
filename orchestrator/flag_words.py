"""Words of a command line: each flag with its values, checked before tyro reads them.

Every refusal names the flag, repeats the words as they were typed, and says what to write. Values
of a list may also be separated by commas. A choice may be written in another case.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from core.checks import BadInputError, require, require_known
from orchestrator.help import Flag

Choices = Mapping[str, Iterable[str]]
"""Known values of flags whose type is any string, by the flag's name without dashes."""
DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2212"
"""The hyphen, and what text processors make of it."""


@dataclass(frozen=True)
class Given:
    """One flag of a command line, or the words before the first flag."""

    word: str
    """The flag as it was typed; empty before the first flag."""
    values: list[str]
    joint: str = " "
    """The character between the flag and its first value: a space or `=`."""

    @property
    def typed(self) -> str:
        """The flag and its values as they were typed."""
        return self.joint.join([self.word, " ".join(self.values)])

    @property
    def words(self) -> list[str]:
        """The words of the command line."""
        if self.joint == "=":
            return [f"{self.word}={self.values[0]}", *self.values[1:]]
        return [self.word, *self.values]

    @property
    def name(self) -> str:
        """The flag as the help writes it."""
        return self.word.replace("_", "-")


def given_flags(arguments: Iterable[str]) -> list[Given]:
    """Return the words before the first flag, then each flag with its values."""
    found = [Given("", [])]
    for word in arguments:
        if is_flag(word):
            name, equals, value = word.partition("=")
            found.append(Given(name, [value], equals) if equals else Given(name, []))
        else:
            found[-1].values.append(word)
    return found


def is_flag(word: str) -> bool:
    """Return True if a word looks like a flag: it begins with a dash and is no number."""
    return len(word) > 1 and word[0] in DASHES and not is_number(word)


def is_number(word: str) -> bool:
    """Return True if a word is a number."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def checked_words(
    arguments: Iterable[str], flags: Iterable[Flag], choices: Choices | None = None
) -> list[str]:
    """Return the words as tyro reads them: positional ones first, each value by itself.

    Raises:
        BadInputError: an unknown or repeated flag, or values that a flag does not take.
    """
    flags = list(flags)
    known = {flag.name: flag for flag in flags if flag.name}
    off = {off_name(name): flag for name, flag in known.items() if not flag.values}
    takes_words = any(not flag.name for flag in flags)
    before, *rest = given_flags(arguments)
    loose, words = list(before.values), list[str]()
    seen: dict[str, str] = {}
    for given in rest:
        flag = known.get(given.name) or off.get(given.name)
        if flag is None:
            raise unknown_flag(given.word, known)
        if flag.name in seen:
            earlier = seen[flag.name]
            said = "is given twice" if given.word == earlier else f"repeats {earlier}"
            raise BadInputError(f"{given.word} {said}; give a flag once, with all its values")
        seen[flag.name] = given.word
        most = most_values(flag, len(given.values))
        values, extra = given.values[:most], given.values[most:]
        if extra and not takes_words:
            raise too_many(given, flag)
        loose += extra
        words += tyro_words(given.name, checked_values(flag, values, choices or {}))
    if loose and not takes_words:
        example = "values follow a flag, such as --models embedded"
        raise BadInputError(f"{loose[0]!r} stands before every flag: {example}")
    return [*loose, *words]


def off_name(name: str) -> str:
    """Return the name that turns a switch off: `--finetune.no-distill`."""
    group, dot, last = name[2:].rpartition(".")
    return f"--{group}{dot}no-{last}"


def most_values(flag: Flag, given: int) -> int:
    """Return how many of the given words are values of a flag."""
    return given if flag.values.endswith("...") else len(flag.values.split())


def tyro_words(name: str, values: list[str]) -> list[str]:
    """Return a flag with its values; a lone value may begin with a dash."""
    return [f"{name}={values[0]}"] if len(values) == 1 else [name, *values]


def too_many(given: Given, flag: Flag) -> BadInputError:
    """Return the refusal of more values than a flag takes."""
    alone = f"takes no value; give it alone, or {off_name(flag.name)} to turn it off"
    takes = f"takes only {flag.values}" if flag.values else alone
    return BadInputError(f"{given.typed}: {takes}")


def unknown_flag(word: str, known: Iterable[str]) -> BadInputError:
    """Return the refusal of an unknown flag, with up to three flags that may be meant."""
    near = nearest_flags(word, known)
    hint = f"did you mean {' or '.join(near)}?" if near else "--help lists all flags"
    return BadInputError(f"{word} is unknown: {hint}")


def nearest_flags(word: str, known: Iterable[str]) -> list[str]:
    """Return up to three known flags that a word may stand for, the likeliest first.

    A group may be left out or wrong: `--num-samples` stands for `--calibration.num-samples`.
    """
    wanted = word.lstrip(DASHES).replace("_", "-").lower()
    last = wanted.rpartition(".")[2].removeprefix("no-")
    score: dict[str, float] = {}
    for full in known:
        name = full.lstrip(DASHES)
        alike = (likeness(wanted, name), 0.9 * likeness(last, name.rpartition(".")[2]))
        score[full] = max(alike)
    best = max(score.values())
    near = [full for full in score if score[full] >= max(0.7, best - 0.12)]
    return sorted(near, key=lambda full: -score[full])[:3]


def likeness(one: str, other: str) -> float:
    """Return how much two words are alike, 0 to 1."""
    return difflib.SequenceMatcher(None, one, other).ratio()


def checked_values(flag: Flag, values: list[str], choices: Choices) -> list[str]:
    """Return the values of a flag, each by itself and in its usual spelling."""
    name, kinds = flag.name.lstrip("-"), flag.values.split()
    if not kinds:
        return []
    is_list = kinds[-1] == "..."
    enough = is_list or len(values) == len(kinds)
    require(enough, name, " ".join(values), f"give a value after it ({flag.values})")
    known = list(choices.get(name, ()))
    if not known and not kinds[0].isupper():
        known = kinds[0].split("|")
    found: list[str] = []
    for value in values:
        for part in listed(flag, value) if is_list else [value]:
            require(
                bool(part.strip()),
                name,
                repr(value),
                "a value is empty; give one or leave the flag out",
            )
            found.append(one_of_list(name, value, part, known or [kinds[0]]))
    return found


def one_of_list(name: str, typed: str, value: str, known: list[str]) -> str:
    """Return one value as `one_value` does; a list of values that a plus joins keeps its pluses."""
    single, bracket, _ = known[0].partition("[+")
    if not bracket:
        return one_value(name, typed, value, known)
    return "+".join(one_value(name, typed, part, [single]) for part in joined_values(value))


def joined_values(word: str) -> list[str]:
    """Return the values that a plus joins; the plus of an exponent is no such."""
    return re.split(r"(?<![\deE][eE])\+", word)


def listed(flag: Flag, value: str) -> list[str]:
    """Return the values that commas separate; the comma of an existing path is a character.

    A text may also be `NAME=FILE` or `FILE#COLUMN`.
    """
    file = re.sub(r"^[\w:-]+=|#[^#/]*$", "", value)
    paths = (os.path.expanduser(os.path.expandvars(each)) for each in (value, file))
    if "," not in value or flag.values.startswith("STR") and any(map(os.path.exists, paths)):
        return [value]
    if flag.is_axis and re.fullmatch(r"\d{1,3}(,\d{3})+", value):
        return [value]  # More likely one number with its thousands apart.
    # `0,5` may stand for 0.5 or for 0 and 5.
    is_decimal = flag.values.startswith("FLOAT") and re.fullmatch(r"-?\d+,\d+", value) is not None
    remedy = f"write {value.replace(',', '.')}, or {value.replace(',', ' ')} for two values"
    require(not is_decimal, flag.name.lstrip("-"), value, remedy)
    return value.removesuffix(",").split(",")


def one_value(name: str, typed: str, value: str, known: list[str]) -> str:
    """Return one value as tyro reads it.

    Args:
        name: the flag without dashes.
        typed: the word of the command line that holds the value.
        value: the value.
        known: the choices, or `INT`, `FLOAT` or `STR` alone.
    """
    if value == "None" or known == ["STR"]:
        return value
    if known == ["INT"]:
        whole = whole_number(value)
        require(whole is not None, name, typed, "give a whole number, in digits alone")
        return str(whole)
    if known == ["FLOAT"]:
        share = value.removesuffix("%")
        percent = value != share and is_number(share)
        remedy = f"write {float(share) / 100:g}" if percent else "give a number, such as 0.5"
        require(is_number(value), name, typed, remedy)
        return value
    same = [choice for choice in known if folded(choice) == folded(value)]
    if len(same) == 1:
        return same[0]
    require_known(name, value, known)
    return value


def whole_number(word: str) -> int | None:
    """Return the whole number that a word stands for, also `1e6` and `2.0`; else None."""
    try:
        return int(word)
    except ValueError:
        pass
    return int(float(word)) if is_number(word) and float(word).is_integer() else None


def folded(choice: str) -> str:
    """Return a choice without case, dashes and underscores."""
    return re.sub(r"[-_\s]", "", choice).lower()


def as_typed(error: BadInputError, arguments: Iterable[str]) -> str:
    """Return the message of an error with the value as the user typed it: 50 instead of 50.0."""
    message, flag = str(error), error.flag
    mine = [given for given in given_flags(arguments) if given.name == f"--{flag}"]
    if flag is None or not mine or not isinstance(error.value, int | float):
        return message
    shown = f"--{flag} {error.value}"
    if not mine[0].values:
        return message.replace(shown, f"--{flag}", 1)
    for word in ",".join(mine[0].values).split(","):
        if is_number(word) and float(word) == error.value:
            return message.replace(shown, f"--{flag} {word}", 1)
    return message
