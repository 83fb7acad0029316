"""Kinds of option values: how they are written as text, and which of them are allowed."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value: how it is written as text, and which values are allowed."""

    expected: str
    """Completes the sentence "expected ..."."""
    check: Callable[[object], object]
    """Return the value in its final type; raise ValueError if it is not allowed."""
    from_text: Callable[[str], object] = str
    """Turn text into a value for `check`; may raise ValueError."""


def exactly(
    expected: str,
    type_: type,
    is_allowed: Callable[[Any], bool] = lambda _: True,
    from_text: Callable[[str], object] = str,
) -> Kind:
    """Return values of one type, none of its subclasses, with a property."""

    def check(value: object) -> object:
        if type(value) is not type_ or not is_allowed(value):
            raise ValueError
        return value

    return Kind(expected, check, from_text)


def whole(minimum: int, maximum: float = math.inf) -> Kind:
    """Return whole numbers between two limits, both allowed."""
    limits = f"of at least {minimum}" if maximum == math.inf else f"from {minimum} to {maximum}"
    return exactly(f"a whole number {limits}", int, lambda value: minimum <= value <= maximum, int)


def real(expected: str, is_allowed: Callable[[float], bool]) -> Kind:
    """Return finite numbers with a property, which `expected` puts into words."""

    def check(value: Any) -> float:
        if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
            raise ValueError
        if not is_allowed(value):
            raise ValueError
        return float(value)

    return Kind(expected, check, float)


def one_of(choices: tuple[str, ...]) -> Kind:
    """Return texts that are one of `choices`."""
    return exactly("one of " + ", ".join(choices), str, lambda value: value in choices)


def _check_text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    value.encode("utf-8")  # bytes of the command line that are no UTF-8 arrive as lone surrogates
    return value


def _check_texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value:
        raise ValueError
    return tuple(_check_text(item) for item in value)


def _check_path(value: object) -> str:
    return os.path.expanduser(_check_text(value))


def _check_paths(value: object) -> tuple[str, ...]:
    return tuple(os.path.expanduser(text) for text in _check_texts(value))


def _policies_from_text(text: str) -> list[str]:
    """Split at the commas; an item with `=` belongs to the policy before it."""
    policies: list[str] = []
    for item in _split(text):
        if "=" in item.partition(":")[0] and policies:
            policies[-1] += f",{item}"
        else:
            policies.append(item)
    return policies


def _check_count(value: object) -> object:
    """Turn 350M into 350,000,000."""
    if isinstance(value, str):
        units = {"K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}
        unit = units.get(value[-1:].upper(), 1)
        number = float(value[:-1] if unit > 1 else value) * unit
        value = round(number) if math.isfinite(number) else 0
    return whole(1).check(value)


def _from_switch_text(text: str) -> bool:
    values = dict.fromkeys(("1", "true", "yes", "on"), True)
    values |= dict.fromkeys(("0", "false", "no", "off"), False)
    if text.lower() not in values:
        raise ValueError
    return values[text.lower()]


def _split(text: str) -> list[str]:
    return [item.strip() for item in text.split(",")]


_LIST = "separated by commas (in config.toml a list)"

TEXT = Kind("a text that is not empty", _check_text)
ANY_TEXT = Kind("a text", lambda value: value and _check_text(value))
TEXTS = Kind("a text that is not empty, or a list of them", _check_texts)
# A shell leaves the ~ after a comma alone.
NAMES = Kind(f"names or paths {_LIST}", _check_paths, _split)
POLICY_LIST = Kind(f"policies {_LIST}", _check_texts, _policies_from_text)
DOMAINS = Kind(f"names {_LIST}", _check_texts, _split)
COUNT = Kind("a number such as 350M", _check_count)
POSITIVE = real("a number above 0", lambda value: value > 0)
SHARE = real("a number from 0 to 1", lambda value: 0 <= value <= 1)
PATHS = Kind("a path, or a list of them", _check_paths)
PATH = Kind("a name or a path", _check_path)
SWITCH = exactly("true or false", bool, from_text=_from_switch_text)
