"""The same arm in every round: `fixed:<drafter>`, and `plain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from metasd_local.protocols import PLAIN, Arms, Choice, RoundFeedback
from metasd_local.selection.rewards import block_efficiency


class FixedPolicy:
    """Choose one arm for ever, and `plain` should that arm be gone."""

    def __init__(self, arm: str, *, window: int) -> None:
        self._wanted = Choice(arm=arm, window=window)
        self._choice = self._wanted

    def begin(self, arms: Sequence[str]) -> None:
        """Start a query with these arms."""
        is_there = self._wanted.arm in arms
        self._choice = self._wanted if is_there else Choice(arm=PLAIN, window=1)

    def choose(self, arms: Arms) -> Choice:
        """Return the one choice."""
        return self._choice

    def observe(self, arm: str, feedback: RoundFeedback) -> float:
        """Learn nothing; return the block efficiency."""
        return block_efficiency(feedback)

    def scores(self) -> Mapping[str, float]:
        """Return nothing: arms are not compared."""
        return {}
