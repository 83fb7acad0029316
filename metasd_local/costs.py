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
MOST_CALLS = 6
CLOSE = 100
"""Tokens between two places that differ hardly in what a token costs."""
FILLER = 10
"""What tokens say does not matter to their cost; low ids are control tokens."""


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
    filler = [token % target.vocab_size for token in range(FILLER, FILLER + depth + max(fitting))]
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


def measure_token(target: TokenModel, *, budget_s: float, clock: Callable[[], float]) -> float:
    """Time calls of one token where the target's memory ends now, and return the median.

    The first call only warms up; one counts at least, more as far as `budget_s` seconds reach.
    The memory is afterwards what it was. Raises what `TokenModel.feed` raises.
    """
    depth, seconds, started_s = target.length, list[float](), clock()
    while len(seconds) < 2 or (len(seconds) < MOST_CALLS and clock() - started_s < budget_s):
        began_s = clock()
        target.feed([FILLER % target.vocab_size], 1)
        seconds.append(clock() - began_s)
        target.rewind(depth)
    return float(np.median(seconds[1:]))


class TokenCosts:
    """What a single token costs the target: more, the more stands before it."""

    def __init__(self) -> None:
        self._points: list[tuple[int, float]] = []
        self._slope = self._start = 0.0
        """Of a line through them."""

    def add(self, depth: int, seconds: float) -> None:
        """Take note of what a token took after `depth` others."""
        self._points.append((depth, seconds))
        depths, measured = np.array(self._points).T  # each (len(points),)
        offsets = depths - depths.mean()
        # From places close to each other nothing follows for others.
        self._slope = max(offsets @ measured / max(offsets @ offsets, CLOSE**2), 0.0)
        self._start = measured.mean() - self._slope * depths.mean()

    def at(self, depth: int) -> float | None:
        """Return the seconds of a token after `depth` others, None if none was ever measured."""
        return float(self._start + self._slope * depth) if self._points else None


def read_curve(path: Path, key: str) -> CostCurve | None:
    """Return the curve kept under a key, None if there is none or the file cannot be read."""
    points: Any = read_state(path).get(key)
    try:
        curve = {int(size): float(seconds) for size, seconds in points.items()}
    except (AttributeError, TypeError, ValueError):
        return None
    is_usable = curve and all(0 < size < 2**31 and seconds > 0 for size, seconds in curve.items())
    return CostCurve(dict(sorted(curve.items()))) if is_usable else None


def write_curve(path: Path, key: str, curve: CostCurve) -> None:
    """Keep a curve under a key."""
    write_entry(path, key, {str(size): seconds for size, seconds in curve.points.items()})


PRIOR_SHAPE = CostCurve({1: 1.0, 2: 1.3, 4: 1.8, 8: 2.8, 16: 5.0})
"""V(n) / V(1) until something is measured: low, so that a draft is tried, and then it is."""
PACE_RATE, SLOW_RATE = 0.2, 0.01
"""Weight of a new call in the pace; of one so slow that it tells nothing of its own."""
CHANGE_RATE, LARGEST_CHANGE = 0.05, 0.25
"""The same in what a change of size costs; most it may be, in what the call costs without."""
REMEMBERED_CALLS = 100
"""Calls that are remembered of a size; a measured point of the curve counts for as many."""
MOST_CHANGE = 2.0
"""One call moves an estimate no more than a call that took this many times as long, or short."""
SLOW = 5.0
"""How much longer calls take when threads that wait for each other lack a processor."""
NUM_SLOW = 8


class RunningCosts:
    """V(n) as learned from the calls of a session, robust against single slow ones.

    The machine's pace changes quickly and for all sizes alike, what a size costs at that pace
    hardly ever: the sizes in use must not look dear because the machine is slow just now.
    curve: what was measured before on this machine, if anything.
    """

    def __init__(self, curve: CostCurve | None = None) -> None:
        self._is_measured = curve is not None
        self._shape = curve or PRIOR_SHAPE
        self._pace: float | None = 1.0 if curve else None
        """What a call takes in what the shape says."""
        self._factors: dict[int, float] = {}
        """By size: what a call takes in what pace and shape say."""
        self._num_calls: dict[int, int] = {}
        self._num_slow = 0
        self._last_size = 0
        self.change_s = 0.0
        """Seconds more for a call of another size than the last: it builds its graph anew."""

    @property
    def is_measured(self) -> bool:
        """Whether a measured curve was given."""
        return self._is_measured

    def use(self, curve: CostCurve) -> None:
        """Go on from what was just measured."""
        self._shape, self._is_measured, self._pace = curve, True, 1.0
        self._factors.clear()
        self._num_calls.clear()

    def seconds(self, num_tokens: int) -> float | None:
        """Return V(num_tokens), None if nothing was measured yet."""
        if self._pace is None:
            return None
        factor = self._factors.get(num_tokens, 1.0)
        return self._pace * factor * self._shape.seconds(num_tokens)

    def observe(self, num_tokens: int, seconds: float) -> None:
        """Learn from one call."""
        known_calls = REMEMBERED_CALLS if self._is_measured else 0
        num_calls = self._num_calls.get(num_tokens, known_calls)
        is_change = num_tokens != self._last_size and num_calls > 0
        self._last_size = num_tokens
        pace = self._pace or seconds / self._shape.seconds(num_tokens)
        factor = self._factors.get(num_tokens, 1.0)
        expected = pace * factor * self._shape.seconds(num_tokens)
        is_slow = seconds > SLOW * expected
        self._num_slow = max(self._num_slow + (1 if is_slow else -1), 0)
        doubt = 1 / (num_calls + 2)
        if is_change:
            extra_s = min(max(seconds - expected, 0.0), LARGEST_CHANGE * expected)
            self.change_s += CHANGE_RATE * (extra_s - self.change_s)
            expected += self.change_s
            doubt = 0.0
        change = min(max(seconds / expected, 1 / MOST_CHANGE), MOST_CHANGE) - 1
        self._pace = pace * (1 + (SLOW_RATE if is_slow else PACE_RATE) * (1 - doubt) * change)
        self._factors[num_tokens] = factor * (1 + (SLOW_RATE if is_slow else doubt) * change)
        self._num_calls[num_tokens] = min(num_calls + (not is_change), REMEMBERED_CALLS)

    @property
    def is_slow(self) -> bool:
        """Whether most of the last calls took several times what they should."""
        return self._num_slow >= NUM_SLOW

    def begin_anew(self) -> None:
        """Forget how slow the last calls were, not what they should take."""
        self._num_slow = 0
