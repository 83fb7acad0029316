"""The figures of the answer that is being given, folded from the worker's reports."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from metasd_local.events import PromptRead, RoundDone
from metasd_local.stats import Snapshot, Stats
from tui.worker import Step

NUM_RECENT_ROUNDS = 6
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
        self.scores: Mapping[str, float] = {}
        self.strip: deque[RoundDone] = deque(maxlen=NUM_STRIP_ROUNDS)
        """The last rounds."""
        self._token_now_s: float | None = None
        """What a single token costs the target here; None if not known."""
        self._tokens_s = 0.0
        self._num_known = 0
        """Tokens whose cost is known, and is in the sum."""
        self._own_s = 0.0
        self._num_rows = 0
        """Tokens that were verified, drafted or not."""
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
            self._own_s += event.own_s
            self._num_rows += event.drafted + 1
            self._token_now_s = step.plain_s
            if step.plain_s is not None:
                self._tokens_s += step.plain_s * len(event.emitted)
                self._num_known += len(event.emitted)
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
    def plain_s(self) -> float | None:
        """Return what the tokens of this answer would have cost the target one by one, each.

        Each where it stands: a token costs more the longer the context is. None if not known.
        """
        return self._with_own(self._tokens_s / self._num_known if self._num_known else None)

    @property
    def plain_now_s(self) -> float | None:
        """Return what the next token would cost the target alone; None if not known."""
        return self._with_own(self._token_now_s)

    def _with_own(self, token_s: float | None) -> float | None:
        """Add what is computed outside the model for every token that is verified."""
        return None if token_s is None else token_s + self._own_s / max(self._num_rows, 1)

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
