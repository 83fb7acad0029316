"""MetaSD-UCB: the drafter with the highest upper confidence bound of its mean reward."""

from __future__ import annotations

import math

from metasd_local.selection.bandit import UpperBound
from metasd_local.selection.rewards import Reward


class UcbPolicy(UpperBound):
    """Choose argmax of mean + beta * sqrt(2 ln t / n), every arm once before.

    t counts the rounds of the query, n those of the arm, and a query starts from nothing.
    Source: MetaSD, arXiv 2604.05417, MetaSD-UCB; beta = 1 is the main theorem's.
    """

    def __init__(self, reward: Reward, *, beta: float, window: int) -> None:
        super().__init__(reward, window=window)
        self._beta = beta

    def _bonus(self, num_rounds: float, total: float) -> float:
        return self._beta * math.sqrt(2 * math.log(max(total, 1.0)) / num_rounds)
