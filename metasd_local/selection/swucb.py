"""Sliding-window UCB: MetaSD-UCB on the last rounds only."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from metasd_local.selection.rewards import Reward
from metasd_local.selection.ucb import UcbPolicy


class SlidingUcbPolicy(UcbPolicy):
    """Choose as UCB does on the last `rounds` rounds; an arm not among them is tried again.

    Source: Garivier and Moulines, arXiv 0805.3415, SW-UCB with B = 1 and xi = 2 (at beta = 1);
    their 4 sqrt(T ln T) rounds are 130 at T = 200.
    """

    def __init__(self, reward: Reward, *, beta: float, rounds: int, window: int) -> None:
        super().__init__(reward, beta=beta, window=window)
        self._last: deque[tuple[str, float]] = deque()
        self._rounds = rounds

    def _forget(self, arms: Sequence[str]) -> None:
        super()._forget(arms)
        self._last.clear()

    def _learn(self, arm: str, reward: float) -> None:
        super()._learn(arm, reward)
        self._last.append((arm, reward))
        if len(self._last) > self._rounds:
            oldest, forgotten = self._last.popleft()
            self._num_rounds[oldest] -= 1
            self._sums[oldest] -= forgotten
