"""Kinds of option values: how they are written as text, and which of them are allowed."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value: how it is written as text, and which values are allowed."""

    expected: str
    """Completes the sentence "expected ..."."""
    from_text: Callable[[str], object]
    """Turn text into a value for `check`; may raise ValueError."""
    check: Callable[[object], object]
    """Return the value in its final type; raise ValueError if it is not allowed."""


def whole(minimum: int, maximum: int | None = None) -> Kind:
    """Return whole numbers between two limits, both allowed."""

    def check(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise ValueError
        if maximum is not None and value > maximum:
            raise ValueError
        return value

    limits = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
    return Kind(f"a whole number {limits}", int, check)


def real(expected: str, is_allowed: Callable[[float], bool]) -> Kind:
    """Return finite numbers with a property, which `expected` puts into words."""

    def check(value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError
        if not math.isfinite(value) or not is_allowed(value):
            raise ValueError
        return float(value)

    return Kind(expected, float, check)


def one_of(choices: tuple[str, ...]) -> Kind:
    """Return texts that are one of `choices`."""

    def check(value: object) -> object:
        if value not in choices:
            raise ValueError
        return value

    return Kind("one of " + ", ".join(choices), str, check)


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
    for item in text.split(","):
        name = item.partition(":")[0]
        if "=" in name and policies:
            policies[-1] += f",{item.strip()}"
        else:
            policies.append(item.strip())
    return policies


def _check_count(value: object) -> int:
    """Turn 350M into 350,000,000."""
    if isinstance(value, str):
        units = {"K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}
        unit = units.get(value[-1:].upper(), 1)
        value = round(float(value[:-1] if unit > 1 else value) * unit)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError
    return value


def _from_switch_text(text: str) -> bool:
    values = dict.fromkeys(("1", "true", "yes", "on"), True)
    values |= dict.fromkeys(("0", "false", "no", "off"), False)
    if text.lower() not in values:
        raise ValueError
    return values[text.lower()]


def _check_switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


TEXT = Kind("a text that is not empty", str, _check_text)
TEXTS = Kind("a text that is not empty, or a list of them", str, _check_texts)
NAMES = Kind(
    "names or paths separated by commas (in config.toml a list)",
    lambda text: [item.strip() for item in text.split(",")],
    _check_paths,  # a shell leaves the ~ after a comma alone
)
POLICY_LIST = Kind(
    "policies separated by commas (in config.toml a list)", _policies_from_text, _check_texts
)
DOMAINS = Kind(
    "names separated by commas (in config.toml a list)",
    lambda text: [item.strip() for item in text.split(",")],
    _check_texts,
)
COUNT = Kind("a number such as 350M", str, _check_count)
PATHS = Kind("a path, or a list of them", str, _check_paths)
PATH = Kind("a name or a path", str, _check_path)
SWITCH = Kind("true or false", _from_switch_text, _check_switch)
