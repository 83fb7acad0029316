"""A random arm in every round, as a yardstick for the policies that learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metasd_local.selection.bandit import Bandit
from metasd_local.selection.rewards import block_efficiency


class UniformPolicy(Bandit):
    """Draw every drafter with the same probability; there are no scores."""

    def __init__(self, rng: np.random.Generator, *, window: int) -> None:
        super().__init__(block_efficiency, window=window)
        self._rng = rng

    def _forget(self, arms: Sequence[str]) -> None:
        self._arms = arms
        self._scores = {}

    def _pick(self) -> str:
        return self._arms[int(self._rng.integers(len(self._arms)))]

    def _learn(self, arm: str, reward: float) -> None:
        pass
