"""What was said: the records the chat shows, saves and sends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from metasd_local.text import printable

Mark: TypeAlias = tuple[str, int]
"""An arm and how many characters of the answer it drafted; "" is the target itself."""

TITLE_LENGTH = 60


@dataclass(slots=True, eq=False)
class Turn:
    """One question and its answer, which grows while it is generated."""

    question: str
    answer: str = ""
    """As the model said it: to be shown only through `printable`."""
    reasoning: str = ""
    marks: list[Mark] = field(default_factory=list)
    """Runs that spell out the answer; a new run begins with every round."""
    figures: str = ""
    """The line under the answer; empty until it has ended."""
    stats: Mapping[str, Any] | None = None
    """`Snapshot.to_json()` and how the answer was made; None until it has ended."""


@dataclass(slots=True)
class Conversation:
    """A conversation; it has an id once it is saved."""

    id: int | None = None
    title: str = ""
    """Empty until the user gives one or the first question does."""
    system: str | None = None
    turns: list[Turn] = field(default_factory=list)
    num_saved: int = 0
    """Turns that the file has as they are; those after them are still to be saved."""
    changed_s: float | None = None
    """Unix time of the change that was saved or loaded last."""
    num_dropped: int = 0
    """The oldest turns, which no longer fit the context."""

    @property
    def history(self) -> list[tuple[str, str]]:
        """Return what goes back to the model: no reasoning, and nothing that has no answer."""
        sent = self.turns[self.num_dropped :]
        return [(turn.question, turn.answer) for turn in sent if turn.answer]

    def drop(self, num_answered: int) -> None:
        """Send so many of the oldest turns with an answer no more."""
        while num_answered:
            num_answered -= bool(self.turns[self.num_dropped].answer)
            self.num_dropped += 1

    def cut(self, first: int) -> list[Turn]:
        """Remove the turns from `first` on and return them."""
        removed = self.turns[first:]
        del self.turns[first:]
        self.num_saved = min(self.num_saved, first)
        if first <= self.num_dropped:
            self.num_dropped = 0
        return removed


def title_of(question: str) -> str:
    """Return a title for a conversation that begins with `question`."""
    line = " ".join(printable(question).split())
    return line if len(line) <= TITLE_LENGTH else line[: TITLE_LENGTH - 1] + "…"
