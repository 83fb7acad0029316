"""What decoding costs: the target's cost curve V(n) and the drafters' seconds per token."""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, starmap
from pathlib import Path
from statistics import fmean, median, median_low
from typing import Any

from metasd_local.errors import BackendError
from metasd_local.protocols import TokenModel
from metasd_local.state import read_state, write_entry

CURVE_SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 24, 32, 33)
"""Where kernels are known to change their pace, and every n a small window needs."""
MOST_SWEEPS = 20
PREFILL_SHARE = 0.25
"""Of a budget, for the tokens that stand before those whose cost is measured."""
CLEARLY = 1.5
"""A call that takes so many times what other calls say it can take was disturbed."""
CLOSE = 100
"""Tokens between two places that differ hardly in what a token costs."""
RECENT_POINTS = 7
FEWEST_DOUBLING = 500
"""After so many tokens one may cost twice as much; what says sooner was disturbed."""
FILLER = 10
"""What tokens say does not matter to their cost; low ids are control tokens."""


@dataclass(frozen=True, slots=True)
class CostCurve:
    """Seconds the target needs to verify n tokens in one call, measured at some n.

    points: at least one, n ascending from 1.
    is_doubtful: whether something else used the processors while it was measured.
    """

    points: Mapping[int, float]
    is_doubtful: bool = False

    def seconds(self, num_tokens: int) -> float:
        """Return V(num_tokens), linear between the measured points and beyond the last."""
        sizes = list(self.points)
        if len(sizes) == 1:
            return self.points[sizes[0]]
        right = min(max(bisect_left(sizes, num_tokens), 1), len(sizes) - 1)
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
    is_busy: Callable[[], bool] = lambda: False,
) -> CostCurve:
    """Time calls of every size after `depth` tokens, sweep after sweep, and keep the fastest.

    When `budget_s` seconds are over no call begins any more, but for those of two sizes: where
    calls are slow, sizes are left out and the depth is less. The curve never falls.
    is_busy: whether others used the processors meanwhile, asked at the end.
    The target's memory is empty afterwards. Raises what `TokenModel.feed` raises.
    """
    started_s = clock()
    fitting = [size for size in sizes if depth + size <= target.context_size]
    filler = [token % target.vocab_size for token in range(FILLER, FILLER + depth + max(fitting))]
    target.rewind(0)
    while target.length < depth and clock() - started_s <= PREFILL_SHARE * budget_s:
        target.feed(filler[target.length : min(target.length + max(fitting), depth)], 0)
    depth = target.length
    try:
        target.feed(filler[:1], 0)
        target.rewind(depth)
    except BackendError:  # a recurrent target: single tokens are timed, one after another
        fitting = fitting[:1]
    # The next always lies amid those before: wherever time ends, the curve's shape is known.
    order = sorted(range(len(fitting)), key=lambda index: -(index & -index) or -len(fitting))
    fastest: dict[int, float] = {}
    for size in (fitting[index] for index in order * MOST_SWEEPS):
        if len(fastest) >= min(2, len(fitting)) and clock() - started_s >= budget_s:
            break
        # The first call of a size builds a graph that the next ones use again, as in an answer.
        for _ in range(2):
            if len(fitting) > 1:
                target.rewind(depth)
            began_s = clock()
            target.feed(filler[depth : depth + size], size)
            seconds = clock() - began_s
        fastest[size] = min(seconds, fastest.get(size, seconds))
    target.rewind(0)
    # What disturbs a call only makes it longer: the fastest of a size is the truest, where a median
    # is wrong if most are disturbed; and what a larger call took bounds the smaller ones.
    points, single_s = dict(sorted(fastest.items())), fastest[fitting[0]]
    is_doubtful, least = False, float("inf")
    for size, measured in reversed(points.items()):
        points[size] = least = min(measured, least)
        is_doubtful |= measured > CLEARLY * min(least, size * single_s)
    return CostCurve(points, is_doubtful or is_busy())


def measure_token(target: TokenModel, *, budget_s: float, clock: Callable[[], float]) -> float:
    """Time calls of one token where the target's memory ends now, and return their mean.

    The first call only warms up; one counts at least, more as far as `budget_s` seconds reach: on
    a busy machine a few would come through at its full speed, which no answer does. The memory is
    afterwards what it was. Raises what `TokenModel.feed` raises.
    """
    depth, seconds, started_s = target.length, list[float](), clock()
    while len(seconds) < 2 or clock() - started_s < budget_s:
        began_s = clock()
        target.feed([FILLER % target.vocab_size], 1)
        seconds.append(clock() - began_s)
        target.rewind(depth)
    return fmean(seconds[1:])


