"""The one thread that holds the models; touches no widget.

It takes jobs, one after the other, and leaves what happened in a queue that the chat empties when
it draws. Every job ends with exactly one `Ready`, `Answered` or `Failed`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from threading import RLock, Thread
from typing import TYPE_CHECKING, TypeAlias

from metasd_local.errors import MetasdError
from metasd_local.events import Event, PromptRead, RoundDone
from metasd_local.options import Options

if TYPE_CHECKING:
    from metasd_local.compose import OpenPool
    from metasd_local.session import Session, Setup

logger = logging.getLogger(__name__)

LONGEST_CLOSE_S = 5.0
"""How long leaving waits for the models: a call of llama.cpp may never return."""


@dataclass(frozen=True, slots=True)
class Loading:
    """So much of the models is loaded."""

    share: float


@dataclass(frozen=True, slots=True)
class Ready:
    """A session with these settings waits for questions."""

    setup: Setup
    options: Options
    drafters: tuple[str, ...]
    """All that are loaded, used or not."""


@dataclass(frozen=True, slots=True)
class Step:
    """An event of the answer, with what only the models know."""

    event: Event
    pieces: Sequence[bytes] = ()
    """The bytes of every token of a round."""
    prompt_tokens: Sequence[int] = ()
    """The prompt that was read."""
    plain_s: float | None = None
    """What a single token costs the target here; None if not known."""
    num_dropped: int = 0
    """The oldest turns of the history that no longer fit the context."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer is over."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A job could not be done."""

    error: MetasdError


Report: TypeAlias = Loading | Ready | Step | Answered | Failed


@dataclass(frozen=True, slots=True)
class Question:
    """What to answer, and the conversation so far."""

    text: str
    system: str | None
    history: Sequence[tuple[str, str]]
    seed: int
    max_tokens: int | None


class ModelThread:
    """Open a pool, make sessions on it, answer questions; methods may be called from anywhere."""

    def __init__(self, open_pool: Callable[..., OpenPool]) -> None:
        self.reports: deque[Report] = deque()
        self._open_pool = open_pool
        self._jobs: SimpleQueue[Callable[[], Iterator[Report]] | None] = SimpleQueue()
        self._pool: OpenPool | None = None
        self._session: Session | None = None
        self._must_stop = False
        self._is_closing = False
        self._measuring = RLock()  # a signal's handler may want it while its thread has it
        self._is_measuring = False
        self._read_before: Sequence[int] = ()
        """The prompt of the answer before this."""
        # A daemon, so that a call of llama.cpp that never returns cannot keep the process alive.
        self._thread = Thread(target=self._run, name="models", daemon=True)
        self._failure = "there is none"
        """Why no pool is loaded."""

    def open(self, options: Options) -> None:
        """Load the pool of the options, in place of the one there is, and begin a session."""
        if not self._thread.is_alive():
            self._thread.start()
        self._put(lambda: self._load(options))

    def configure(self, options: Options) -> None:
        """Begin another session on the loaded models."""
        self._put(lambda: self._configure(options))

    def ask(self, question: Question) -> None:
        """Answer a question."""
        self._must_stop = False
        self._put(lambda: self._answer(question))

    def stop(self) -> None:
        """End the answer that is being given; it keeps what was said."""
        self._must_stop = True
        with self._measuring:
            if not self._is_measuring:
                self._interrupt()

    def close(self) -> None:
        """Stop everything, free the models and wait for it, but not for ever."""
        self._is_closing = True
        self.stop()
        self._put(None)
        if self._thread.is_alive():
            self._thread.join(LONGEST_CLOSE_S)

    def _put(self, job: Callable[[], Iterator[Report]] | None) -> None:
        self._jobs.put(job)
        with self._measuring:
            if self._is_measuring:
                self._interrupt()

    def _interrupt(self) -> None:
        session = self._session  # which the thread may take away meanwhile
        if session is not None:
            session.interrupt()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._is_closing:
                continue
            try:
                for report in job():
                    self.reports.append(report)
            except MetasdError as error:
                self.reports.append(Failed(error))
            except Exception as error:
                logger.exception("the model thread")
                unexpected = MetasdError(f"unexpected {type(error).__name__}: {error}")
                self.reports.append(Failed(unexpected))
        if self._pool is not None:
            self._pool.close()

    def _load(self, options: Options) -> Iterator[Report]:
        def on_progress(share: float) -> bool:
            self.reports.append(Loading(share))
            return not self._is_closing

        if self._pool is not None:  # there may not be memory for two
            self._pool.close()
            self._pool = self._session = None
        yield Loading(0.0)
        # With another policy only the drafters would be loaded that it can use.
        all_drafters = dataclasses.replace(options, policy=None)
        try:
            self._pool = self._open_pool(all_drafters, options.pool, on_progress=on_progress)
        except Exception as error:
            self._failure = str(error)
            raise
        yield from self._configure(options)
        self._measure_costs()

    def _measure_costs(self) -> None:
        """Learn what plain decoding would cost here, as long as there is nothing else to do."""
        pool = self._loaded
        with self._measuring:
            self._is_measuring = self._jobs.empty() and hasattr(pool, "target")  # no replay
            if self._is_measuring:
                pool.interrupt.clear()  # the answer may have been stopped
        try:
            if self._is_measuring:
                pool.measure_costs()
        except MetasdError as error:
            logger.info("the costs are not known: %s", error)
        with self._measuring:
            self._is_measuring = False

    def _configure(self, options: Options) -> Iterator[Report]:
        pool = self._loaded
        self._session = pool.session(options)
        drafters = tuple(drafter.name for drafter in pool.drafters)
        yield Ready(self._session.setup, options, drafters)

    def _answer(self, question: Question) -> Iterator[Report]:
        pool, session = self._loaded, self._session
        if session is None:
            raise MetasdError("there is no session; choose settings that work with /set or /policy")
        if self._must_stop:
            yield Answered()
            return
        self._read_before = session.prompt_tokens
        session.restore(question.system, question.history)
        events = session.send(question.text, seed=question.seed, max_tokens=question.max_tokens)
        for event in events:
            if self._must_stop:
                session.interrupt()  # `send` forgets what was asked before it began
            if isinstance(event, RoundDone):
                pieces = session.spell(event.emitted)
                yield Step(event, pieces, plain_s=pool.plain_s())
            elif isinstance(event, PromptRead):
                num_dropped = session.num_dropped
                yield Step(event, prompt_tokens=session.prompt_tokens, num_dropped=num_dropped)
            else:
                yield Step(event)
        yield Answered()
        self._measure_costs()

    @property
    def reading(self) -> tuple[int, int] | None:
        """Return how many tokens of the prompt are read and how many it has; None if not known."""
        pool, session = self._pool, self._session
        if pool is None or session is None or session.prompt_tokens is self._read_before:
            return None
        target = getattr(pool, "target", None)  # a replay has none
        return (target.length, len(session.prompt_tokens)) if target is not None else None

    @property
    def _loaded(self) -> OpenPool:
        if self._pool is None:
            way_out = "choose others with /set pool or /drafters"
            raise MetasdError(f"no model is loaded: {self._failure}; {way_out}")
        return self._pool
