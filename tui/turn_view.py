"""One question and its answer on the screen, as Markdown or as tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from tui.conversation import Mark, Turn
from tui.marks import Legend
from tui.show import marked, plain, redraw

if TYPE_CHECKING:
    from textual.widgets import Markdown

MOST_QUESTION_LINES = 12
BLOCK_LENGTH = 2000
"""Characters after which the token view begins a new block: only the last is drawn anew."""


class TokenText(Vertical):
    """Source text with marks; blocks that are full are not touched any more."""

    def __init__(self, legend: Legend) -> None:
        super().__init__()
        self._legend = legend
        self._text = ""
        self._marks: list[Mark] = []
        self._block: Static | None = None

    async def grow(self, text: str, marks: Sequence[Mark]) -> None:
        """Append text and its marks."""
        for part, part_marks in _blocks(text, marks):
            if len(self._text) >= BLOCK_LENGTH and self._text.endswith("\n"):
                self._text, self._marks, self._block = "", [], None
            self._text += part
            self._marks += part_marks
            # A block's last line break would be shown as an empty line.
            content = marked(self._text.removesuffix("\n"), self._marks, self._legend)
            if self._block is None:
                self._block = Static(content)
                await self.mount(self._block)
            else:
                redraw(self._block, content)


def _blocks(text: str, marks: Sequence[Mark]) -> Iterator[tuple[str, list[Mark]]]:
    """Cut marked text after lines, so that no part is much longer than a block."""
    start, part, part_marks = 0, "", []
    for arm, length in marks:
        for line in text[start : start + length].splitlines(keepends=True):
            part += line
            part_marks.append((arm, len(line)))
            if len(part) >= BLOCK_LENGTH and part.endswith("\n"):
                yield part, part_marks
                part, part_marks = "", []
        start += length
    if part:
        yield part, part_marks


class TurnView(Vertical):
    """Shows a turn; `grow` while it is generated."""

    def __init__(self, turn: Turn, legend: Legend, *, shows_tokens: bool) -> None:
        super().__init__()
        self.turn = turn
        self._legend = legend
        self._shows_tokens = shows_tokens
        self._shows_reasoning = False
        self._body: Markdown | TokenText | None = None
        self._reasoning = Static(classes="reasoning")
        self._figures = Static(classes="figures")

    def compose(self) -> ComposeResult:
        """Yield question, reasoning, answer and figures."""
        yield Static(_shortened(self.turn.question), classes="question")
        yield self._reasoning
        yield self._figures

    async def on_mount(self) -> None:
        """Show what there is."""
        self._draw_reasoning()
        self.show_figures(self.turn.figures)
        if self.turn.answer:
            await self._begin_body()

    async def grow(self, answer: str, marks: Sequence[Mark]) -> None:
        """Show what was added to the answer, and the reasoning as it is now."""
        self._draw_reasoning()
        if not answer:
            return
        if self._body is None:
            await self._begin_body()
        elif isinstance(self._body, TokenText):
            await self._body.grow(answer, marks)
        else:
            await self._body.append(plain(answer).plain)

    async def finish(self) -> None:
        """Show the answer as it is at its end."""
        self.show_figures(self.turn.figures)
        # A reference defined at the end changes links before it, which streaming cannot see.
        if self._body is None or isinstance(self._body, TokenText):
            return
        if "]:" in self.turn.answer:
            await self._body.update(plain(self.turn.answer).plain)

    async def choose_view(self, *, shows_tokens: bool) -> None:
        """Show the answer as tokens or as Markdown."""
        if shows_tokens == self._shows_tokens:
            return
        self._shows_tokens = shows_tokens
        if self._body is not None:
            await self._body.remove()
            await self._begin_body()

    def show_figures(self, line: str) -> None:
        """Show a line under the answer; an empty one is hidden."""
        self._figures.display = bool(line)
        redraw(self._figures, plain(line))

    def toggle_reasoning(self) -> None:
        """Open or fold the reasoning."""
        self._shows_reasoning = not self._shows_reasoning
        self._draw_reasoning()

    async def _begin_body(self) -> None:
        answer = self.turn.answer
        if self._shows_tokens:
            self._body = tokens = TokenText(self._legend)
            await self.mount(tokens, before=self._figures)
            await tokens.grow(answer, self.turn.marks)
            return
        # Imported when first needed: it takes a third of the time to start.
        from tui.markdown import AnswerMarkdown

        self._body = AnswerMarkdown(plain(answer).plain)
        await self.mount(self._body, before=self._figures)

    def _draw_reasoning(self) -> None:
        text = self.turn.reasoning
        self._reasoning.display = bool(text)
        if not text:
            return
        sign = "▾" if self._shows_reasoning else "▸"
        line = f"{sign} reasoning, {len(text):,} characters (Ctrl+O)"
        self._reasoning.update(plain(f"{line}\n{text}" if self._shows_reasoning else line))


def _shortened(question: str) -> Content:
    """Return a question, long ones (with a file in them) cut."""
    lines = question.split("\n")
    if len(lines) <= MOST_QUESTION_LINES:
        return plain(question)
    shown = "\n".join(lines[: MOST_QUESTION_LINES - 1])
    rest = len(lines) - MOST_QUESTION_LINES + 1
    return plain(f"{shown}\n").append(plain(f"… {rest} more lines", "$text-muted"))
