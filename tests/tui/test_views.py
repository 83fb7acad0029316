"""How answers look: Markdown or tokens, marked by arm, and nothing in them is obeyed."""

from __future__ import annotations

from pathlib import Path

import pytest

from metasd_local.options import Options
from tests.tui.scripted_pool import ScriptedPool, chat_on

REPEATING = "one two three one two three one two three one two three"


async def test_the_token_view_marks_what_was_drafted(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool({"hi": REPEATING}), tmp_path) as chat:
        await chat.pilot.press("f2")
        await chat.ask("hi")
        turn = chat.app.desk.chat.turns[0]
        assert sum(size for _, size in turn.marks) == len(REPEATING)
        drafted = sum(size for arm, size in turn.marks if arm == "ngram")
        assert turn.stats is not None
        assert drafted == turn.stats["accepted"] > 10
        screen = chat.screen()
        assert "¹" in screen
        assert "drafted by ¹ngram · unmarked: the target's own" in screen


async def test_the_view_is_switched_by_one_key_and_remembered(tmp_path: Path) -> None:
    pool = ScriptedPool({"hi": "**bold** words"})
    async with chat_on(pool, tmp_path) as chat:
        await chat.ask("hi")
        assert "**bold**" not in chat.screen()
        await chat.pilot.press("f2")
        await chat.pilot.pause()
        assert "**bold** words" in chat.screen()
    async with chat_on(ScriptedPool({"hi": "**bold** words"}), tmp_path) as chat:
        await chat.ask("hi")
        assert "**bold** words" in chat.screen()


@pytest.mark.parametrize("shows_tokens", [False, True])
async def test_a_streamed_answer_looks_like_one_shown_at_once(
    tmp_path: Path, shows_tokens: bool
) -> None:
    answer = (
        "# Title\n\nwords\nmore\n\n```python\ndef f():\n    pass\n```\n\n* a\n* b\n\n| x | y |\n"
    )
    answer += "|---|---|\n| 1 | 2 |\n\nsee [it]\n\n[it]: http://x.y\n"
    async with chat_on(ScriptedPool({"hi": answer}), tmp_path, size=(80, 50)) as chat:
        if shows_tokens:
            await chat.pilot.press("f2")
        await chat.ask("hi")
        streamed = chat.screen()
        for _ in range(2):
            await chat.pilot.press("f2")
            await chat.pilot.pause()
        assert chat.screen() == streamed


async def test_no_line_of_a_long_token_view_is_lost(tmp_path: Path) -> None:
    answer = "\n".join(f"line {number} of many" for number in range(40))
    options = Options(policy="plain")
    async with chat_on(
        ScriptedPool({"hi": answer}), tmp_path, size=(80, 80), options=options
    ) as chat:
        await chat.pilot.press("f2")
        await chat.ask("hi")
        shown = [line.strip() for line in chat.screen().splitlines() if "of many" in line]
        assert shown == answer.split("\n")


async def test_where_a_link_goes_can_be_read(tmp_path: Path) -> None:
    """As nothing opens it; what is its own text is not said twice."""
    answer = "see [the page](http://x.y/z?a=1) and http://u.v"
    async with chat_on(ScriptedPool({"hi": answer}), tmp_path) as chat:
        await chat.ask("hi")
        assert "see the page (http://x.y/z?a=1) and http://u.v\n" in chat.screen()


async def test_reasoning_is_one_line_until_a_key_opens_it(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool({"hi": "<think>well, well</think>yes"}), tmp_path) as chat:
        await chat.ask("hi")
        assert "▸ reasoning, 10 characters" in chat.screen()
        assert "well, well" not in chat.screen()
        await chat.pilot.press("ctrl+o")
        await chat.pilot.pause()
        assert "well, well" in chat.screen()


@pytest.mark.parametrize(("num_lines", "num_shown"), [(12, 12), (13, 11), (400, 11)])
async def test_of_a_long_question_the_first_lines_are_shown(
    tmp_path: Path, num_lines: int, num_shown: int
) -> None:
    """And how many more there are; the model gets them all."""
    question = "\n".join(f"line {number}." for number in range(num_lines))
    async with chat_on(ScriptedPool({question: "ok"}, context_size=9000), tmp_path) as chat:
        await chat.ask(question)
        screen = chat.screen()
        assert chat.app.desk.chat.turns[0].answer == "ok"
        assert [f"▌ line {number}.\n" in screen for number in range(num_shown + 1)][-2:] == [
            True,
            False,
        ]
        assert (f"▌ … {num_lines - num_shown} more lines" in screen) == (num_shown < num_lines)


async def test_code_is_highlighted_in_its_language_and_other_text_is_not(tmp_path: Path) -> None:
    names = ("python", "rust x", "nope", "")
    answer = "".join(f"```{name}\nreturn 1\n```\n" for name in names)
    async with chat_on(ScriptedPool({"hi": answer}), tmp_path) as chat:
        await chat.ask("hi")
        rows = map(chat.app.transcript.render_line, range(chat.app.transcript.size.height))
        python, rust, unknown, none = (
            {part.style and part.style.color for part in row if part.text.strip()}
            for row in rows
            if "return 1" in row.text
        )
        assert unknown == none
        assert not (python | rust) & none


HOSTILE = (
    "[bold]x[/bold] [@click=app.quit]quit[/] [",
    "\x1b[31mred\x1b]0;title\x07 \x9b2J \x08\x7f",
    "a" * 700,
    "<b>html</b> <script>x</script> &lt; \\[ \\x1b",
    "\u202eright to left\u202c \u200b\u200d\ufeff שלום مرحبا",
    "![image](http://x/y.png) [link](javascript:alert) <http://auto.link>",
    "```\nunclosed [red]\n\x1b[2J",
    "e\u0301\u0301\u0301 👩\u200d👩\u200d👧 \ud7ff \ufffd",
    "[/] [[ ]] $text-error {x} {{ y }}",
)


async def test_nothing_a_model_says_is_obeyed(tmp_path: Path) -> None:
    """The text goes through question, reasoning, answer, title, notice and prompt."""
    text = "\n".join(HOSTILE)
    pool = ScriptedPool(
        {text: f"<think>{text}</think>{text}"}, context_size=20_000, notices=(text,)
    )
    async with chat_on(pool, tmp_path, options=Options(policy="fixed:ngram")) as chat:
        await chat.ask(text)
        assert chat.app.desk.chat.turns[0].answer == text
        screen = ""
        for key in ("f2", "ctrl+o", "pageup", "f2", "pageup", "f4"):
            screen += chat.screen()
            await chat.pilot.press(key)
            await chat.pilot.pause()
        screen += chat.screen()
        assert "[bold]x[/bold] [@click=app.quit]quit[/]" in screen
        assert not set(screen) & set("\x1b\x07\x08\x7f\x9b\u202e\ufeff")
        assert chat.app.is_running
