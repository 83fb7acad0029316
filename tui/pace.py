"""How often the screen is drawn while an answer grows."""

from __future__ import annotations

import time
from collections.abc import Callable

FASTEST_S, SLOWEST_S = 1 / 15, 1.0
"""The shortest and the longest pause between two drawings."""
SHARE = 0.06
"""What drawing may take of a core."""
SMOOTHING = 0.2


class Pace:
    """Measures what drawing costs and chooses the pauses so that it takes its share, if it can.

    clock: CPU seconds of the thread that draws.
    """

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self._clock = clock
        self._cost_s = 0.0
        self.begin()

    def begin(self) -> float:
        """Count no costs from before now; return how long the first drawing may wait."""
        self._seen_s = self._clock()
        return FASTEST_S

    def pause_s(self) -> float:
        """Return how long to wait after a drawing; a single dear one does not slow all down."""
        cost_s = self._clock() - self._seen_s
        self.begin()
        self._cost_s += SMOOTHING * (cost_s - self._cost_s)
        return min(max(self._cost_s / SHARE, FASTEST_S), SLOWEST_S)