class TokenCosts:
    """What a single token costs the target: more, the more stands before it.

    Medians of what was measured lately, so that a measurement that something disturbed counts for
    nothing once there are two others.
    """

    def __init__(self) -> None:
        self._points: deque[tuple[int, float]] = deque(maxlen=RECENT_POINTS)
        self._slope = 0.0
        """Seconds more for every token before."""

    def add(self, depth: int, seconds: float) -> None:
        """Take note of what a token took after `depth` others."""
        self._points.append((depth, seconds))
        slopes = starmap(_slope, combinations(self._points, 2))
        steepest = min(cost for _, cost in self._points) / FEWEST_DOUBLING
        plausible = [slope for slope in slopes if abs(slope) <= steepest]
        self._slope = max(median(plausible), 0.0) if plausible else 0.0

    def at(self, depth: int) -> float | None:
        """Return the seconds of a token after `depth` others, None if none was ever measured."""
        costs = [cost + self._slope * (depth - place) for place, cost in self._points]
        return max(median_low(costs), 0.0) if costs else None


def _slope(point: tuple[int, float], other: tuple[int, float]) -> float:
    """Return the seconds per token between two places, near 0 for close ones: they tell nothing."""
    distance = point[0] - other[0]
    return (point[1] - other[1]) * distance / max(distance**2, CLOSE**2)


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
    """Keep a curve under a key, unless it is doubtful."""
    if not curve.is_doubtful:
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


@dataclass(slots=True)
class _Size:
    """What is known of the calls of one size."""

    num_calls: int
    factor: float = 1.0
    """What a call takes in what pace and shape say."""


class RunningCosts:
    """V(n) as learned from the calls of a session, robust against single slow ones.

    The machine's pace changes quickly and for all sizes alike, what a size costs at that pace
    hardly ever: the sizes in use must not look dear because the machine is slow just now.
    curve: what was measured before on this machine, if anything.
    """

    def __init__(self, curve: CostCurve | None = None) -> None:
        self._num_slow = self._last_size = 0
        self.change_s = 0.0
        """Seconds more for a call of another size than the last: it builds its graph anew."""
        self.use(curve)

    def use(self, curve: CostCurve | None) -> None:
        """Go on from what was just measured, if anything."""
        self.is_measured = curve is not None
        """Whether a measured curve was given."""
        self._shape_s = functools.cache((curve or PRIOR_SHAPE).seconds)
        self._pace: float | None = 1.0 if curve else None
        """What a call takes in what the shape says."""
        self._sizes: dict[int, _Size] = {}

    def seconds(self, num_tokens: int) -> float | None:
        """Return V(num_tokens), None if nothing was measured yet."""
        if self._pace is None:
            return None
        known = self._sizes.get(num_tokens)
        return self._pace * (known.factor if known else 1.0) * self._shape_s(num_tokens)

    def observe(self, num_tokens: int, seconds: float) -> None:
        """Learn from one call."""
        known_calls = REMEMBERED_CALLS if self.is_measured else 0
        size = self._sizes.setdefault(num_tokens, _Size(known_calls))
        is_change = num_tokens != self._last_size and size.num_calls > 0
        self._last_size = num_tokens
        pace = self._pace or seconds / self._shape_s(num_tokens)
        expected = pace * size.factor * self._shape_s(num_tokens)
        is_slow = seconds > SLOW * expected
        self._num_slow = max(self._num_slow + (1 if is_slow else -1), 0)
        doubt = 1 / (size.num_calls + 2)
        if is_change:
            extra_s = min(max(seconds - expected, 0.0), LARGEST_CHANGE * expected)
            self.change_s += CHANGE_RATE * (extra_s - self.change_s)
            expected += self.change_s
            doubt = 0.0
        change = min(max(seconds / expected, 1 / MOST_CHANGE), MOST_CHANGE) - 1
        self._pace = pace * (1 + (SLOW_RATE if is_slow else PACE_RATE) * (1 - doubt) * change)
        size.factor *= 1 + (SLOW_RATE if is_slow else doubt) * change
        size.num_calls = min(size.num_calls + (not is_change), REMEMBERED_CALLS)

    @property
    def is_slow(self) -> bool:
        """Whether most of the last calls took several times what they should."""
        return self._num_slow >= NUM_SLOW

    def begin_anew(self) -> None:
        """Forget how slow the last calls were, not what they should take."""
        self._num_slow = 0
