"""Sequential halving: try all drafters, drop the worse half, and commit to the last one left."""

from __future__ import annotations

import math
from collections.abc import Sequence

from metasd_local.selection.bandit import Bandit
from metasd_local.selection.rewards import Reward


class HalvingPolicy(Bandit):
    """Give every arm left budget / (arms left * ceil(log2 K)) rounds in a row, then halve.

    Only the means of the last phase count. An arm's rounds follow each other, so that it catches
    up once in a phase.
    Source: Karnin, Koren, Somekh, "Almost optimal exploration in multi-armed bandits", ICML
    2013, algorithm 1; MetaSD-SH, arXiv 2604.05417, commits after it. The budget is ours.
    """

    def __init__(self, reward: Reward, *, budget: int, window: int) -> None:
        super().__init__(reward, window=window)
        self._budget = budget

    def _forget(self, arms: Sequence[str]) -> None:
        self._num_phases = math.ceil(math.log2(len(arms)))
        self._start_phase(arms)

    def _pick(self) -> str:
        while len(self._sums) > 1:
            for arm, rounds in self._num_rounds.items():
                if rounds < self._quota:
                    return arm
            best_first = sorted(self._sums, key=self._scores.__getitem__, reverse=True)
            self._start_phase(best_first[: math.ceil(len(best_first) / 2)])
        return next(iter(self._sums))

    def _learn(self, arm: str, reward: float) -> None:
        self._num_rounds[arm] += 1
        self._sums[arm] += reward
        # The scores of the last choice have left in an event.
        self._scores = {**self._scores, arm: self._sums[arm] / self._num_rounds[arm]}

    def _start_phase(self, arms: Sequence[str]) -> None:
        self._sums = dict.fromkeys(arms, 0.0)
        self._num_rounds = dict.fromkeys(arms, 0)
        self._quota = max(1, self._budget // (len(arms) * max(1, self._num_phases)))
