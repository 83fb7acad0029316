"""EXP3Spec: exponential weights on the losses of the drawn arms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from metasd_local.selection.bandit import Bandit, ListArms, reward_between
from metasd_local.selection.lottery import draw, softmax


class Exp3SpecPolicy(Bandit):
    """Draw arm i in proportion to exp(-eta_t Z_i), eta_t = sqrt(ln K / (t K)).

    Z_i sums (1 - reward) / p_i over the rounds of arm i, drawn with p_i: with the accepted share
    of the window L for a reward this is the paper's (L + 1 - emitted) / (L p_i). Between windows
    (its section 6.2) throughput is the reward.
    Source: BanditSpec, arXiv 2505.15141, algorithm 5.
    """

    def __init__(self, rng: np.random.Generator, *, arms: ListArms, window: int) -> None:
        super().__init__(reward_between(arms), window=window, list_arms=arms)
        self._rng = rng

    def _forget(self, arms: Sequence[str]) -> None:
        self._losses = dict.fromkeys(arms, 0.0)
        self._round = 0

    def _pick(self) -> str:
        self._round += 1
        num_arms = len(self._losses)
        rate = math.sqrt(math.log(num_arms) / (self._round * num_arms))
        self._scores = softmax({arm: -rate * loss for arm, loss in self._losses.items()})
        return draw(self._rng, self._scores)

    def _learn(self, arm: str, reward: float) -> None:
        self._losses[arm] += (1 - reward) / self._scores[arm]
