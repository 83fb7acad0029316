"""The chat without its screen: the conversation, the worker, and what is saved when."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from metasd_local.errors import Cancelled, MetasdError, UsageError
from metasd_local.events import Notice, RoundDone, TextPiece
from metasd_local.options import Options
from metasd_local.stats import answer_line
from tui.choices import as_typed
from tui.conversation import Conversation, Turn
from tui.live import Live
from tui.marks import MarkFinder
from tui.store import Store
from tui.worker import Answered, Failed, Loading, ModelThread, Question, Ready, Step

if TYPE_CHECKING:
    from metasd_local.compose import OpenPool
    from metasd_local.replay import Recording
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
    notices: list[str] = field(default_factory=list)
    errors: list[MetasdError] = field(default_factory=list)
    is_ready: bool = False
    """Whether a session with new settings began."""
    ended: Turn | None = None
    """The turn whose answer is complete."""
    taken_back: str | None = None
    """The question, if there was no answer: the conversation is what it was before.

    Empty if the question is still in it.
    """


class Desk:
    """Holds one conversation at a time, and what was asked of the worker.

    open_pool: as `compose.open_pool`, with `on_progress` its only keyword; called in the thread
    that holds the models. chats_path: None keeps nothing. recordings: what to ask by itself.
    """

    def __init__(
        self,
        open_pool: Callable[..., OpenPool],
        options: Options,
        chats_path: Path | None,
        recordings: Iterable[Recording] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options
        self.setup: Setup | None = None
        self.drafters: tuple[str, ...] = ()
        """All that are loaded."""
        self.chat = self.new_chat()
        self.live = Live()
        self.loaded = 0.0
        """The share of the models that is loaded."""
        self.is_stopping = False
        self.failure: MetasdError | None = None
        """Why there are no models."""
        self._jobs: deque[Job] = deque()
        """What the worker has still to finish."""
        self.store, self.store_error = _open_store(chats_path)
        self._settled = options
        """The options of the session that there is."""
        self._opened = options
        """The options that the models were loaded with."""
        self._default: str | None = None
        """The pool that was loaded where these name none; another may be the default since."""
        self._thread = ModelThread(open_pool)
        self._recordings = iter(recordings)
        self._clock = clock
        self._seed = 0
        self._marks = MarkFinder()
        self._replaced: list[Turn] = []
        """The turns that the question took the place of."""
        self._seen_notices: set[str] = set()
        self._saved_s = 0.0

    @property
    def is_busy(self) -> bool:
        """Tell whether there is something to do, or to say."""
        return bool(self._jobs or self.store_error)

    @property
    def reading(self) -> tuple[int, int] | None:
        """Return how many tokens of the prompt are read and how many it has; None if not known."""
        return self._thread.reading

    @property
    def is_answering(self) -> bool:
        """Tell whether an answer is awaited."""
        return "answer" in self._jobs

    def open(self) -> None:
        """Begin to load the pool of the options."""
        self._opened = self.options
        self._jobs.append("load")
        self._thread.open(self.options)

    def new_chat(self) -> Conversation:
        """Return an empty conversation."""
        return Conversation(system=self.options.system)

    def go_on_with(self, chat: Conversation) -> None:
        """Hold another conversation. Raises UsageError."""
        self.check_idle()
        self.chat = chat
        self.live.begin()

    def change(self, **changes: Any) -> str:
        """Use other options from the next answer on, loading models if need be; return them.

        drafters: names or paths; None for those the models were loaded with. system: of this
        conversation. Raises UsageError.
        """
        said = (f"{name.replace('_', '-')} = {as_typed(value)}" for name, value in changes.items())
        others = {name: value for name, value in changes.items() if name != "system"}
        if others:
            self._change(others)
        if "system" in changes:
            self.chat.system = changes["system"]
            self.save()
        return "; ".join(said)

    def _change(self, changes: Mapping[str, Any]) -> None:
        # Imported when needed: it loads numpy.
        from metasd_local.plan import make_plan
        from metasd_local.pools.local import find_pool

        if "load" in self._jobs:
            raise UsageError("the models are still being loaded")
        asked = dataclasses.replace(self.options, **changes)
        opened = self._opened.pool or self._default
        pool = find_pool(asked.pool if "pool" in changes else opened)
        is_new = self.setup is None or pool.target != find_pool(opened).target
        if is_new or "drafters" in changes:
            files = (text for text in self._opened.drafters or () if text.endswith(".gguf"))
            paths = {Path(text).stem: text for text in files}
            chosen = tuple(paths.get(name, name) for name in changes.get("drafters") or ())
            # What another target was loaded with, or could not be, is no choice.
            known = None if is_new else self._opened.drafters
            asked = dataclasses.replace(asked, drafters=chosen or known)
        wanted = make_plan(asked, pool).sources
        if not is_new:
            loaded = make_plan(dataclasses.replace(self._opened, policy=None), pool).sources
            if {*wanted.models} <= {*loaded.models} and loaded.has_ngram >= wanted.has_ngram:
                self.options = asked
                self._jobs.append("configure")
                self._thread.configure(asked)
                return
        for path in (pool.target, *(source.path for source in wanted.models)):
            if not path.is_file():
                raise UsageError(f"{path}: there is no such file")
        self.options = asked
        self.open()

    def ask(self, text: str, *, first: int | None = None, new_seed: bool = False) -> None:
        """Send a question; turns from `first` on make room for it. Raises UsageError."""
        self.check_idle()
        first = len(self.chat.turns) if first is None else first
        self._replaced = self.chat.cut(first)
        history = self.chat.history
        self.chat.turns.append(Turn(text))
        seed = self.options.seed
        self._seed = secrets.randbelow(NUM_DRAWN_SEEDS) if seed is None or new_seed else seed
        self._marks = MarkFinder()
        self.live.begin()
        self.is_stopping = False
        self._jobs.append("answer")
        self.save()
        self._thread.ask(
            Question(text, self.chat.system, history, self._seed, self.options.max_tokens)
        )

    def next_recorded(self) -> str | None:
        """Return what was typed next when a trace was written, and take its seed."""
        for recording in self._recordings:
            self.options = dataclasses.replace(self.options, seed=recording.seed)
            return recording.typed
        return None

    def check_idle(self) -> None:
        """Raise UsageError while an answer is given."""
        if self.is_answering:
            raise UsageError("the answer is still being given; stop it first")

    def rename(self, chat_id: int, title: str) -> None:
        """Give a conversation another title. Raises MetasdError."""
        self.store.rename(chat_id, title)
        if chat_id == self.chat.id:
            self.chat.title = title

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
        [turn] = self.chat.cut(len(self.chat.turns) - 1)
        self.save()
        return turn

    def save(self) -> None:
        """Save the conversation; what fails is reported by the next `poll` and tried again."""
        self._saved_s = self._clock()
        chat = self.chat
        # The last turn may have grown.
        chat.num_saved = max(min(chat.num_saved, len(chat.turns) - 1), 0)
        try:
            if chat.turns:
                if not self.store.save(chat):
                    self.store_error = "this conversation was changed elsewhere: saved as another"
            elif chat.id is not None:
                if not self.store.delete(chat.id, chat.changed_s):
                    self.store_error = "this conversation was changed elsewhere, and stays there"
                chat.id, chat.title = None, ""
        except MetasdError as error:
            self.store_error = str(error)

    def poll(self) -> Changes:
        """Empty the worker's queue into the conversation and return what changed."""
        changes = Changes()
        if self.is_stopping:
            self._thread.stop()  # a stop that came before the answer began was forgotten
        reports = self._thread.reports
        while reports:
            match reports.popleft():
                case Loading(share):
                    self.setup, self.loaded = None, share
                case Ready(setup, options, drafters):
                    self.setup, self._settled, self.drafters = setup, options, drafters
                    if self._jobs.popleft() == "load" and self._opened.pool is None:
                        self._default = _default_pool()
                    self.failure, changes.is_ready = None, True
                case Step() as step:
                    self._step(step, changes)
                case Answered():
                    self._jobs.popleft()
                    self._end(changes)
                case Failed(error):
                    changes.errors.append(error)
                    match self._jobs.popleft():
                        case "answer":
                            self._take_back(changes)
                        case "load" if self.drafters and self.options is not self._settled:
                            said = f"{error}; the models there were come back"
                            changes.errors[-1] = MetasdError(said)
                            self.options = self._settled
                            self.open()
                        case "load":
                            self.failure = None if isinstance(error, Cancelled) else error
                        case "configure":
                            self.options = self._settled
        if changes.answer and self._clock() - self._saved_s >= SAVE_EVERY_S:
            self.save()
        if self.store_error:
            if self._is_new(self.store_error):
                changes.errors.append(MetasdError(self.store_error))
            self.store_error = ""
        return changes

    def close(self) -> None:
        """Stop, save and free everything."""
        self._thread.close()
        self.poll()
        self.store.close()

    def _step(self, step: Step, changes: Changes) -> None:
        self.live.observe(step)
        event, turn = step.event, self.chat.turns[-1]
        self.chat.drop(step.num_dropped)
        if isinstance(event, RoundDone):
            self._marks.add_round(event.arm, event.accepted, step.pieces)
        elif isinstance(event, Notice):
            if self._is_new(event.text):
                changes.notices.append(event.text)
        elif isinstance(event, TextPiece):
            marks = self._marks.find(event.text)
            if event.kind == "reasoning":
                turn.reasoning += event.text
            else:
                turn.answer += event.text
                turn.marks += marks
                changes.answer += event.text

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
        self.save()

    def _take_back(self, changes: Changes) -> None:
        """Make the conversation what it was before the question."""
        self.is_stopping = False
        [turn] = self.chat.cut(len(self.chat.turns) - 1)
        self.chat.turns += self._replaced
        self.save()
        is_kept = any(turn.question == each.question for each in self._replaced)
        changes.taken_back = "" if is_kept else turn.question
        changes.answer = ""

    def _is_new(self, text: str) -> bool:
        """Tell whether something was not said yet: every session repeats what was refused."""
        is_new = text not in self._seen_notices
        self._seen_notices.add(text)
        return is_new


def _default_pool() -> str | None:
    # Imported when needed: it loads numpy.
    from metasd_local.pools.local import find_pool

    try:
        return find_pool(None).text
    except MetasdError:
        return None


def _open_store(path: Path | None) -> tuple[Store, str]:
    """Return a store and what is wrong with it; if need be one that forgets."""
    try:
        return Store(path), ""
    except MetasdError as error:
        return Store(None), str(error)
