"""Text that grows looks as if it had been there at once, and none of it is interpreted."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from textual.app import App, ComposeResult
from textual.containers import Vertical

from metasd_local.text import printable
from tui.conversation import Turn
from tui.marks import OWN, Legend
from tui.show import Painter
from tui.transcript import Transcript
from tui.turn_view import TurnView

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
    *("| a | b |\n|---|---|\n", "| 1 | 2 |\n", "---\n", "===\n", "[link](http://x)", "![i](u)"),
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


def cut(rng: random.Random, text: str) -> Sequence[str]:
    """Return a text in pieces of all lengths."""
    places = sorted(rng.sample(range(len(text) + 1), min(len(text), rng.randint(1, 30))))
    return [text[start:end] for start, end in zip([0, *places], [*places, None], strict=True)]


def shown(view: TurnView) -> list[str]:
    """Return the rows of a turn as text."""
    return [row.text for row in view.rows]


@pytest.mark.parametrize("shows_tokens", [False, True])
@pytest.mark.parametrize(
    "block", [0, *(pytest.param(n, marks=pytest.mark.full) for n in range(1, 30))]
)
async def test_text_that_grew_looks_like_text_shown_at_once(block: int, shows_tokens: bool) -> None:
    """Also: it shows no control character, loses no letter, and keeps within its width."""
    async with transcript() as widget:
        for seed in range(40 * block, 40 * block + 40):
            rng = random.Random(seed)
            text = "".join(rng.choices(PARTS, k=rng.randint(1, 30)))
            painter = painter_for(widget, rng.choice((20, 50, 120)), shows_tokens=shows_tokens)
            grown = TurnView(0, Turn("q"))
            grown.paint(painter)
            for piece in cut(rng, text):
                grown.turn.answer += piece
                grown.turn.reasoning += piece
                grown.turn.marks.append((rng.choice(("x", "y", OWN)), len(piece)))
                grown.update("")
            grown.finish()
            at_once = TurnView(0, grown.turn)
            at_once.paint(painter)
            assert shown(grown) == shown(at_once), (seed, text)
            assert [part.lines for part in grown.parts] == [part.lines for part in at_once.parts]
            assert not set("".join(shown(grown))) & HARMFUL
            assert {row.cell_length for row in grown.rows} == {painter.width + 2}
            if shows_tokens:
                said = "".join(grown.parts[3].lines)
                wanted = printable(text).replace("\t", " " * 4).replace("\n", "")
                assert "".join(each for each in said if each not in "¹²") == wanted
