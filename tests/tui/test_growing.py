"""Text that grows looks as if it had been there at once, and none of it is interpreted."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from textual.app import App, ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.highlight import highlight
from textual.strip import Strip

from metasd_local.text import printable
from tui.conversation import Turn
from tui.markdown import SETTLED_LINES
from tui.marks import OWN, Legend
from tui.show import Painter, Piece
from tui.transcript import Transcript
from tui.turn_view import Item, question

PARTS = (
    *("word ", "two words\n", "\n", "\n\n", "# title\n", "**bold** ", "`code` ", "_", "~~", "\\"),
    *("- item\n", "* item\n", "  - inner\n", "1. first\n", "2. second\n", "3) third\n", "    "),
    *(
        "```python\n",
        "```\n",
        "``",
        "def f(x):\n    return '''x\n",
        "~~~\ntext\n~~~\n",
        "> quote\n",
    ),
    *(
        "| a | b |\n|---|---|\n",
        "| 1 | 2 |\n",
        "| 1 | 2 |\n| 3 | **four** |\n| 5 |\n",
        "- ```\n  code\n",
        "  code\n  more\n  last\n",
        "---\n",
        "===\n",
        "[link](http://x)",
        "![i](u)",
    ),
    *("[bold]", "[/]", "[@click=app.quit]quit[/]", "$text-error", "<b>html</b>", "&lt;", "{x}"),
    *("&#x202e;", "&#x200b;"),
    *("\x1b[31m", "\x1b]0;title\x07", "\x9b2J", "\x08", "\r", "\x00", "\x7f", "\ufffd", "\ud800"),
    *(
        "\u202e",
        "\u200b",
        "\u200d",
        "\ufeff",
        "\u2028",
        "שלום ",
        "مرحبا",
        "e\u0301\u0301",
        "語",
        "🙂",
    ),
    *("👩\u200d👩\u200d👧", "a" * 90, "語" * 60, "\t", "x" * 300 + " ", "🇩🇪", "\U000e0041"),
)
HARMFUL = set(map(chr, (*range(9), *range(11, 32), *range(127, 160), 0x202E, 0x200B, 0xFEFF)))


class Host(App[None]):
    """Holds an empty conversation."""

    CSS_PATH = "../../tui/chat.tcss"

    def compose(self) -> ComposeResult:
        """Yield it."""
        with Vertical():
            yield Transcript(Legend(), "F9")


@asynccontextmanager
async def transcript() -> AsyncIterator[Transcript]:
    """Run an application and return its conversation."""
    app = Host()
    async with app.run_test():
        yield app.query_one(Transcript)


def painter_for(widget: Transcript, width: int, *, shows_tokens: bool) -> Painter:
    """Return what paints with one view."""
    return Painter(
        widget, width, Legend(), shows_tokens=shows_tokens, shows_reasoning=True, fold_key="F9"
    )


def item_for(turn: Turn) -> Item:
    """Return what shows a turn."""
    return Item(0, question(turn), turn)


def cut(rng: random.Random, text: str) -> Sequence[str]:
    """Return a text in pieces of all lengths."""
    places = sorted(rng.sample(range(len(text) + 1), min(len(text), rng.randint(1, 30))))
    return [text[start:end] for start, end in zip([0, *places], [*places, None], strict=True)]


def shown(view: Item) -> list[str]:
    """Return the rows of a turn as text."""
    return [row.text for row in view.rows]


@pytest.mark.parametrize("shows_tokens", [False, True])
@pytest.mark.parametrize(
    "block", [0, *(pytest.param(n, marks=pytest.mark.full) for n in range(1, 30))]
)
async def test_text_that_grew_looks_like_text_shown_at_once(
    monkeypatch: pytest.MonkeyPatch, block: int, shows_tokens: bool
) -> None:
    """Also: it shows no control character, loses no letter, and keeps within its width."""
    monkeypatch.setattr("tui.markdown.SETTLED_LINES", 2)
    async with transcript() as widget:
        for seed in range(40 * block, 40 * block + 40):
            rng = random.Random(seed)
            text = "".join(rng.choices(PARTS, k=rng.randint(1, 30)))
            painter = painter_for(widget, rng.choice((20, 50, 120)), shows_tokens=shows_tokens)
            turn = Turn("q")
            grown, at_once = item_for(turn), item_for(turn)
            grown.paint(painter)
            for piece in cut(rng, text):
                turn.answer += piece
                turn.reasoning += piece
                turn.marks.append((rng.choice(("x", "y", OWN)), len(piece)))
                grown.update("")
            at_once.paint(painter)
            # Links, columns and colours may change until the end; colours change how wide signs
            # that are joined are held to be.
            if not any(part in text for part in ("]:", "|---|", "\u200d")):
                assert shown(grown) == shown(at_once), (seed, text)
            grown.finish()
            assert grown.rows == at_once.rows, (seed, text)
            assert [part.lines for part in grown.parts] == [part.lines for part in at_once.parts]
            assert not set("".join(shown(grown))) & HARMFUL
            assert {row.cell_length for row in grown.rows} == {painter.width + 2}
            if shows_tokens:
                said = "".join(grown.parts[2].lines)
                wanted = printable(text).replace("\t", " " * 4).replace("\n", "")
                assert "".join(each for each in said if each not in "¹²") == wanted


@pytest.mark.parametrize(
    ("begin", "line"),
    [
        ("```python\n", "value_{0} = {0}\n"),
        ("- first\n", "- value_{0} = {0}\n"),
        ("- first\n  ```python\n", "  value_{0} = {0}\n"),
        ("1. ```python\n", "   value_{0} = {0}\n"),
        ("| name | value |\n|---|---|\n", "| value_{0} | = {0} |\n"),
    ],
)
async def test_no_line_of_long_code_of_a_list_or_a_table_makes_more_work_than_the_lines_before(
    monkeypatch: pytest.MonkeyPatch, begin: str, line: str
) -> None:
    """All lines read, highlighted and laid out count, as what is final is not touched again."""
    num_lines = 0

    def parsed(self: MarkdownIt, source: str) -> Sequence[Token]:
        nonlocal num_lines
        num_lines += source.count("\n")
        return parse(self, source)

    def counted(code: str, *, language: str) -> Content:
        nonlocal num_lines
        num_lines += code.count("\n")
        return highlight(code, language=language)

    def painted(self: Painter, piece: Piece, line: int) -> list[Strip]:
        nonlocal num_lines
        num_lines += 1
        return paint(self, piece, line)

    parse, paint = MarkdownIt.parse, Painter.paint
    monkeypatch.setattr(MarkdownIt, "parse", parsed)
    monkeypatch.setattr("tui.markdown.highlight", counted)
    monkeypatch.setattr(Painter, "paint", painted)
    async with transcript() as widget:
        turn = Turn("q", f"Before\n\n{begin}")
        item = item_for(turn)
        item.paint(painter_for(widget, 80, shows_tokens=False))
        for number in range(160):
            turn.answer += line.format(number)
            num_lines = 0
            item.update("")
            assert num_lines < 3 * (SETTLED_LINES + 5), number
        values = [re.sub(r"\W+", " ", row.text).split() for row in item.rows]
        shown = [words[-2:] for words in values if words and words[-1].isdecimal()]
        assert shown == [[f"value_{number}", str(number)] for number in range(160)]


def expression(rng: random.Random, depth: int = 0) -> str:
    """Return an arithmetic expression, spaced as models space them."""
    if depth > 3 or rng.random() < 0.3:
        return rng.choice(("5", "12", "3.5", "x", "π", "1,000", "$40"))
    left, right = expression(rng, depth + 1), expression(rng, depth + 1)
    sign = rng.choice(("*", "*", "**", "+", "-", "/", "=", "<", ">", "^", "_", "%", "<<", ">>"))
    joined = f"{left}{rng.choice(('', ' ')).join(('', sign, ''))}{right}"
    if sign == "*" and left[-1:].isdigit() and right[:1].isdigit():
        joined = f"{left}{rng.choice(('*', ' *', '* ', ' * '))}{right}"
    return rng.choice((joined, f"({joined})"))


async def test_of_an_answer_on_maths_no_digit_and_no_sign_is_lost() -> None:
    async with transcript() as widget:
        for seed in range(300):
            rng = random.Random(seed)
            sums = [expression(rng) for _ in range(3)]
            said = "He has " + rng.choice((" and ", ", ", "=")).join(sums) + " **apples**"
            item = item_for(Turn("q", said))
            item.paint(painter_for(widget, 400, shows_tokens=False))
            assert "".join(item.parts[2].lines) == said.replace("**apples**", "apples"), seed


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("5*9=<<3*5=80>>", "5*9=<<3*5=80>>"),
        ("x*y + z*w, f(a)*(b)*(c)", "x*y + z*w, f(a)*(b)*(c)"),
        ("2 *3 and 4* 5, 2**3**4", "2 *3 and 4* 5, 2**3**4"),
        ("**5**, *so*, (*or*), **so**: __5__ _6_", "5, so, (or), so: 5 6"),
        ("***both***, *(a note)*, **a*b*c**", "both, (a note), a*b*c"),
        ("这是**重要**的, **중요**는", "这是重要的, 중요는"),
    ],
)
async def test_emphasis_is_told_from_products(said: str, text: str) -> None:
    async with transcript() as widget:
        item = item_for(Turn("q", said))
        item.paint(painter_for(widget, 80, shows_tokens=False))
        assert item.parts[2].lines == [text]
