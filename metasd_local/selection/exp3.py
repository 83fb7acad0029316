"""MetaSD-EXP3: arms drawn by exponential weights, for rewards an adversary may choose."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from metasd_local.selection.bandit import Bandit
from metasd_local.selection.lottery import draw, softmax
from metasd_local.selection.rewards import Reward


class Exp3Policy(Bandit):
    """Draw arm i with p_i = (1 - gamma) w_i / sum(w) + gamma / K; w_i *= exp(gamma r / (p_i K)).

    Without a `gamma` it is min(1, sqrt(K ln K / ((e - 1) t))) in round t.
    Source: Auer, Cesa-Bianchi, Freund, Schapire, "The nonstochastic multiarmed bandit problem",
    2002, Exp3 and corollary 3.2 with the rounds so far for the bound on the gain. MetaSD,
    arXiv 2604.05417, uses it; its parameters are not known.
    """

    def __init__(
        self, reward: Reward, rng: np.random.Generator, *, gamma: float | None, window: int
    ) -> None:
        super().__init__(reward, window=window)
        self._rng = rng
        self._fixed_gamma = gamma

    def _forget(self, arms: Sequence[str]) -> None:
        self._log_weights = dict.fromkeys(arms, 0.0)
        self._round = 0
        self._gamma = 1.0

    def _pick(self) -> str:
        self._round += 1
        num_arms = len(self._log_weights)
        usual = num_arms * math.log(num_arms) / ((math.e - 1) * self._round)
        self._gamma = gamma = self._fixed_gamma or min(1.0, math.sqrt(usual))
        shares = softmax(self._log_weights)
        self._scores = {
            arm: (1 - gamma) * share + gamma / num_arms for arm, share in shares.items()
        }
        return draw(self._rng, self._scores)

    def _learn(self, arm: str, reward: float) -> None:
        gain = reward / self._scores[arm]
        self._log_weights[arm] += self._gamma * gain / len(self._log_weights)
