"""MetaSD-UCB: the drafter with the highest upper confidence bound of its mean reward."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from metasd_local.protocols import PLAIN, Choice, Offer, RoundFeedback
from metasd_local.selection.rewards import Reward


class UcbPolicy:
    """Choose argmax of mean + beta * sqrt(2 ln t / n), every arm once before.

    t counts the rounds of the query, n those of the arm, and a query starts from nothing.
    Rewards lie in [0, 1], so `plain`, which earns neither BD nor BE, is no arm here unless it is
    the only one. Source: MetaSD, arXiv 2604.05417, MetaSD-UCB; beta = 1 is the main theorem's.
    """

    def __init__(self, reward: Reward, *, beta: float, window: int) -> None:
        self._reward = reward
        self._beta = beta
        self._window = window
        self._num_rounds: dict[str, int] = {}
        self._means: dict[str, float] = {}
        self._scores: dict[str, float] = {}

    def begin(self, arms: Sequence[str]) -> None:
        """Start a query with these arms."""
        names = [arm for arm in arms if arm != PLAIN] or [PLAIN]
        self._num_rounds = dict.fromkeys(names, 0)
        self._means = dict.fromkeys(names, 0.0)
        self._scores = dict.fromkeys(names, math.inf)

    def choose(self, offer: Callable[[str], Offer]) -> Choice:
        """Choose the highest score, the first of equals."""
        total = sum(self._num_rounds.values())
        width = self._beta * math.sqrt(2 * math.log(total)) if total else math.inf
        means, square_root = self._means, math.sqrt
        self._scores = scores = {
            arm: means[arm] + width / square_root(rounds) if rounds else math.inf
            for arm, rounds in self._num_rounds.items()
        }
        return Choice(max(scores, key=scores.__getitem__), self._window)

    def observe(self, arm: str, feedback: RoundFeedback) -> float:
        """Add one round to an arm's mean."""
        reward = self._reward(feedback)
        rounds = self._num_rounds[arm] + 1
        self._num_rounds[arm] = rounds
        self._means[arm] += (reward - self._means[arm]) / rounds
        return reward

    def scores(self) -> Mapping[str, float]:
        """Return every arm's upper confidence bound at the last choice."""
        return self._scores
