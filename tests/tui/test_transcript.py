"""Following the text, and long conversations."""

from __future__ import annotations

from pathlib import Path

from tests.tui.scripted_pool import ScriptedPool, chat_on
from tui.conversation import Conversation, Turn
from tui.transcript import PAGE

LONG = "\n\n".join(f"paragraph {number}" for number in range(60))


async def test_the_end_is_followed_until_the_user_scrolls_up(tmp_path: Path) -> None:
    pool = ScriptedPool({"hi": LONG}, hold_at=300, context_size=5000)
    async with chat_on(pool, tmp_path) as chat:
        transcript = chat.app.transcript
        await chat.type("hi")
        await chat.until(lambda: transcript.max_scroll_y > 10)
        assert transcript.is_vertical_scroll_end
        await chat.pilot.press("pageup")
        await chat.until(lambda: not transcript.follows)
        stayed = transcript.scroll_y
        before = transcript.max_scroll_y
        pool.go.set()
        await chat.until(lambda: not chat.app.desk.is_busy and not chat.app.is_drawing)
        assert transcript.max_scroll_y > before
        assert transcript.scroll_y == stayed
        assert "more below" in chat.screen()


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


async def test_a_key_goes_to_the_end(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool({"hi": LONG}, context_size=5000), tmp_path) as chat:
        await chat.ask("hi")
        await chat.pilot.press("pageup", "pageup")
        await chat.until(lambda: not chat.app.transcript.follows)
        await chat.pilot.press("ctrl+end")
        await chat.until(lambda: chat.app.transcript.is_vertical_scroll_end)


async def test_a_long_conversation_is_mounted_page_by_page(tmp_path: Path) -> None:
    turns = [Turn(f"question {number}", f"answer {number}", stats={}) for number in range(500)]
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        transcript = chat.app.transcript
        await chat.app.show_chat(Conversation(turns=turns))
        await chat.until(lambda: transcript.is_vertical_scroll_end)
        assert len(transcript.views) == PAGE
        assert "answer 499" in chat.screen()
        transcript.scroll_home(animate=False)
        await chat.until(lambda: len(transcript.views) == 2 * PAGE)
        await chat.until(lambda: transcript.scroll_y > 0)
        assert f"question {500 - PAGE}" in chat.screen()


async def test_a_high_screen_is_filled_so_that_it_can_be_scrolled(tmp_path: Path) -> None:
    turns = [Turn(f"question {number}", "ok", stats={}) for number in range(100)]
    async with chat_on(ScriptedPool(), tmp_path, size=(120, 100)) as chat:
        transcript = chat.app.transcript
        await chat.app.show_chat(Conversation(turns=turns))
        await chat.until(lambda: transcript.max_scroll_y)
        assert PAGE < len(transcript.views) < 100
        assert transcript.is_vertical_scroll_end
