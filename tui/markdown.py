"""Answers as Markdown: HTML is text, a line break is a line break, no link is followed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token
from pygments.lexers import get_lexer_by_name  # type: ignore[import-untyped]
from pygments.util import ClassNotFound  # type: ignore[import-untyped]
from textual.content import Content, Span
from textual.highlight import highlight
from textual.style import Style

from tui.growing import Rows
from tui.show import MUTED, NOTHING, Painter, Piece

NUM_CODE_LINES = 16
"""Lines of an unfinished code block that are painted again with every piece of it, or twice."""
STYLES = {
    **{"h1": "bold underline $text-primary", "h2": "bold $text-primary", "th": "bold"},
    **{"h3": "bold", "h4": "bold", "h5": "bold", "h6": "bold", "mark": MUTED},
    **{"strong": "bold", "em": "italic", "s": "strike", "link": "underline $text-primary"},
    **{"code_inline": "$text-warning", "image": MUTED},
}
BAR, BULLET, GAP = "▌ ", "• ", "  "
NARROWEST_COLUMN = 4


class MarkdownText(Rows):
    """Rows of a growing text: only its last block is parsed and painted again.

    Of a list that is the last item, of a code block that is not closed yet the last lines.
    """

    def __init__(self, painter: Painter, line: int) -> None:
        super().__init__(painter, line)
        self.has_open_code = False
        self._source = ""
        """The last block."""
        self._final = (0, 0)
        """The size of what is above it."""
        self._follows_item = self._is_in_list = False
        """Whether an item of a list is above it, and above what is painted next."""
        self._before_block = (0, 0)
        self._code = ""
        """The last lines of an open code block."""
        self._language = ""
        self._closing = re.compile("")
        self._final_code = (0, 0)

    def grow(self, content: Content) -> None:
        """Append text; styles it has are not shown."""
        last_line = self._source.rfind("\n") + 1
        self._source += content.plain
        if self.has_open_code and not self._closing.search(self._source, last_line):
            self._grow_code(content.plain)
            return
        self.has_open_code = False
        self.cut(self._final)
        lines = self._source.split("\n")
        blocks = _blocks(_parser().parse(self._source), lines)
        # What the last line begins is only known at its end.
        starts = [index for index, block in enumerate(blocks) if _line(block) < len(lines) - 1]
        num_final = starts[-1] if starts else 0
        self._is_in_list = self._follows_item
        for index, block in enumerate(blocks):
            if index == num_final:
                self._final, self._follows_item = self.size, self._is_in_list
            self._paint(block)
        if num_final:
            lines = lines[_line(blocks[num_final]) :]
            self._source = "\n".join(lines)
        fence = blocks[-1][0] if num_final == len(blocks) - 1 else None
        # An indented one would have to be cleared of its indentation.
        if fence and fence.type == "fence" and lines[0].startswith(fence.markup):
            self._closing = re.compile(
                f"^ {{0,3}}{re.escape(fence.markup)}{fence.markup[0]}*[ ]*$", re.MULTILINE
            )
            code = "\n".join(lines[1:])
            if len(lines) > 1 and not self._closing.search(code):
                self.has_open_code = True
                self._language, self._code = _language(fence.info), ""
                self._final_code = self._before_block
                self._grow_code(code)

    def _paint(self, block: Sequence[Token]) -> None:
        is_item = block[0].type == "list_item_open"
        if self.rows and not (is_item and self._is_in_list):
            self.add(Piece(NOTHING))
        self._is_in_list = is_item
        self._before_block = self.size
        for piece in _pieces(block, self._painter.width):
            self.add(piece)

    def _grow_code(self, text: str) -> None:
        self.cut(self._final_code)
        self._code += text
        lines = highlight(self._code, language=self._language).split()
        num_final = len(lines) - NUM_CODE_LINES if len(lines) > 2 * NUM_CODE_LINES else 0
        for index, line in enumerate(lines):
            if index == num_final:
                self._final_code = self.size
            self.add(Piece(line, kind="code"))
        self._code = "\n".join(self._code.split("\n")[num_final:])


def _line(block: Sequence[Token]) -> int:
    """Return the line a block begins with."""
    begun = block[0].map
    assert begun is not None
    return begun[0]


def _blocks(tokens: Sequence[Token], lines: Sequence[str]) -> list[Sequence[Token]]:
    """Cut tokens into blocks, and lists into items where an item could begin a text."""
    starts = []
    for index, token in enumerate(tokens):
        if token.type == "list_item_open" and token.level == 1:
            assert token.map is not None
            is_first = tokens[index - 1].level == 0
            if is_first or not lines[token.map[0]].startswith("    "):
                starts.append(index)
        elif not token.level and token.nesting >= 0 and not token.type.endswith("list_open"):
            starts.append(index)
    return [tokens[start:end] for start, end in pairwise([*starts, len(tokens)])]


def _pieces(tokens: Sequence[Token], width: int) -> Iterator[Piece]:
    """Yield what the tokens show."""
    around: list[tuple[Content, Content]] = []
    """What stands before the first and before the other rows, from the outside in."""
    table: list[list[Content]] = []

    def leaf(content: Content, kind: str = "answer") -> Piece:
        first = NOTHING.join(first for first, _ in around)
        rest = NOTHING.join(rest for _, rest in around)
        around[:] = [(rest, rest) for _, rest in around]
        return Piece(content, first, rest, kind)

    for before, token in zip([None, *tokens], tokens, strict=False):
        match token.type:
            case "list_item_open":
                mark = f"{token.info}{token.markup} " if token.info else BULLET
                around.append((Content.styled(mark, STYLES["mark"]), Content(" " * len(mark))))
            case "blockquote_open":
                around.append((Content.styled(BAR, STYLES["mark"]),) * 2)
            case "list_item_close" | "blockquote_close":
                around.pop()
            case "paragraph_open" if before and before.type == "paragraph_close":
                yield leaf(NOTHING)
            case "tr_open":
                table.append([])
            case "table_close":
                for row in _table(table, width - sum(rest.cell_length for _, rest in around)):
                    yield leaf(row)
                table = []
            case "inline" if before is not None:
                content = _inline(token.children or ()).stylize_before(STYLES.get(before.tag, ""))
                if table:
                    table[-1].append(content)
                else:
                    yield leaf(content)
            case "fence" | "code_block":
                for line in highlight(token.content, language=_language(token.info)).split():
                    yield leaf(line, "code")
            case "hr":
                yield leaf(Content.styled("─" * (width // 2), STYLES["mark"]))


def _inline(tokens: Sequence[Token]) -> Content:
    """Return text with its emphasis and its links."""
    text = ""
    spans: list[Span] = []
    opened: list[tuple[int, Style | str]] = []
    for token in tokens:
        name = token.type.removesuffix("_open")
        if token.nesting > 0:
            opened.append((len(text), STYLES.get(name, "")))
            if name == "link":
                opened.append((len(text), Style.from_meta({"href": str(token.attrs["href"])})))
        elif token.nesting < 0:
            for _ in range(2 if token.type == "link_close" else 1):
                start, style = opened.pop()
                spans.append(Span(start, len(text), style))
        else:
            shown = "\n" if token.type.endswith("break") else token.content
            if name in STYLES:
                spans.append(Span(len(text), len(text) + len(shown), STYLES[name]))
            text += shown
    return Content(text, spans)


def _table(rows: Sequence[Sequence[Content]], width: int) -> Iterator[Content]:
    """Yield the rows of a table, its widest columns cut to what fits."""
    widths = [max(cell.cell_length for cell in column) for column in zip(*rows, strict=False)]
    free = width - len(GAP) * (len(widths) - 1)
    fitting = (most for most in range(free, 0, -1) if sum(min(w, most) for w in widths) <= free)
    most = max(next(fitting, 0), NARROWEST_COLUMN)
    widths = [min(each, most) for each in widths]
    for row in rows:
        cells = [cell.wrap(each) for cell, each in zip(row, widths, strict=False)]
        for index in range(max(map(len, cells), default=0)):
            lines = (cell[index] if index < len(cell) else NOTHING for cell in cells)
            padded = (
                line.pad_right(each - line.cell_length)
                for line, each in zip(lines, widths, strict=False)
            )
            yield Content(GAP).join(padded)
        if row is rows[0]:
            yield Content.styled("─" * (sum(widths) + width - free), STYLES["mark"])


@cache
def _language(info: str) -> str:
    """Return what highlights a code block; names that are not known would be searched each time."""
    name = (info.split() or [""])[0]
    try:
        get_lexer_by_name(name)
    except ClassNotFound:
        return "text"
    return name


@cache
def _parser() -> MarkdownIt:
    return MarkdownIt("gfm-like", {"html": False})
