"""Seconds that models spend inside the library that computes them."""

from __future__ import annotations


class Stopwatch:
    """Add up the seconds of all models that share it; they add, everybody else reads."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = 0.0
