"""How much of the CPU other processes use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

ENOUGH_SHARE = 0.8
"""Of a core for every thread; with less, threads that wait for each other wait much longer."""


class BusyMeter:
    """Measure how much of the CPU other processes use from now on.

    Known on Linux only, by /proc/stat; time stolen by a hypervisor counts as use by others.
    """

    def __init__(self, clock: Callable[[], float], root: Path = Path("/")) -> None:
        self._clock = clock
        self._root = root
        self._started_s = clock()
        self._busy_s = self._all_busy_s()
        self._own_s = _own_s()

    def other_cores(self) -> float | None:
        """Return the cores other processes kept busy on average, None if it cannot be known."""
        now_s = self._all_busy_s()
        elapsed_s = self._clock() - self._started_s
        if now_s is None or self._busy_s is None or elapsed_s <= 0:
            return None
        return max((now_s - self._busy_s) - (_own_s() - self._own_s), 0.0) / elapsed_s

    def leaves(self, num_threads: int) -> bool:
        """Tell whether others left enough of the CPU for so many threads; true if unknown."""
        num_cores = os.cpu_count() or 1
        free_cores = num_cores - (self.other_cores() or 0.0)
        return free_cores >= ENOUGH_SHARE * min(num_threads, num_cores)

    def _all_busy_s(self) -> float | None:
        try:
            text = (self._root / "proc/stat").read_text(encoding="ascii")
        except OSError:
            return None
        words = text.partition("\n")[0].split()
        if len(words) < 9 or words[0] != "cpu":
            return None
        user, nice, system, _, _, interrupt, soft_interrupt, steal = map(int, words[1:9])
        busy = user + nice + system + interrupt + soft_interrupt + steal
        return busy / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
