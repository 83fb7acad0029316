"""Recording the answers of a session in a trace, and playing a trace in place of a pool."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event as Flag
from typing import TYPE_CHECKING, Any

from metasd_local.errors import MetasdError, UsageError
from metasd_local.events import Event, GenerationDone, Notice, PromptRead, RoundDone
from metasd_local.options import Options
from metasd_local.trace import Asked, Known, TraceWriter, read_entries

if TYPE_CHECKING:
    from metasd_local.session import Session, Setup

NO_QUESTION = "(the question was not recorded)"
MOST_SECONDS = 60.0
"""A damaged time must not keep anybody waiting longer."""


def record(
    events: Iterator[Event],
    trace: TraceWriter,
    session: Session,
    *,
    question: str,
    seed: int,
    plain_s: Callable[[], float | None] = lambda: None,
) -> Generator[Event]:
    """Yield the events of `session.send`, and write them with all that a screen shows.

    plain_s: what a single token costs the target now. Raises MetasdError.
    """
    setup = session.setup
    sampling = dataclasses.asdict(setup.sampling)
    trace.write(Asked(question=question, seed=seed, sampling=sampling, **_shared(setup)))
    for event in events:
        trace.write(event)
        if isinstance(event, PromptRead):
            trace.write(Known(prompt_tokens=tuple(session.prompt_tokens)))
        elif isinstance(event, RoundDone):
            spelled = session.spell(event.emitted)
            pieces = tuple(piece.decode("utf-8", "surrogateescape") for piece in spelled)
            trace.write(Known(pieces=pieces, plain_s=plain_s()))
        yield event


def recording(open_pool: Callable[..., Any], trace: TraceWriter) -> Callable[..., Any]:
    """Return what opens the same pools, but records what their sessions answer."""

    def opened(*arguments: Any, **keywords: Any) -> _Recorded:
        return _Recorded(open_pool(*arguments, **keywords), trace)

    return opened


class _Recorded:
    """A pool or a session that is what it was, except for what makes a trace."""

    def __init__(
        self, inner: Any, trace: TraceWriter, plain_s: Callable[[], float | None] = lambda: None
    ) -> None:
        self._inner = inner
        self._trace = trace
        self._plain_s = plain_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def session(self, options: Options) -> _Recorded:
        """Begin a session that is recorded."""
        return _Recorded(self._inner.session(options), self._trace, self._inner.plain_s)

    def send(self, text: str, *, seed: int, max_tokens: int | None = None) -> Generator[Event]:
        """Answer, and write the answer to the trace. Raises MetasdError."""
        events = self._inner.send(text, seed=seed, max_tokens=max_tokens)
        return record(
            events,
            self._trace,
            self._inner,
            question=text,
            seed=seed,
            plain_s=self._plain_s,
        )


@dataclass(slots=True)
class Recording:
    """One answer of a trace."""

    asked: Asked | None = None
    steps: list[tuple[Event, Known]] = field(default_factory=list)

    @property
    def typed(self) -> str:
        """Return the question as it was typed: one that begins with a slash with two."""
        question = self.asked.question if self.asked else NO_QUESTION
        return "/" * question.startswith("/") + question

    @property
    def seed(self) -> int:
        """Return the seed of the answer."""
        return self.asked.seed if self.asked else 0

    @property
    def is_whole(self) -> bool:
        """Tell whether the answer has its end."""
        return bool(self.steps) and isinstance(self.steps[-1][0], GenerationDone)


def read_recordings(path: Path) -> list[Recording]:
    """Return the answers of a trace; one that is cut off says where. Raises MetasdError."""
    recordings: list[Recording] = []
    number = 0
    for number, entry in read_entries(path):
        last = recordings[-1] if recordings else None
        if last is None or last.is_whole or isinstance(entry, Asked):
            if last is not None and not last.is_whole:
                _cut(last, f"{path}, line {number}: the answer before it has no end")
            last = Recording()
            recordings.append(last)
        if isinstance(entry, Asked):
            last.asked = entry
        elif not isinstance(entry, Known):
            last.steps.append((entry, Known()))
        elif last.steps:
            last.steps[-1] = (last.steps[-1][0], entry)
    if not recordings:
        raise MetasdError(f"{path}: found no events; record some with metasd chat --trace {path}")
    if not recordings[-1].is_whole:
        _cut(recordings[-1], f"{path}, line {number}: the trace ends in the middle of an answer")
    return recordings


def _cut(recording: Recording, reason: str) -> None:
    """Give an answer an end, and say why it ends there."""
    seconds = sum(_seconds(event) for event, _ in recording.steps if isinstance(event, RoundDone))
    recording.steps += (
        (Notice(reason), Known()),
        (
            GenerationDone("cancelled", None, seconds_decode=seconds, seconds_inside=seconds),
            Known(),
        ),
    )


class Replay:
    """Stands in for a pool and for its one session, and answers as was recorded."""

    def __init__(self, recordings: Sequence[Recording]) -> None:
        self.drafters = ()
        self.num_dropped = 0
        self.prompt_tokens: Sequence[int] = ()
        self._asked = [each.asked for each in recordings if each.asked]
        self._waiting = list(recordings)
        self._known = Known()
        self._must_stop = Flag()
        self._has_session = False

    # As a pool

    def open(self, options: Options, pool: str | None, **_: object) -> Replay:
        """Stand in for `compose.open_pool`."""
        return self

    def plain_s(self) -> float | None:
        """Return what a single token was thought to cost in the last round."""
        return self._known.plain_s

    def measure_costs(self) -> None:
        """Know them from the trace."""

    def session(self, options: Options) -> Replay:
        """Begin the session; raise UsageError when asked for another."""
        if self._has_session:
            raise UsageError("a replay shows what was; to change it, start without --replay")
        self._has_session = True
        return self

    def close(self) -> None:
        """Hold nothing that would have to be freed."""

    # As a session

    @property
    def setup(self) -> Setup:
        """Return what the first answer was recorded with, and the drafters of all."""
        # Imported when the screen is there already: both load numpy.
        from metasd_local.sampling import SamplerSettings
        from metasd_local.session import Setup

        first = self._asked[0] if self._asked else _UNKNOWN
        default = dataclasses.asdict(SamplerSettings())
        sampling = {
            name: type(default[name])(value)
            for name, value in first.sampling.items()
            if name in default
        }
        setup = Setup(**_shared(first), sampling=SamplerSettings(**sampling))
        return dataclasses.replace(
            setup,
            pool=f"{setup.pool} (replay)",
            drafters=tuple(dict.fromkeys(arm for asked in self._asked for arm in asked.drafters)),
            context_size=max(1, setup.context_size),
        )

    def restore(self, *_: object) -> None:
        """Take note of nothing: what is said next was said already."""

    def send(self, text: str, *, seed: int, max_tokens: int | None = None) -> Generator[Event]:
        """Yield the events of the next answer as fast as they came. Raises MetasdError."""
        self._must_stop.clear()
        if not self._waiting:
            raise MetasdError("the replay is over; to ask a model, start without --replay")
        spent_s = 0.0
        for event, known in self._waiting.pop(0).steps:
            if self._must_stop.wait(_seconds(event)):
                yield GenerationDone("cancelled", None, spent_s, spent_s)
                return
            if isinstance(event, RoundDone):
                spent_s += _seconds(event)
            if known.prompt_tokens:
                self.prompt_tokens = known.prompt_tokens
            self._known = known
            yield event

    def spell(self, tokens: Sequence[int]) -> Sequence[bytes]:
        """Return the bytes of the last round's tokens."""
        return [piece.encode("utf-8", "surrogateescape") for piece in self._known.pieces]

    def interrupt(self) -> None:
        """Stop the running answer."""
        self._must_stop.set()


_UNKNOWN = Asked(NO_QUESTION, 0, "trace", "-", "-", {}, "-", 0, (), 1)


def _shared(known: Asked | Setup) -> dict[str, Any]:
    """Return the fields that a setup and the record of a question have alike."""
    own = ("question", "seed", "sampling")
    names = [each.name for each in dataclasses.fields(Asked) if each.name not in own]
    return {name: getattr(known, name) for name in names}


def _seconds(event: Event) -> float:
    """Return how long an event took to come."""
    seconds = 0.0
    if isinstance(event, PromptRead):
        seconds = event.seconds
    elif isinstance(event, RoundDone):
        seconds = event.seconds + event.evaluate_s + event.own_s
    return min(seconds, MOST_SECONDS) if seconds > 0 else 0.0
