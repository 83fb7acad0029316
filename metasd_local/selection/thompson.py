"""Thompson sampling: the drafter that is best in a world drawn from what is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metasd_local.selection.bandit import Bandit
from metasd_local.selection.rewards import Reward


class ThompsonPolicy(Bandit):
    """Choose the highest of one draw per arm from Beta(1 + successes, 1 + failures).

    A round is a success with its reward for a probability.
    Source: Agrawal and Goyal, "Analysis of Thompson sampling for the multi-armed bandit
    problem", COLT 2012, algorithm 2.
    """

    def __init__(self, reward: Reward, rng: np.random.Generator, *, window: int) -> None:
        super().__init__(reward, window=window)
        self._rng = rng

    def _forget(self, arms: Sequence[str]) -> None:
        self._successes = dict.fromkeys(arms, 0)
        self._failures = dict.fromkeys(arms, 0)

    def _pick(self) -> str:
        beta = self._rng.beta
        self._scores = scores = {
            arm: beta(1 + successes, 1 + self._failures[arm])
            for arm, successes in self._successes.items()
        }
        return max(scores, key=scores.__getitem__)

    def _learn(self, arm: str, reward: float) -> None:
        outcomes = self._successes if self._rng.random() < reward else self._failures
        outcomes[arm] += 1
