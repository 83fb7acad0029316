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
from threading import Thread
from typing import TYPE_CHECKING, TypeAlias

from metasd_local.errors import ContextFull, MetasdError
from metasd_local.events import Event, PromptRead, RoundDone
from metasd_local.options import Options

if TYPE_CHECKING:
    from metasd_local.compose import OpenPool
    from metasd_local.session import Session, Setup

logger = logging.getLogger(__name__)


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
    """What a single token costs the target, as learned so far; None if not known."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer is over."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A job could not be done."""

    reason: str


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
        # A daemon, so that a call of llama.cpp that never returns cannot keep the process alive.
        self._thread = Thread(target=self._run, name="models", daemon=True)

    def open(self, options: Options, pool: str | None) -> None:
        """Load a pool and begin a session; the first job."""
        self._thread.start()
        self._jobs.put(lambda: self._load(options, pool))

    def configure(self, options: Options) -> None:
        """Begin another session on the loaded models."""
        self._jobs.put(lambda: self._configure(options))

    def ask(self, question: Question) -> None:
        """Answer a question."""
        self._must_stop = False
        self._jobs.put(lambda: self._answer(question))

    def stop(self) -> None:
        """End the answer that is being given; it keeps what was said."""
        self._must_stop = True
        if self._session is not None:
            self._session.interrupt()

    def close(self) -> None:
        """Stop everything, free the models and wait for it."""
        self._is_closing = True
        self.stop()
        self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._is_closing:
                continue
            try:
                for report in job():
                    self.reports.append(report)
            except ContextFull as error:
                self.reports.append(Failed(f"{error}, or begin a new conversation with /clear"))
            except MetasdError as error:
                self.reports.append(Failed(str(error)))
            except Exception as error:
                logger.exception("the model thread")
                self.reports.append(Failed(f"unexpected {type(error).__name__}: {error}"))
        if self._pool is not None:
            self._pool.close()

    def _load(self, options: Options, pool: str | None) -> Iterator[Report]:
        def on_progress(share: float) -> bool:
            self.reports.append(Loading(share))
            return not self._is_closing

        # With another policy only the drafters would be loaded that it can use.
        all_drafters = dataclasses.replace(options, policy=None)
        self._pool = self._open_pool(all_drafters, pool, on_progress=on_progress)
        yield from self._configure(options)

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
        session.restore(question.system, question.history)
        events = session.send(question.text, seed=question.seed, max_tokens=question.max_tokens)
        for event in events:
            if self._must_stop:
                session.interrupt()  # `send` forgets what was asked before it began
            if isinstance(event, RoundDone):
                pieces = session.spell(event.emitted)
                yield Step(event, pieces, plain_s=pool.costs.seconds(1))
            elif isinstance(event, PromptRead):
                yield Step(event, prompt_tokens=session.prompt_tokens)
            else:
                yield Step(event)
        yield Answered()

    @property
    def _loaded(self) -> OpenPool:
        if self._pool is None:
            raise MetasdError("no model is loaded; leave and start again with another pool")
        return self._pool
