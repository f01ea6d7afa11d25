"""Values in the types of their fields, so that equal values have equal identities.

JSON writes `0` and `0.0` differently, and identities are hashes of JSON. A preset may give an int
where a field is a float, a list where it is a tuple, or a path where it is a name.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from numbers import Integral, Real
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from core.checks import require


def give_types_(settings: Any, section: str = "") -> None:
    """Convert all fields of a frozen dataclass to their types, in place.

    Args:
        settings: the dataclass, from its `__post_init__`.
        section: start of the flags of its fields, such as `prune.`.

    Raises:
        BadInputError: a fraction where the field is a whole number.
    """
    hints = hints_of(type(settings))
    for field in dataclasses.fields(settings):
        flag = section + field.name.replace("_", "-")
        value = typed(getattr(settings, field.name), hints[field.name], flag)
        object.__setattr__(settings, field.name, value)


@functools.cache
def hints_of(kind: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields."""
    return get_type_hints(kind)


def typed(value: Any, hint: Any, flag: str) -> Any:
    """Return a value in the type of its field; what does not fit the type stays for later checks.

    Args:
        value: the value.
        hint: the type; of a union the member that fits.
        flag: the flag of the field, for messages.
    """
    if isinstance(value, list | tuple):
        items = next((get_args(each) for each in members(hint) if get_origin(each) is tuple), None)
        return value if items is None else tuple(typed(each, items[0], flag) for each in value)
    wanted = {*members(hint)}
    if bool in wanted and isinstance(value, Real) and value in (0, 1):
        return bool(value)
    if float in wanted and isinstance(value, Real):
        return float(value) + 0.0  # Minus zero becomes zero.
    if int in wanted and isinstance(value, Real):
        if isinstance(value, Integral):
            return int(value)  # Exact, however large.
        real = float(value)
        require(real.is_integer(), flag, value, "use a whole number")
        return int(real)
    if str in wanted and isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def members(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union; another type alone."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
