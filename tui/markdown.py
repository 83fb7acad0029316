"""Answers as Markdown: HTML is text, a line break is a line break, no link is followed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, zip_longest

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline, emphasis
from markdown_it.token import Token
from pygments.lexers import get_lexer_by_name  # type: ignore[import-untyped]
from pygments.util import ClassNotFound  # type: ignore[import-untyped]
from textual.content import Content, Span
from textual.highlight import highlight

from metasd_local.text import printable
from tui.growing import Rows
from tui.show import MUTED, NOTHING, Painter, Piece

STYLES = {
    **{"h1": "bold underline $text-primary", "h2": "bold $text-primary", "th": "bold"},
    **{"h3": "bold", "h4": "bold", "h5": "bold", "h6": "bold", "mark": MUTED},
    **{"strong": "bold", "em": "italic", "s": "strike", "link": "underline $text-primary"},
    **{"code_inline": "$text-warning", "image": MUTED},
}
CLOSING = {")", "]", "}"}
FIRST_OF_OTHER_SCRIPTS = "\u0590"
"""Before it Latin, Greek and Cyrillic letters."""
SETTLED_LINES = 50
"""Lines of code, or rows of a table, that become final together."""
BAR, BULLET, GAP = "▌ ", "• ", "  "
NARROWEST_COLUMN = 4


@dataclass(frozen=True, slots=True)
class Begun:
    """What is final of a block that grows."""

    continues: bool
    """Whether it goes on with what is above it: with itself, or with a list."""
    num_pieces: int = 0
    """How many of the pieces it has now are on the screen for good."""
    widths: Sequence[int] = ()
    """The columns, if there are rows of a table among them."""


class MarkdownText(Rows):
    """Rows of a growing text: only its last block, or item, is parsed and painted again.

    Of long code at its end, or a long table, only the last lines are: code is highlighted as if it
    began there, and columns become no narrower.
    """

    def __init__(self, painter: Painter, line: int) -> None:
        super().__init__(painter, line)
        self._source = ""
        """The last block, without most of the lines that are final."""
        self._begun = Begun(continues=False)

    def grow(self, content: Content) -> None:
        """Append text; styles it has are not shown."""
        self.cut()
        self._source += content.plain
        # A reference defined at the end changes links before it.
        self.is_provisional |= "]:" in self._source
        lines = self._source.split("\n")
        blocks = _blocks(_parser().parse(self._source))
        # What the last line begins is only known at its end.
        starts = [index for index, block in enumerate(blocks) if _line(block) < len(lines) - 1]
        num_final = starts[-1] if starts else 0
        begun = self._begun
        for index, block in enumerate(blocks):
            begun = Begun(continues=_is_next_item(block)) if index else begun
            widths = [*begun.widths]
            pieces = [*_pieces(block, self._painter.width, widths)]
            if index == num_final:
                self.keep()
            if self.rows and not begun.continues:
                self.add(Piece(NOTHING))
            end = _end(block) if index == num_final else range(0)
            # The last line may come to be the end of the code.
            num_settled = max(len(end) - 1, 0) // SETTLED_LINES * SETTLED_LINES
            num_done = len(pieces) - len(end) + num_settled if num_settled else begun.num_pieces
            self.add(*pieces[begun.num_pieces : num_done])
            if num_settled:
                self.keep()
                self.is_provisional = True
                # One of them stays, as the sign of an item stands before its first line.
                del lines[end.start + 1 : end.start + num_settled]
                begun = Begun(True, num_done - num_settled + 1, widths)
            if index == num_final and (index or num_settled):
                self._begun, self._source = begun, "\n".join(lines[_line(block) :])
            self.add(*pieces[num_done:])


def _line(block: Sequence[Token]) -> int:
    """Return the line a block begins with."""
    begun = block[0].map
    assert begun is not None
    return begun[0]


def _is_next_item(block: Sequence[Token]) -> bool:
    """Tell whether a block goes on with the list that the one before it began."""
    return block[0].type == "list_item_open"


def _end(block: Sequence[Token]) -> range:
    """Return the lines of the rows of a table, or of the code that a block ends with.

    Each is a piece of its own.
    """
    last = next(token for token in reversed(block) if token.nesting >= 0)
    if block[0].type == "table_open" and block[0].map:
        return range(block[0].map[0] + 2, block[0].map[1])
    if last.type == "fence" and last.map:
        num_lines = last.content.removesuffix("\n").count("\n") + 1
        return range(last.map[0] + 1, last.map[0] + 1 + num_lines)
    return range(0)


def _blocks(tokens: Sequence[Token]) -> list[Sequence[Token]]:
    """Cut tokens where the next block of a text begins, or the next item of a list."""
    starts = [
        index
        for index, token in enumerate(tokens)
        if (not token.level and token.nesting >= 0)
        or (token.level == 1 and token.type == "list_item_open" and tokens[index - 1].level)
    ]
    return [tokens[start:end] for start, end in pairwise([*starts, len(tokens)])]


def _pieces(tokens: Sequence[Token], width: int, widths: list[int]) -> Iterator[Piece]:
    """Yield what the tokens show; widths: as of `_table`, but of a table that stands alone."""
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
                free = width - sum(rest.cell_length for _, rest in around)
                for row in _table(table, free, [] if around else widths):
                    yield leaf(row)
                table = []
            case "inline" if before is not None:
                content = _inline(token.children or ()).stylize_before(STYLES.get(before.tag, ""))
                if table:
                    table[-1].append(content)
                else:
                    yield leaf(content)
            case "fence" | "code_block":
                code = highlight(token.content, language=_language(token.info))
                for line in code.split(allow_blank=True):
                    yield leaf(line, "code")
            case "hr":
                yield leaf(Content.styled("─" * (width // 2), STYLES["mark"]))


def _inline(tokens: Sequence[Token]) -> Content:
    """Return text with its emphasis, and with the addresses of its links."""
    text = ""
    spans: list[Span] = []
    opened: list[tuple[int, str, str]] = []
    for token in tokens:
        name = token.type.removesuffix("_open")
        if token.nesting > 0:
            opened.append((len(text), STYLES.get(name, ""), str(token.attrs.get("href", ""))))
        elif token.nesting < 0:
            start, style, address = opened.pop()
            spans.append(Span(start, len(text), style))
            if address and not address.endswith(text[start:]):
                text += f" ({address})"
        else:
            # What is written as an entity was not looked at before.
            shown = "\n" if token.type.endswith("break") else printable(token.content)
            if name in STYLES:
                spans.append(Span(len(text), len(text) + len(shown), STYLES[name]))
            text += shown
    return Content(text, spans)


def _table(rows: Sequence[Sequence[Content]], width: int, widths: list[int]) -> Iterator[Content]:
    """Yield the rows of a table, the first with the line below it.

    widths: what the columns need at least; they become as wide as they are, the widest cut to what
    fits.
    """
    needed = [max(cell.cell_length for cell in column) for column in zip(*rows, strict=False)]
    needed = [*map(max, needed, widths)] if widths else needed
    free = width - len(GAP) * (len(needed) - 1)
    fitting = (most for most in range(free, 0, -1) if sum(min(w, most) for w in needed) <= free)
    most = max(next(fitting, 0), NARROWEST_COLUMN)
    widths[:] = [min(each, most) for each in needed]
    rule = Content.styled("─" * (sum(widths) + len(GAP) * (len(widths) - 1)), STYLES["mark"])
    for row in rows:
        cells = [cell.wrap(each) for cell, each in zip(row, widths, strict=False)]
        lines = [
            Content(GAP).join(
                line.pad_right(each - line.cell_length)
                for line, each in zip(line_of_cells, widths, strict=False)
            )
            for line_of_cells in zip_longest(*cells, fillvalue=NOTHING)
        ]
        yield Content("\n").join([*lines, rule] if row is rows[0] else lines)


@cache
def _language(info: str) -> str:
    """Return what highlights a code block; names that are not known would be searched each time."""
    name = (info.split() or [""])[0]
    try:
        get_lexer_by_name(name)
    except ClassNotFound:
        return "text"
    return name


def _emphasis(state: StateInline, silent: bool) -> bool:
    """Read marks of emphasis, but take no product or power for them.

    One that opens follows no operand, one that closes precedes none, and a single asterisk touches
    no digit. CommonMark would swallow `5*9=<<3*5`.
    """
    start, num_known = state.pos, len(state.delimiters)
    if not emphasis.tokenize(state, silent):
        return False
    before, after = state.src[start - 1 : start], state.src[state.pos : state.pos + 1]
    is_single = state.src[start : state.pos] == "*"
    is_product = is_single and (before.isdigit() or after.isdigit())
    for mark in state.delimiters[num_known:]:
        mark.open &= not (is_product or _is_operand(before) or before in CLOSING)
        mark.close &= not (is_product or _is_operand(after))
    return True


def _is_operand(character: str) -> bool:
    """Tell whether it may be one; scripts that set no spaces between words emphasise inside."""
    return character.isalnum() and character < FIRST_OF_OTHER_SCRIPTS


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("gfm-like", {"html": False})
    parser.inline.ruler.at("emphasis", _emphasis)
    return parser
