"""How much one rendering of a chat template may use up: time, work, the size of a value.

Owns the limits; knows nothing of templates beyond the kinds of values they compute with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from jinja2 import Undefined

MAX_SECONDS = 1.0
MAX_WORK = 2**26
MAX_VALUE = 2**22
"""Largest text or container, in the same unit as work."""
STEP_WORK = 64
"""Work of a loop step, a call, or an item in a container; a character is 1."""
_MAX_INTEGER_BITS = 1024
_WORK_BETWEEN_LOOKS = 2**12


class LimitError(Exception):
    """Something a template must not do."""


def refuse(reason: str) -> NoReturn:
    """Stop the rendering; the reason goes on after "The template failed: "."""
    raise LimitError(reason)


class Meter:
    """What the current rendering has used up."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.start()

    def start(self) -> None:
        """Begin a rendering."""
        self._deadline_s = self._clock() + MAX_SECONDS
        self._work = 0
        self._next_look = 0

    def charge(self, work: int) -> None:
        """Count work before it is done."""
        self._work += work
        if self._work > MAX_WORK:
            refuse("it does too much work")
        if self._work >= self._next_look:
            self._next_look = self._work + _WORK_BETWEEN_LOOKS
            if self._clock() > self._deadline_s:
                refuse(f"it ran for more than {MAX_SECONDS:g} s")

    def measure(self, value: Any) -> Any:
        """Charge for a value that was just made, and return it."""
        size_of(value)
        self.charge(STEP_WORK + (len(value) if isinstance(value, str | list | tuple | dict) else 0))
        return value


def size_of(value: object) -> int:
    """Return the size of the text a value would print, or refuse the value.

    Walks into containers, so that values which contain each other twice over and over, and whose
    text or comparison would never end, cannot come into being.
    """
    if not isinstance(value, list | tuple | dict | str | int):
        return STEP_WORK  # jinja2's own objects, and generators
    total = 0
    waiting: list[object] = [value]
    while waiting:
        item = waiting.pop()
        total += STEP_WORK
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, int):
            if item.bit_length() > _MAX_INTEGER_BITS:
                refuse("it computes a number that is too large")
        elif isinstance(item, dict):
            waiting.extend(item.keys())
            waiting.extend(item.values())
        elif isinstance(item, list | tuple):
            waiting.extend(item)
        elif not isinstance(item, float | None | Undefined):
            refuse(f"it puts an object of type {type(item).__name__} into a list")
        if total > MAX_VALUE:
            refuse("it builds a value that is too large")
    return total


def printed(value: object) -> str:
    """Return a value as text; only plain data has one."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple | dict | int | float | None | Undefined):
        refuse(f"it prints an object of type {type(value).__name__}")
    size_of(value)
    return str(value)
