"""What was said: the records the chat shows, saves and sends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

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

    @property
    def history(self) -> list[tuple[str, str]]:
        """Return what goes back to the model: no reasoning, and nothing that has no answer."""
        return [(turn.question, turn.answer) for turn in self.turns if turn.answer]


def title_of(question: str) -> str:
    """Return a title for a conversation that begins with `question`."""
    line = " ".join(question.split())
    return line if len(line) <= TITLE_LENGTH else line[: TITLE_LENGTH - 1] + "…"
