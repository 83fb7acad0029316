"""The figures of the answer that is being given, folded from the worker's reports."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from metasd_local.events import PromptRead, RoundDone
from metasd_local.stats import Snapshot, Stats
from tui.worker import Step

NUM_RECENT_ROUNDS = 8
"""Rounds of an arm in its sparkline."""
NUM_STRIP_ROUNDS = 40
NOW_S = 1.0
"""How far back the speed of now looks."""


class Live:
    """Counts one answer; `begin` starts over with the next."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget the last answer."""
        self.plain_s: float | None = None
        """What a single token costs the target; None if not known."""
        self.scores: Mapping[str, float] = {}
        self.strip: deque[RoundDone] = deque(maxlen=NUM_STRIP_ROUNDS)
        """The last rounds."""
        self._read_s = 0.0
        self._waited_s: float | None = None
        self._stats = Stats()
        self._recent: dict[str, deque[float]] = {}

    def observe(self, step: Step) -> None:
        """Count one event."""
        event = step.event
        if isinstance(event, PromptRead):
            self._stats.begin(step.prompt_tokens)
            self._read_s = event.seconds
        self._stats.observe(event)
        if isinstance(event, RoundDone):
            self.plain_s = step.plain_s
            if self._waited_s is None:
                self._waited_s = self._read_s + event.seconds + event.own_s
            self.scores = event.scores
            self.strip.append(event)
            if event.drafted:
                rates = self._recent.setdefault(event.arm, deque(maxlen=NUM_RECENT_ROUNDS))
                rates.append(event.accepted / event.drafted)

    @property
    def snapshot(self) -> Snapshot:
        """Return the counters."""
        return self._stats.snapshot

    @property
    def seconds_to_first_token(self) -> float | None:
        """Return how long the first token took; until the end, what is known of it."""
        return self.snapshot.seconds_to_first_token or self._waited_s

    @property
    def arm(self) -> str | None:
        """Return the arm of the last round."""
        return self.strip[-1].arm if self.strip else None

    @property
    def speed_now(self) -> float | None:
        """Return the tokens per second of the last rounds."""
        emitted, seconds = 0, 0.0
        for event in reversed(self.strip):
            emitted += len(event.emitted)
            seconds += event.seconds + event.own_s
            if seconds >= NOW_S:
                break
        return emitted / seconds if seconds > 0 else None

    def recent(self, arm: str) -> tuple[float, ...]:
        """Return the acceptance rates of an arm's last rounds."""
        return tuple(self._recent.get(arm, ()))
