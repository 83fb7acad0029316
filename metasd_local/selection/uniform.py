"""A random arm in every round, as a yardstick for the policies that learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from metasd_local.protocols import PLAIN, Choice, Offer, RoundFeedback
from metasd_local.selection.rewards import block_efficiency


class UniformPolicy:
    """Draw every drafter with the same probability."""

    def __init__(self, rng: np.random.Generator, *, window: int) -> None:
        self._rng = rng
        self._window = window
        self._arms: Sequence[str] = ()

    def begin(self, arms: Sequence[str]) -> None:
        """Start a query with these arms, `plain` only if there is no other."""
        self._arms = [arm for arm in arms if arm != PLAIN] or [PLAIN]

    def choose(self, offer: Callable[[str], Offer]) -> Choice:
        """Draw an arm."""
        return Choice(self._arms[int(self._rng.integers(len(self._arms)))], self._window)

    def observe(self, arm: str, feedback: RoundFeedback) -> float:
        """Learn nothing; return the block efficiency."""
        return block_efficiency(feedback)

    def scores(self) -> Mapping[str, float]:
        """Return nothing: arms are not compared."""
        return {}
