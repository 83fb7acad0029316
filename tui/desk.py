"""The chat without its screen: the conversation, the worker, and what is saved when."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from metasd_local.errors import MetasdError, UsageError
from metasd_local.events import Notice, RoundDone, TextPiece
from metasd_local.options import Options
from tui.conversation import Conversation, Mark, Turn
from tui.figures import answer_line
from tui.live import Live
from tui.marks import MarkFinder
from tui.store import Store
from tui.worker import Answered, Failed, Loading, ModelThread, Question, Ready, Step

if TYPE_CHECKING:
    from metasd_local.compose import OpenPool
    from metasd_local.session import Setup

Job: TypeAlias = Literal["load", "configure", "answer"]

# A drawn seed is short enough to be typed again.
NUM_DRAWN_SEEDS = 1_000_000
SAVE_EVERY_S = 1.0
"""How much of an answer may be lost if the process dies."""


@dataclass(slots=True)
class Changes:
    """What happened since the last look."""

    answer: str = ""
    """Text the answer grew by."""
    marks: list[Mark] = field(default_factory=list)
    """Who drafted that text."""
    notices: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    is_ready: bool = False
    """Whether a session with new settings began."""
    ended: Turn | None = None
    """The turn whose answer is complete."""
    was_taken_back: bool = False
    """Whether there was no answer: the conversation is what it was before the question."""


class Desk:
    """Holds one conversation at a time, and what was asked of the worker."""

    def __init__(
        self,
        open_pool: Callable[..., OpenPool],
        options: Options,
        chats_path: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options
        self.setup: Setup | None = None
        self.drafters: tuple[str, ...] = ()
        """All that are loaded."""
        self.chat = Conversation(system=options.system)
        self.live = Live()
        self.loaded = 0.0
        """The share of the models that is loaded."""
        self.is_stopping = False
        self._jobs: deque[Job] = deque()
        """What the worker has still to finish."""
        self.store, self.store_error = _open_store(chats_path)
        self._first_options = options
        self._thread = ModelThread(open_pool)
        self._clock = clock
        self._seed = 0
        self._marks = MarkFinder()
        self._replaced: list[Turn] = []
        """The turns that the question took the place of."""
        self._seen_notices: set[str] = set()
        self._saved_s = 0.0

    @property
    def is_busy(self) -> bool:
        """Tell whether the worker has something to do."""
        return bool(self._jobs)

    @property
    def is_answering(self) -> bool:
        """Tell whether an answer is awaited."""
        return "answer" in self._jobs

    def open(self, pool: str | None) -> None:
        """Begin to load the pool."""
        self._jobs.append("load")
        self._thread.open(self.options, pool)

    def change(self, **changes: Any) -> None:
        """Begin a session with other options; the conversation stays."""
        self.check_idle()
        if "drafters" in changes:
            names = changes["drafters"] or ()
            said = {_name(text): text for text in self._first_options.drafters or ()}
            chosen = tuple(said.get(name, name) for name in names)
            changes["drafters"] = chosen or self._first_options.drafters
        self._jobs.append("configure")
        self._thread.configure(dataclasses.replace(self.options, **changes))

    def ask(self, text: str, *, first: int | None = None, new_seed: bool = False) -> Turn:
        """Send a question and return its turn; turns from `first` on make room for it."""
        self.check_idle()
        first = len(self.chat.turns) if first is None else first
        self._replaced = self.chat.turns[first:]
        del self.chat.turns[first:]
        history = self.chat.history
        turn = Turn(text)
        self.chat.turns.append(turn)
        seed = self.options.seed
        self._seed = secrets.randbelow(NUM_DRAWN_SEEDS) if seed is None or new_seed else seed
        self._marks = MarkFinder()
        self.live.begin()
        self.is_stopping = False
        self._jobs.append("answer")
        self.save(first)
        self._thread.ask(
            Question(text, self.chat.system, history, self._seed, self.options.max_tokens)
        )
        return turn

    def check_idle(self) -> None:
        """Raise UsageError while an answer is given."""
        if self.is_answering:
            raise UsageError("the answer is still being given; Esc stops it")

    def stop(self) -> None:
        """End the answer that is being given."""
        if self.is_answering:
            self.is_stopping = True
            self._thread.stop()

    def undo(self) -> Turn:
        """Take back the last turn and return it. Raises UsageError."""
        self.check_idle()
        if not self.chat.turns:
            raise UsageError("there is nothing to take back")
        turn = self.chat.turns.pop()
        self.save(len(self.chat.turns))
        return turn

    def save(self, first: int) -> None:
        """Save the conversation from a turn on; what fails is reported by the next `poll`."""
        self._saved_s = self._clock()
        chat = self.chat
        try:
            if chat.turns:
                self.store.save(chat, first)
            elif chat.id is not None:
                self.store.delete(chat.id)
                chat.id, chat.title = None, ""
        except MetasdError as error:
            self.store_error = str(error)

    def poll(self) -> Changes:
        """Empty the worker's queue into the conversation and return what changed."""
        changes = Changes()
        if self.store_error:
            self._notice(changes.errors, self.store_error)
            self.store_error = ""
        if self.is_stopping:
            self._thread.stop()  # a stop that came before the answer began was forgotten
        reports = self._thread.reports
        while reports:
            match reports.popleft():
                case Loading(share):
                    self.loaded = share
                case Ready(setup, options, drafters):
                    self.setup, self.options, self.drafters = setup, options, drafters
                    self._jobs.popleft()
                    changes.is_ready = True
                case Step() as step:
                    self._step(step, changes)
                case Answered():
                    self._jobs.popleft()
                    self._end(changes)
                case Failed(reason):
                    changes.errors.append(reason)
                    if self._jobs.popleft() == "answer":
                        self._take_back(changes)
        if changes.answer and self._clock() - self._saved_s >= SAVE_EVERY_S:
            self.save(len(self.chat.turns) - 1)
        return changes

    def close(self) -> None:
        """Stop, save and free everything."""
        self._thread.close()
        self.poll()
        self.store.close()

    def _step(self, step: Step, changes: Changes) -> None:
        self.live.observe(step)
        event, turn = step.event, self.chat.turns[-1]
        if isinstance(event, RoundDone):
            self._marks.add_round(event.arm, event.accepted, step.pieces)
        elif isinstance(event, Notice):
            self._notice(changes.notices, event.text)
        elif isinstance(event, TextPiece):
            marks = self._marks.find(event.text)
            if event.kind == "reasoning":
                turn.reasoning += event.text
            else:
                turn.answer += event.text
                turn.marks += marks
                changes.answer += event.text
                changes.marks += marks

    def _end(self, changes: Changes) -> None:
        snapshot = self.live.snapshot
        if not snapshot.emitted:
            self._take_back(changes)
            return
        turn, setup = self.chat.turns[-1], self.setup
        shows_seed = setup is not None and setup.sampling.temperature > 0
        turn.figures = answer_line(snapshot, self.live.plain_s, self._seed if shows_seed else None)
        turn.stats = {
            **snapshot.to_json(),
            "finish_reason": snapshot.finish_reason,
            "plain_seconds_per_token": self.live.plain_s,
            "seed": self._seed,
            "pool": setup.pool if setup else None,
            "policy": setup.policy if setup else None,
        }
        changes.ended = turn
        self.is_stopping = False
        self.save(len(self.chat.turns) - 1)

    def _take_back(self, changes: Changes) -> None:
        """Make the conversation what it was before the question."""
        self.is_stopping = False
        self.chat.turns[-1:] = self._replaced
        self.save(len(self.chat.turns) - len(self._replaced))
        changes.was_taken_back = True
        changes.answer, changes.marks = "", []

    def _notice(self, into: list[str], text: str) -> None:
        """Say something, but not twice: every session repeats what was refused."""
        if text not in self._seen_notices:
            self._seen_notices.add(text)
            into.append(text)


def _name(drafter: str) -> str:
    """Return what a drafter given by name or path is called."""
    return Path(drafter).stem if drafter.endswith(".gguf") else drafter


def _open_store(path: Path) -> tuple[Store, str]:
    """Return a store and what is wrong with it; if need be one that forgets."""
    try:
        return Store(path), ""
    except MetasdError as error:
        return Store(None), str(error)
