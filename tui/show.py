"""Untrusted text on its way to the screen: nothing in it is interpreted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from rich.cells import cell_len, chop_cells
from rich.segment import Segment
from textual.content import Content, Span
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Static

from metasd_local.text import printable
from tui.conversation import Mark
from tui.marks import OWN, Legend

NOTHING = Content("")
MARGIN = 1
"""Empty columns on both sides of the text."""
TAB = "    "
WORDS = re.compile(r"\s*\S+\s*")
MUTED = "dim"
"""The style of what matters less; `$text-muted` is white in a text without a background."""
NARROWEST = 8
"""Columns that text gets, however much stands before it."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that is shown together; its kind names its style."""

    content: Content
    first: Content = NOTHING
    """What stands before its first row, and is no part of the text."""
    rest: Content = NOTHING
    """What stands before its other rows; as wide."""
    kind: str = "answer"


class Painter:
    """Makes rows of a width from text, in the styles of a widget.

    Every character knows its line and its place in it, which is how a selection finds the text
    behind rows.
    """

    def __init__(
        self,
        widget: Widget,
        width: int,
        legend: Legend,
        *,
        shows_tokens: bool,
        shows_reasoning: bool,
        fold_key: str,
    ) -> None:
        self.width = width - 2 * MARGIN
        self.legend = legend
        self.shows_tokens = shows_tokens
        """Whether answers are to be shown as tokens, else as Markdown."""
        self.shows_reasoning = shows_reasoning
        self.fold_key = fold_key
        """What opens and folds the reasoning."""
        self._widget = widget

    def paint(self, piece: Piece, line: int) -> list[Strip]:
        """Return the rows of a text whose first line is the one numbered `line`."""
        prefix, rows = piece.first, []
        for text in piece.content.split(allow_blank=True):
            for start, content in wrap(text, self.width - prefix.cell_length):
                rows.append(self.row(content, prefix, piece.kind, start, line))
                prefix = piece.rest
            line += 1
        return rows

    def row(self, content: Content, prefix: Content, kind: str, start: int, line: int) -> Strip:
        """Return text that fits a row, and stands in its line from the `start`-th character on."""
        style = self._widget.get_visual_style(f"transcript--{kind}")
        segments = [Segment(" " * MARGIN, self._widget.visual_style.rich_style)]
        segments += (Segment(text, each.rich_style) for text, each in prefix.render(style, ""))
        for text, each in content.render(style, ""):
            segments.append(Segment(text, each.rich_style_with_offset(start, line)))
            start += len(text)
        return Strip(segments).adjust_cell_length(self.width + 2 * MARGIN, style.rich_style)


def wrap(line: Content, width: int) -> Iterator[tuple[int, Content]]:
    """Yield the rows of a line, each with the place of its first character.

    More text at the end changes the last row only, whatever that text is.
    """
    text, width = line.plain, max(width, NARROWEST)
    starts = [0]
    if cell_len(text) > width:
        used = 0
        for word in WORDS.finditer(text):
            visible = word[0].rstrip()
            if used + cell_len(visible) > width:
                parts = chop_cells(visible, width)
                ends = accumulate(map(len, parts), initial=word.start())
                starts += list(ends)[not word.start() : -1]
                used = cell_len(parts[-1]) - cell_len(visible)
            used += cell_len(word[0])
    yield from zip(starts, line.divide(starts[1:]), strict=True)


def plain(text: str, style: str = "") -> Content:
    """Return text as it may be shown: without control characters, its brackets just brackets."""
    return Content.styled(printable(text), style)


def marked(text: str, marks: Iterable[Mark], legend: Legend) -> Content:
    """Return text with what arms drafted underlined, coloured, and preceded by the arm's sign.

    Tabs become spaces: text that grows may be wrapped before one, and its width would change.
    """
    parts: list[str] = []
    spans: list[Span] = []
    position = shown = 0
    for arm, length in marks:
        part = plain(text[position : position + length]).plain.replace("\t", TAB)
        position += length
        if arm != OWN and part:
            breaks = len(part) - len(part.lstrip("\n"))
            part = part[:breaks] + legend.sign(arm) + part[breaks:]
            start, colour = shown + breaks, legend.colour(arm)
            spans += (
                Span(start, start + 1, f"{colour} bold"),
                Span(start + 1, shown + len(part), f"{colour} underline"),
            )
        parts.append(part)
        shown += len(part)
    parts.append(plain(text[position:]).plain.replace("\t", TAB))
    return Content("".join(parts), spans)


def redraw(widget: Static, content: Content) -> None:
    """Show other content; the screen is laid out anew, which costs most, only for a new height."""
    shown = widget.visual
    if isinstance(shown, Content) and content.is_same(shown):
        return
    height = content.get_height({}, widget.size.width) if widget.size.width else -1
    widget.update(content, layout=height != widget.size.height)


def legend_line(legend: Legend) -> Content:
    """Return which sign is whose."""
    parts: list[Content | tuple[str, str]] = [("drafted by ", MUTED)]
    for arm in legend.arms:
        parts += (
            (legend.sign(arm), f"{legend.colour(arm)} bold"),
            plain(arm, f"{legend.colour(arm)} underline"),
            (" ", ""),
        )
    return Content.assemble(*parts, ("· unmarked: the target's own", MUTED))
