"""UCBSpec: upper confidence bounds that hold at every time at once."""

from __future__ import annotations

import math

from metasd_local.selection.bandit import ListArms, UpperBound, reward_between


class UcbSpecPolicy(UpperBound):
    """Choose argmax of mean + 1/2 sqrt((1 + n) / n^2 (1 + 2 ln(K t^2 sqrt(1 + n) / delta))).

    n counts the rounds of the arm, t those of all K arms. The paper rewards a round with its
    emitted tokens, which lie in [1, L + 1]; here they are scaled to [0, 1], and the paper's
    factor L / 2 with them. Between windows (its section 6.2) throughput is the reward.
    Source: BanditSpec, arXiv 2505.15141, algorithm 4 and equation 6, where delta has no value:
    0.1 is ours. Its published code adds the same bonus to all arms; this is the paper's.
    """

    def __init__(self, *, arms: ListArms, delta: float, window: int) -> None:
        super().__init__(reward_between(arms), window=window, list_arms=arms)
        self._delta = delta

    def _bonus(self, num_rounds: float, total: float) -> float:
        more = 1 + num_rounds
        inverse_chance = len(self._sums) * total**2 * math.sqrt(more) / self._delta
        return math.sqrt(more * (1 + 2 * math.log(inverse_chance))) / (2 * num_rounds)
