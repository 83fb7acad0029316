"""What the conversation on the screen consists of: turns, and notes between them."""

from __future__ import annotations

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
ITEM_LINES = 4 * PART_LINES
BAR = Content("▌ ")


class Item:
    """A note, or a question with its answer, which grows with every `update`.

    Rows are painted when they are first seen; until then their number is estimated. Lines are
    numbered from `line`.
    """

    painter: Painter | None = None
    """What it was painted with."""

    def __init__(self, line: int, head: Piece, turn: Turn | None = None) -> None:
        self.line = line
        self.turn = turn
        self.parts: Sequence[Rows] = ()
        self._head = head
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
        texts = (self._head.content.plain, *([self.turn.answer] if self.turn else []))
        return sum(2 + text.count("\n") + len(text) // max(width, 1) for text in texts)

    def paint(self, painter: Painter) -> None:
        """Make the rows."""
        self.painter, self._rows = painter, []
        self._top = Rows(painter, self.line)
        self._top.add(self._head, Piece(NOTHING))
        self._top.keep()
        self.parts = [self._top]
        if self.turn is not None:
            reasoning, answer, figures = range(self.line, self.line + ITEM_LINES, PART_LINES)[1:]
            self._reasoning = SourceText(painter, reasoning, "reasoning")
            self._answer = _body(painter, answer)
            self._figures = Rows(painter, figures)
            self.parts = [self._top, self._reasoning, self._answer, self._figures]
            self._seen = 0, 0, 0
            self.update(self.turn.figures)

    def update(self, figures: str) -> None:
        """Paint what was added to the turn, and another line under it."""
        turn, painter = self.turn, self.painter
        if turn is None or painter is None:
            return
        num_thought, num_said, num_marks = self._seen
        self._seen = len(turn.reasoning), len(turn.answer), len(turn.marks)
        if turn.reasoning:
            self._top.cut()
            sign = "▾" if painter.shows_reasoning else "▸"
            text = f"{sign} reasoning, {len(turn.reasoning):,} characters ({painter.fold_key})"
            self._top.add(Piece(plain(text), kind="reasoning"))
        thought, said = turn.reasoning[num_thought:], turn.answer[num_said:]
        if thought and painter.shows_reasoning:
            self._reasoning.grow(marked(thought, (), painter.legend))
        if said:
            marks = turn.marks[num_marks:] if painter.shows_tokens else ()
            self._answer.grow(marked(said, marks, painter.legend))
        self._figures.cut()
        if figures:
            self._figures.add(Piece(plain(figures), kind="figures"))
        self._figures.add(Piece(NOTHING))
        self._rows = []

    def finish(self) -> None:
        """Show the answer as it is at its end."""
        if self.painter is not None and self.turn is not None:
            if self._answer.is_provisional:
                self.paint(self.painter)
            self.update(self.turn.figures)


def question(turn: Turn) -> Piece:
    """Return what a turn begins with; of long questions, with a file in them, the first lines."""
    lines = turn.question.split("\n")
    content = plain(turn.question)
    if len(lines) > MOST_QUESTION_LINES:
        shown = "\n".join(lines[: MOST_QUESTION_LINES - 1])
        rest = len(lines) - MOST_QUESTION_LINES + 1
        content = plain(f"{shown}\n").append(plain(f"… {rest} more lines", MUTED))
    return Piece(content, BAR, BAR, "question")


def _body(painter: Painter, line: int) -> SourceText | MarkdownText:
    if painter.shows_tokens:
        return SourceText(painter, line)
    # Imported when first needed: it takes a third of the time to start.
    from tui.markdown import MarkdownText

    return MarkdownText(painter, line)
