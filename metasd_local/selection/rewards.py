"""What a round is worth: functions of a round, separate from every policy.

A round in which nothing was drafted is worth 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from metasd_local.protocols import RoundFeedback

Reward: TypeAlias = Callable[[RoundFeedback], float]


def block_divergence(feedback: RoundFeedback) -> float:
    """Return the mean of 1 - TV(target, drafter) over the positions reached, in [0, 1].

    Reached are the accepted positions and the first rejected one; what the drafter proposed
    after it continues a text that does not exist. Source: MetaSD, arXiv 2604.05417, reward BD,
    which averages over the whole window instead.
    """
    if not feedback.drafted:
        return 0.0
    overlaps: list[float] = feedback.overlaps().tolist()
    # Laws summed in single precision can overlap by a rounding error more than wholly.
    return min(1.0, sum(overlaps) / len(overlaps))


def block_efficiency(feedback: RoundFeedback) -> float:
    """Return accepted / window, in [0, 1]. Source: MetaSD, arXiv 2604.05417, reward BE."""
    return feedback.accepted / feedback.window if feedback.drafted else 0.0


class ScaledThroughput:
    """Return emitted tokens / seconds of the round, over the largest so far, in [0, 1].

    The largest is kept between queries: it is a unit, not something learnt about arms.
    """

    def __init__(self) -> None:
        self._largest = 0.0

    def __call__(self, feedback: RoundFeedback) -> float:
        """Return the reward of a round."""
        throughput = feedback.emitted / max(feedback.seconds, 1e-9)
        self._largest = max(self._largest, throughput)
        return throughput / self._largest
