"""What the conversation on the screen consists of: turns, and notes between them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.content import Content
from textual.strip import Strip

from tui.conversation import Turn
from tui.growing import Rows, SourceText
from tui.show import MUTED, NOTHING, Painter, Piece, marked, plain

if TYPE_CHECKING:
    from tui.markdown import MarkdownText

MOST_QUESTION_LINES = 12
PART_LINES = 200_000
"""Line numbers that a part of an item may use."""
ITEM_LINES = 5 * PART_LINES
BAR = Content("▌ ")


class Item(ABC):
    """Rows that are painted when they are first seen; until then their number is estimated.

    Its lines are numbered from `line`. A subclass fills `parts` in `paint`.
    """

    painter: Painter | None = None
    """What it was painted with."""

    def __init__(self, line: int, text: str) -> None:
        self.line = line
        self.parts: Sequence[Rows] = ()
        self.text = text
        self._rows: list[Strip] = []

    @property
    def rows(self) -> Sequence[Strip]:
        """Return the rows that are painted."""
        if not self._rows:
            self._rows = [row for part in self.parts for row in part.rows]
        return self._rows

    def height(self, width: int) -> int:
        """Return how many rows there are, or may be."""
        if self.painter is not None:
            return len(self.rows)
        return 2 + self.text.count("\n") + len(self.text) // max(width, 1)

    @abstractmethod
    def paint(self, painter: Painter) -> None:
        """Make the rows."""


class Note(Item):
    """What the application says."""

    def __init__(self, line: int, content: Content, kind: str, bar: Content = NOTHING) -> None:
        super().__init__(line, content.plain)
        self._piece = Piece(content, bar, bar, kind)

    def paint(self, painter: Painter) -> None:
        """Make the rows."""
        rows = Rows(painter, self.line)
        rows.add(self._piece)
        rows.add(Piece(NOTHING))
        self.painter, self.parts, self._rows = painter, [rows], []


class TurnView(Item):
    """A question and its answer, which grows with every `update`."""

    def __init__(self, line: int, turn: Turn) -> None:
        super().__init__(line, f"{turn.question}\n\n{turn.answer}\n")
        self.turn = turn

    def paint(self, painter: Painter) -> None:
        """Make the rows."""
        turn, line = self.turn, self.line
        self.painter = painter
        question = Rows(painter, line)
        question.add(Piece(_shortened(turn.question), BAR, BAR, "question"))
        question.add(Piece(NOTHING))
        self._fold = Rows(painter, line + PART_LINES)
        self._reasoning = SourceText(painter, line + 2 * PART_LINES, "reasoning")
        self._answer = self._body(painter, line + 3 * PART_LINES)
        self._figures = Rows(painter, line + 4 * PART_LINES)
        self.parts = [question, self._fold, self._reasoning, self._answer, self._figures]
        self._num_thought = self._num_said = self._num_marks = 0
        self.update(turn.figures)

    def update(self, figures: str) -> None:
        """Paint what was added to the turn, and another line under it."""
        turn, painter = self.turn, self.painter
        if painter is None:
            return
        if turn.reasoning:
            self._fold.cut()
            sign = "▾" if painter.shows_reasoning else "▸"
            text = f"{sign} reasoning, {len(turn.reasoning):,} characters ({painter.fold_key})"
            self._fold.add(Piece(plain(text), kind="reasoning"))
            if painter.shows_reasoning and len(turn.reasoning) > self._num_thought:
                thought = turn.reasoning[self._num_thought :]
                self._reasoning.grow(marked(thought, (), painter.legend))
                self._num_thought = len(turn.reasoning)
        said = turn.answer[self._num_said :]
        if said:
            marks = turn.marks[self._num_marks :] if painter.shows_tokens else ()
            self._answer.grow(marked(said, marks, painter.legend))
            self._num_said, self._num_marks = len(turn.answer), len(turn.marks)
        self._figures.cut()
        if figures:
            self._figures.add(Piece(plain(figures), kind="figures"))
        self._figures.add(Piece(NOTHING))
        self._rows = []

    def finish(self) -> None:
        """Show the answer as it is at its end."""
        # A reference defined at the end changes links before it, which could not be seen.
        may_refer = "]:" in self.turn.answer
        if self.painter is not None and not self.painter.shows_tokens and may_refer:
            self.paint(self.painter)
        else:
            self.update(self.turn.figures)

    def _body(self, painter: Painter, line: int) -> SourceText | MarkdownText:
        if painter.shows_tokens:
            return SourceText(painter, line)
        # Imported when first needed: it takes a third of the time to start.
        from tui.markdown import MarkdownText

        return MarkdownText(painter, line)


def _shortened(question: str) -> Content:
    """Return a question, long ones (with a file in them) cut."""
    lines = question.split("\n")
    if len(lines) <= MOST_QUESTION_LINES:
        return plain(question)
    shown = "\n".join(lines[: MOST_QUESTION_LINES - 1])
    rest = len(lines) - MOST_QUESTION_LINES + 1
    return plain(f"{shown}\n").append(plain(f"… {rest} more lines", MUTED))
