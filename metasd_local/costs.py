"""What decoding costs: the target's cost curve V(n) and the drafters' seconds per token."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metasd_local.protocols import TokenModel
from metasd_local.state import read_state, write_entry

CURVE_SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 24, 32, 33)
"""Where kernels are known to change their pace, and every n a small window needs."""
FEWEST_SWEEPS = 3


@dataclass(frozen=True, slots=True)
class CostCurve:
    """Seconds the target needs to verify n tokens in one call, measured at some n.

    points: at least one, n ascending from 1.
    """

    points: Mapping[int, float]

    def seconds(self, num_tokens: int) -> float:
        """Return V(num_tokens), linear between the measured points and beyond the last."""
        sizes = list(self.points)
        index = bisect_left(sizes, num_tokens)
        if index < len(sizes) and sizes[index] == num_tokens:
            return self.points[num_tokens]
        if len(sizes) == 1:
            return self.points[sizes[0]]
        right = min(max(index, 1), len(sizes) - 1)
        low, high = sizes[right - 1], sizes[right]
        slope = (self.points[high] - self.points[low]) / (high - low)
        return self.points[low] + slope * (num_tokens - low)


def measure_curve(
    target: TokenModel,
    *,
    depth: int,
    budget_s: float,
    clock: Callable[[], float],
    sizes: Sequence[int] = CURVE_SIZES,
    most_sweeps: int = 20,
) -> CostCurve:
    """Time calls of every size after `depth` tokens, sweep after sweep, and return the medians.

    The first sweep only warms up. At least three count, more as far as `budget_s` seconds reach.
    The target's memory is empty afterwards. Raises what `TokenModel.feed` raises.
    """
    fitting = [size for size in sizes if depth + size <= target.context_size]
    # What the tokens say does not matter to their cost; low ids are control tokens.
    filler = [token % target.vocab_size for token in range(10, 10 + depth + max(fitting))]
    target.rewind(0)
    target.feed(filler[:depth], 0)
    sweeps: list[list[float]] = []
    started_s = clock()
    while len(sweeps) <= FEWEST_SWEEPS or (
        len(sweeps) <= most_sweeps and clock() - started_s < budget_s
    ):
        seconds = []
        for size in fitting:
            # The first call of a size builds a graph that the next ones use again, as in an answer.
            for _ in range(2):
                target.rewind(depth)
                began_s = clock()
                target.feed(filler[depth : depth + size], size)
                finished_s = clock()
            seconds.append(finished_s - began_s)
        sweeps.append(seconds)
    target.rewind(0)
    medians = np.median(np.array(sweeps[1:]), axis=0)  # (len(fitting),)
    return CostCurve(dict(zip(fitting, medians.tolist(), strict=True)))


def read_curve(path: Path, key: str) -> CostCurve | None:
    """Return the curve kept under a key, None if there is none or the file cannot be read."""
    points: Any = read_state(path).get(key)
    try:
        curve = {int(size): float(seconds) for size, seconds in points.items()}
    except (AttributeError, TypeError, ValueError):
        return None
    is_usable = curve and all(size > 0 < seconds for size, seconds in curve.items())
    return CostCurve(dict(sorted(curve.items()))) if is_usable else None


def write_curve(path: Path, key: str, curve: CostCurve) -> None:
    """Keep a curve under a key."""
    write_entry(path, key, {str(size): seconds for size, seconds in curve.points.items()})


PRIOR_SHAPE = CostCurve({1: 1.0, 2: 1.3, 4: 1.8, 8: 2.8, 16: 5.0})
"""V(n) / V(1) until something is measured: low, so that a draft is tried, and then it is."""
LEARNING_RATE, SLOW_LEARNING_RATE = 0.1, 0.01
MOST_CHANGE = 2.0
"""One call moves an estimate no more than a call that took this many times as long, or short."""
SLOW = 5.0
"""How much longer calls take when threads that wait for each other lack a processor."""
NUM_SLOW = 8


class RunningCosts:
    """V(n) as learned from the calls of a session, robust against single slow ones.

    curve: what was measured before on this machine, if anything.
    """

    def __init__(self, curve: CostCurve | None = None) -> None:
        self._is_measured = curve is not None
        self._shape = curve or PRIOR_SHAPE
        self._estimates: dict[int, float] = {}
        self._num_slow = 0
        self._last_size = 0

    @property
    def is_measured(self) -> bool:
        """Whether a measured curve was given."""
        return self._is_measured

    def use(self, curve: CostCurve) -> None:
        """Go on from what was just measured."""
        self._shape, self._is_measured = curve, True
        self._estimates.clear()

    def seconds(self, num_tokens: int) -> float | None:
        """Return V(num_tokens), None if nothing was measured yet."""
        if num_tokens in self._estimates:
            return self._estimates[num_tokens]
        shape, known = self._shape.seconds(num_tokens), self._estimates
        if not known:
            return shape if self._is_measured else None
        return shape * sum(known.values()) / sum(map(self._shape.seconds, known))

    def observe(self, num_tokens: int, seconds: float) -> None:
        """Learn from one call, unless only its size is new: then it built a graph first."""
        is_typical = num_tokens == self._last_size or num_tokens not in self._estimates
        self._last_size = num_tokens
        expected = self._estimates.get(num_tokens) or self.seconds(num_tokens) or seconds
        rate = LEARNING_RATE
        if seconds > SLOW * expected:
            self._num_slow += 1
            rate = SLOW_LEARNING_RATE
        elif self._num_slow:
            self._num_slow -= 1
        if is_typical:
            bounded = min(max(seconds, expected / MOST_CHANGE), expected * MOST_CHANGE)
            self._estimates[num_tokens] = expected + rate * (bounded - expected)

    @property
    def is_slow(self) -> bool:
        """Whether most of the last calls took several times what they should."""
        return self._num_slow >= NUM_SLOW

    def begin_anew(self) -> None:
        """Forget how slow the last calls were, not what they should take."""
        self._num_slow = 0
