"""What policies share that learn from nothing but the reward of the chosen arm.

An arm is a drafter, or a window of one drafter where `ListArms` says so.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from metasd_local.protocols import PLAIN, Arms, Choice, RoundFeedback
from metasd_local.selection.rewards import Reward, ScaledThroughput, block_efficiency

ListArms: TypeAlias = Callable[[Sequence[str], int], Mapping[str, Choice]]
"""From the pool's arms and a window to what may be chosen, by name."""


def drafters(arms: Sequence[str], window: int) -> Mapping[str, Choice]:
    """List every drafter with the same window; `plain` only if there is no other.

    Rewards lie in [0, 1] and `plain` earns neither BD nor BE.
    """
    names = [arm for arm in arms if arm != PLAIN] or [PLAIN]
    return {name: Choice(name, window) for name in names}


def windows(arms: Sequence[str], window: int) -> Mapping[str, Choice]:
    """List the windows 1 to `window` of the pool's first drafter, and `plain`."""
    choices = {PLAIN: Choice(PLAIN, 1)}
    for name in [arm for arm in arms if arm != PLAIN][:1]:
        choices |= {f"{name}:{size}": Choice(name, size) for size in range(1, window + 1)}
    return choices


def reward_between(list_arms: ListArms) -> Reward:
    """Return the reward by which BanditSpec compares drafters, or windows."""
    return ScaledThroughput() if list_arms is windows else block_efficiency


class Bandit(ABC):
    """Choose what `_pick` names and tell `_learn` what it earned; forget both for every query."""

    def __init__(self, reward: Reward, *, window: int, list_arms: ListArms = drafters) -> None:
        self._reward = reward
        self._window = window
        self._list_arms = list_arms
        self._choices: Mapping[str, Choice] = {}
        self._scores: dict[str, float] = {}

    def begin(self, arms: Sequence[str]) -> None:
        """Start a query with these arms."""
        self._choices = self._list_arms(arms, self._window)
        self._scores = dict.fromkeys(self._choices, math.inf)
        self._forget(list(self._choices))

    def choose(self, arms: Arms) -> Choice:
        """Choose an arm."""
        return self._choices[self._pick()]

    def observe(self, arm: str, feedback: RoundFeedback) -> float:
        """Learn the reward of a round and return it."""
        reward = self._reward(feedback)
        self._learn(arm if arm in self._choices else f"{arm}:{feedback.window}", reward)
        return reward

    def scores(self) -> Mapping[str, float]:
        """Return what the arms were last compared by."""
        return self._scores

    @abstractmethod
    def _forget(self, arms: Sequence[str]) -> None: ...

    @abstractmethod
    def _pick(self) -> str:
        """Return an arm and leave what all of them were compared by in `_scores`."""

    @abstractmethod
    def _learn(self, arm: str, reward: float) -> None: ...


class UpperBound(Bandit):
    """Choose the highest mean reward + bonus, the first of equals, every arm once before."""

    def _forget(self, arms: Sequence[str]) -> None:
        self._num_rounds = dict.fromkeys(arms, 0.0)
        self._sums = dict.fromkeys(arms, 0.0)

    def _pick(self) -> str:
        sums, total = self._sums, sum(self._num_rounds.values())
        self._scores = scores = {
            arm: sums[arm] / rounds + self._bonus(rounds, total) if rounds > 0 else math.inf
            for arm, rounds in self._num_rounds.items()
        }
        return max(scores, key=scores.__getitem__)

    def _learn(self, arm: str, reward: float) -> None:
        self._num_rounds[arm] += 1
        self._sums[arm] += reward

    @abstractmethod
    def _bonus(self, num_rounds: float, total: float) -> float:
        """Return what an arm's score exceeds its mean by, of its rounds and those of all arms."""
