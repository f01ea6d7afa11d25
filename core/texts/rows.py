"""Rows of JSON and of separated values: one string each, from one column.

JSON is lines of objects or strings, a list of them, or an object that holds one list or a list of
strings by the column's name.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from core.checks import BadInputError, is_unicode, require
from core.texts.columns import name_a_column, without_nulls
from core.texts.forms import separator
from core.texts.sources import Text

KINDS = {str: "string", int: "number", float: "number", bool: "bool", list: "list", dict: "object"}
"""Types of JSON values in words."""
Placed = tuple[str, Any]
"""A value and its place in words: `line 3`."""


def json_rows(text: Text, content: str) -> list[str]:
    """Return the rows of JSON lines or of one JSON document."""
    lines = [(n, line) for n, line in enumerate(content.split("\n"), 1) if line.strip()]
    if len(lines) > 1 and is_whole(lines[0][1]):
        placed = ((f"line {n}", _line_value(text, n, line)) for n, line in lines)
    else:
        placed = _document_rows(text, content)
    return strings(text, ((place, _cell(text, place, value)) for place, value in placed))


def is_whole(line: str) -> bool:
    """Return True if a line is an object or a string by itself."""
    try:
        return isinstance(json.loads(line), dict | str)
    except (ValueError, RecursionError):
        return False


def _line_value(text: Text, number: int, line: str) -> Any:
    """Return the value of one JSON line; refuse a line that is no JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        remedy = f'line {number} is not JSON like {{"{text.column}": "..."}}'
        raise BadInputError(f"--{text.flag} {text.name}: {remedy}") from None


def _document_rows(text: Text, content: str) -> Iterator[Placed]:
    """Yield the rows of one JSON document."""
    try:
        value = json.loads(content)
    except json.JSONDecodeError as error:
        remedy = f"line {error.lineno} is not JSON ({error.msg}); give objects or one list of them"
        raise BadInputError(f"--{text.flag} {text.name}: {remedy}") from None
    except (ValueError, RecursionError) as error:
        remedy = f"cannot be read as JSON ({error})"
        raise BadInputError(f"--{text.flag} {text.name}: {remedy}") from None
    for index, row in enumerate(listed(value, text.column), 1):
        yield f"row {index}", row


def listed(value: Any, column: str) -> list[Any]:
    """Return the rows of a JSON document.

    Those of an object are its list by the column's name, else its list of objects. An object with
    none of these, or with several lists of objects, is a row itself.
    """
    if isinstance(value, list):
        return value
    if not isinstance(value, dict) or column in value:
        found = value[column] if isinstance(value, dict) else None
        return found if isinstance(found, list) else [value]
    lists = [each for each in value.values() if isinstance(each, list)]
    objects = [each for each in lists if each and all(isinstance(row, dict) for row in each)]
    return objects[0] if len(objects) == 1 else [value]


def _cell(text: Text, place: str, row: Any) -> Any:
    """Return the text of a row: that of its column, or the row itself if it is a string or null."""
    if row is None or isinstance(row, str):
        return row
    remedy = f'{place} is not an object like {{"{text.column}": "..."}}'
    require(isinstance(row, dict), text.flag, text.name, remedy)
    if text.column not in row:
        kinds = {key: KINDS.get(type(value), "null") for key, value in row.items()}
        remedy = f"{place} {name_a_column(text, kinds)}"
        raise BadInputError(f"--{text.flag} {text.name}: {remedy}")
    return row[text.column]


def separated_rows(text: Text, content: str) -> list[str]:
    """Return one column of a table of separated values; its first line names the columns."""
    mark = separator(content.lstrip("\n").partition("\n")[0])
    limit = csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=mark, strict=True)
    try:
        lines = [(f"the row that ends in line {reader.line_num}", row) for row in reader if row]
    except csv.Error as error:
        remedy = f"line {reader.line_num} is no row of a table ({error}); quote the texts"
        raise BadInputError(f"--{text.flag} {text.name}: {remedy}") from error
    finally:
        csv.field_size_limit(limit)
    names = [field.strip() for field in lines[0][1]]
    remedy = name_a_column(text, dict.fromkeys(names, "string"))
    require(text.column in names, text.flag, text.name, remedy)
    once = names.count(text.column) == 1
    require(once, text.flag, text.name, f"has two columns {text.column!r}; rename one")
    for place, row in lines[1:]:
        remedy = f"{place} has {len(row)} fields, the first line {len(names)}; quote the texts"
        require(len(row) == len(names), text.flag, text.name, remedy)
    index = names.index(text.column)
    return strings(text, ((place, row[index]) for place, row in lines[1:]))


def strings(text: Text, placed: Iterable[Placed]) -> list[str]:
    """Return the values without nulls; refuse what is no text."""
    found: list[str] = []
    nulls = 0
    for place, value in placed:
        if value is None:
            nulls += 1
            continue
        kind = KINDS.get(type(value))
        remedy = f"{place} has {text.column!r} of type {kind}; give strings"
        require(isinstance(value, str), text.flag, text.name, remedy)
        remedy = f"{place} holds half of a character (a surrogate, \\ud800 to \\udfff)"
        require(is_unicode(value), text.flag, text.name, remedy)
        found.append(value)
    without_nulls(text, found, nulls)
    return found
