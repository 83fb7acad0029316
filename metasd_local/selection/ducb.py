"""Discounted UCB: MetaSD-UCB on rewards that fade with every round."""

from __future__ import annotations

from metasd_local.selection.rewards import Reward
from metasd_local.selection.ucb import UcbPolicy


class DiscountedUcbPolicy(UcbPolicy):
    """Choose as UCB does, all sums and counts multiplied by `discount` in every round.

    Source: Garivier and Moulines, "On upper-confidence bound policies for switching bandit
    problems", arXiv 0805.3415, D-UCB with B = 1 and xi = 1/2 (at beta = 1), which MetaSD's
    appendix proposes; their discount of 1 - 1 / (4 sqrt(T)) is 0.98 at T = 200 rounds.
    """

    def __init__(self, reward: Reward, *, beta: float, discount: float, window: int) -> None:
        super().__init__(reward, beta=beta, window=window)
        self._discount = discount

    def _learn(self, arm: str, reward: float) -> None:
        for name in self._sums:
            self._num_rounds[name] *= self._discount
            self._sums[name] *= self._discount
        super()._learn(arm, reward)
