"""Answers as Markdown: HTML is text, a line break is a line break, no link is followed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise

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
CODE_LINES = 50
"""Lines of code that become final together."""
BAR, BULLET, GAP = "▌ ", "• ", "  "
NARROWEST_COLUMN = 4


class MarkdownText(Rows):
    """Rows of a growing text: only its last block, or item, is parsed and painted again.

    Of a long block of code only the end is, which is highlighted as if it began there.
    """

    def __init__(self, painter: Painter, line: int) -> None:
        super().__init__(painter, line)
        self._source = ""
        """The last block; without the code that is final, but with the line that opened it."""
        self._continues = False
        """Whether it goes on with the code or the list above it."""

    def grow(self, content: Content) -> None:
        """Append text; styles it has are not shown."""
        self.cut()
        self._source += content.plain
        lines = self._source.split("\n")
        blocks = _blocks(_parser().parse(self._source))
        # What the last line begins is only known at its end.
        starts = [index for index, block in enumerate(blocks) if _line(block) < len(lines) - 1]
        num_final = starts[-1] if starts else 0
        num_code = 0
        """Lines of code in the last block that are final."""
        for index, block in enumerate(blocks):
            if index == num_final:
                self.keep()
                num_code = _num_final_code(block)
            if self.rows and not (self._continues if not index else _is_next_item(block)):
                self.add(Piece(NOTHING))
            for number, piece in enumerate(_pieces(block, self._painter.width), 1):
                self.add(piece)
                if index == num_final and number == num_code:
                    self.keep()
        # A reference defined at the end changes links before it.
        self.is_provisional |= bool(num_code) or "]:" in self._source
        if num_final or num_code:
            self._continues = bool(num_code) or _is_next_item(blocks[num_final])
            first = _line(blocks[num_final])
            if num_code:
                del lines[first + 1 : first + 1 + num_code]
            self._source = "\n".join(lines[first:])


def _line(block: Sequence[Token]) -> int:
    """Return the line a block begins with."""
    begun = block[0].map
    assert begun is not None
    return begun[0]


def _is_next_item(block: Sequence[Token]) -> bool:
    """Tell whether a block goes on with the list that the one before it began."""
    return block[0].type == "list_item_open"


def _num_final_code(block: Sequence[Token]) -> int:
    """Return how many lines of code nothing can change any more, but how they are highlighted."""
    if block[0].type != "fence":
        return 0
    # The last line may come to be the fence's end.
    return max(block[0].content.count("\n") - 1, 0) // CODE_LINES * CODE_LINES


def _blocks(tokens: Sequence[Token]) -> list[Sequence[Token]]:
    """Cut tokens where the next block of a text begins, or the next item of a list."""
    starts = [
        index
        for index, token in enumerate(tokens)
        if (not token.level and token.nesting >= 0)
        or (token.level == 1 and token.type == "list_item_open" and tokens[index - 1].level)
    ]
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
