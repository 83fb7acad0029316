"""Following the text, and long conversations."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.color_triplet import ColorTriplet
from textual.geometry import Offset, Region
from textual.selection import Selection

from metasd_local.errors import MetasdError
from tests.tui.scripted_pool import ScriptedPool, chat_on
from tui.conversation import Conversation, Turn
from tui.desk import Changes
from tui.transcript import Transcript

LONG = "\n\n".join(f"paragraph {number}" for number in range(60))
ANSWER = "Some *words* and `code`.\n\n```python\ndef f(x):\n    return x\n```\n\n- a\n- b\n"


def num_painted(transcript: Transcript) -> int:
    """Return how many turns and notes were painted."""
    return sum(item.painter is not None for item in transcript._items)


def rows(transcript: Transcript) -> list[str]:
    """Return what is in sight."""
    return [transcript.render_line(y).text for y in range(transcript.size.height)]


async def test_the_end_is_followed_until_the_user_scrolls_up(tmp_path: Path) -> None:
    """Neither text nor notices move what is read; the reply to a command is gone to."""
    pool = ScriptedPool({"hi": LONG}, hold_at=300, context_size=5000)
    async with chat_on(pool, tmp_path) as chat:
        transcript, desk = chat.app.transcript, chat.app.desk
        await chat.type("hi")
        await chat.until(lambda: transcript.max_scroll_y > 10)
        assert transcript.is_vertical_scroll_end
        await chat.pilot.press("pageup")
        await chat.until(lambda: not transcript.follows)
        stayed, shown = transcript.scroll_y, rows(transcript)
        before = transcript.max_scroll_y
        pool.go.set()
        await chat.until(lambda: not chat.app.desk.is_busy and not chat.app.is_drawing)
        transcript.draw(Changes(notices=["a notice"], errors=[MetasdError("a failure")]), desk)
        assert transcript.max_scroll_y > before
        assert transcript.scroll_y == stayed
        assert rows(transcript) == shown
        assert "more below" in chat.screen()
        await chat.ask("/system")
        assert "a notice" in chat.screen()
        assert "system prompt" in chat.screen()


async def test_scrolling_near_the_end_follows_again_while_the_end_moves(tmp_path: Path) -> None:
    pool = ScriptedPool({"hi": LONG}, hold_at=300, context_size=5000)
    async with chat_on(pool, tmp_path) as chat:
        transcript = chat.app.transcript
        await chat.type("hi")
        await chat.until(lambda: transcript.max_scroll_y > 10)
        await chat.pilot.press("pageup")
        await chat.until(lambda: not transcript.follows)
        transcript.scroll_to(y=transcript.max_scroll_y - 2, animate=False)
        await chat.until(lambda: transcript.follows)
        pool.go.set()
        await chat.until(lambda: not chat.app.desk.is_busy and not chat.app.is_drawing)
        assert transcript.is_vertical_scroll_end


async def test_scrolling_where_there_is_nothing_to_scroll_keeps_following(tmp_path: Path) -> None:
    pool = ScriptedPool({"hi": LONG}, hold_at=20, context_size=5000)
    async with chat_on(pool, tmp_path) as chat:
        transcript = chat.app.transcript
        await chat.type("hi")
        await chat.until(pool.is_held.is_set)
        transcript.scroll_down(animate=False)
        transcript.scroll_up(animate=False)
        pool.go.set()
        await chat.until(lambda: not chat.app.desk.is_busy and not chat.app.is_drawing)
        transcript.scroll_down(animate=False)
        await chat.pilot.pause()
        assert transcript.follows
        assert transcript.is_vertical_scroll_end


async def test_a_page_up_where_all_is_seen_is_no_reason_to_speak_of_more(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        await chat.ask("hi")
        await chat.pilot.press("pageup")
        await chat.until(lambda: chat.app.transcript.follows)
        assert "more below" not in chat.screen()


async def test_a_single_row_up_is_enough_to_stay(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool({"hi": LONG}, context_size=5000), tmp_path) as chat:
        await chat.ask("hi")
        chat.app.transcript.scroll_up(animate=False)
        await chat.pilot.pause()
        assert not chat.app.transcript.follows


async def test_a_key_goes_to_the_end(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool({"hi": LONG}, context_size=5000), tmp_path) as chat:
        await chat.ask("hi")
        await chat.pilot.press("pageup", "pageup")
        await chat.until(lambda: not chat.app.transcript.follows)
        await chat.pilot.press("ctrl+end")
        await chat.until(lambda: chat.app.transcript.is_vertical_scroll_end)


async def test_of_a_long_conversation_only_what_is_seen_is_painted(tmp_path: Path) -> None:
    turns = [Turn(f"question {number}", ANSWER, stats={}) for number in range(500)]
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        transcript = chat.app.transcript
        num_widgets = len(chat.app.screen.query("*"))
        chat.app.show_chat(Conversation(turns=turns))
        await chat.until(lambda: "question 499" in chat.screen())
        assert transcript.is_vertical_scroll_end
        assert len(chat.app.screen.query("*")) <= num_widgets
        assert num_painted(transcript) < 5
        for _ in range(20):
            transcript.scroll_relative(y=-10, animate=False)
            await chat.pilot.pause()
        assert num_painted(transcript) < 25
        transcript.scroll_home(animate=False)
        await chat.until(lambda: "question 0" in chat.screen())
        assert num_painted(transcript) < 30


async def test_what_is_seen_moves_by_what_was_scrolled(tmp_path: Path) -> None:
    """Turns above are higher or lower than they were thought to be."""
    turns = [Turn(f"question {number}", ANSWER * 3, stats={}) for number in range(50)]
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        transcript = chat.app.transcript
        chat.app.show_chat(Conversation(turns=turns))
        await chat.pilot.pause()
        for _ in range(40):
            before = rows(transcript)
            transcript.scroll_relative(y=-5, animate=False)
            assert rows(transcript)[5:] == before[:-5]


async def test_selected_text_is_that_of_the_lines_not_of_the_rows(tmp_path: Path) -> None:
    words = "many words that do not fit a single row of the screen, " * 3
    turn = Turn("question", f"{words}end\n\n> quoted\n\n1. first\n", stats={})
    async with chat_on(ScriptedPool(), tmp_path, size=(60, 30)) as chat:
        transcript = chat.app.transcript
        chat.app.show_chat(Conversation(turns=[turn]))
        await chat.pilot.pause()
        assert words.strip() not in chat.screen()
        everything, _ = transcript.get_selection(Selection(None, None))
        assert everything.split("\n")[2:7] == [f"{words}end", "", "quoted", "", "first"]
        row = transcript.render_line(3)
        [offset] = [
            Offset(*segment.style.meta["offset"])
            for segment in row
            if segment.style and "offset" in segment.style.meta
        ]
        second, _ = transcript.get_selection(Selection(offset, offset + Offset(10, 0)))
        assert row.text.strip().startswith(second)
        assert len(second) == 10


async def test_after_a_resize_all_is_as_if_it_had_never_been_else(tmp_path: Path) -> None:
    turns = [Turn(f"question {number}", ANSWER * 3, stats={}) for number in range(9)]
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        chat.app.show_chat(Conversation(turns=turns))
        await chat.pilot.pause()
        before = chat.screen()
        await chat.pilot.resize_terminal(50, 20)
        await chat.pilot.pause()
        await chat.pilot.resize_terminal(80, 24)
        await chat.until(lambda: chat.screen() == before)


async def test_text_is_selected_with_the_mouse(tmp_path: Path) -> None:
    turn = Turn("question", "first line\n\n> a [bold]quoted[/] line\n", stats={})
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        transcript = chat.app.transcript
        chat.app.show_chat(Conversation(turns=[turn]))
        await chat.pilot.pause()
        await chat.pilot.mouse_down(transcript, offset=(7, 2))
        await chat.pilot.hover(transcript, offset=(10, 4))
        await chat.pilot.mouse_up(transcript, offset=(10, 4))
        selected = chat.app.screen.get_selected_text()
        assert selected is not None
        assert selected.startswith("line\n\na [bol")
        style = chat.app.screen.get_component_rich_style("screen--selection")
        strips = [transcript.render_line(y) for y in range(transcript.size.height)]
        shown = [
            part.text
            for strip in strips
            for part in strip
            if part.style and part.style.bgcolor == style.bgcolor and part.text
        ]
        assert "".join(shown) == selected.replace("\n", "")
        assert "quoted" in chat.screen()


def colours(transcript: Transcript) -> set[ColorTriplet]:
    """Return the colours of what is in sight, as it goes to the terminal."""
    strips = transcript.render_lines(Region(0, 0, *transcript.size))
    styles = [part.style for strip in strips for part in strip if part.style]
    found = [each for style in styles for each in (style.color, style.bgcolor)]
    return {each.get_truecolor() for each in found if each}


async def test_a_theme_and_none_at_all_apply_to_what_was_painted_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With NO_COLOR everything is grey."""
    monkeypatch.setenv("NO_COLOR", "1")
    async with chat_on(ScriptedPool({"hi": ANSWER}), tmp_path) as chat:
        await chat.ask("hi")
        seen = {}
        for filters in (chat.app._filters, []):
            chat.app._filters = filters
            for theme in ("textual-light", "textual-dark"):
                chat.app.theme = theme
                await chat.pilot.pause()
                seen[len(filters) > 0, theme] = colours(chat.app.transcript)
                chat.app.transcript.choose_view(shows_tokens=False)
                assert colours(chat.app.transcript) == seen[len(filters) > 0, theme]
        is_grey = [{red == green == blue for red, green, blue in found} for found in seen.values()]
        assert is_grey == [{True}, {True}, {True, False}, {True, False}]
        assert seen[False, "textual-light"] != seen[False, "textual-dark"]
