"""Conversations are saved as they grow, and the list finds them again."""

from __future__ import annotations

import itertools
from pathlib import Path

from tests.tui.scripted_pool import ScriptedPool, chat_on
from tui.chats import ChatsScreen
from tui.conversation import Turn
from tui.fields import LineField
from tui.store import Store


async def test_a_conversation_is_found_and_continued_after_a_restart(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool({"one": "first **answer**"}), tmp_path) as chat:
        await chat.ask("one")
        figures = chat.app.desk.chat.turns[0].figures
    pool = ScriptedPool()
    async with chat_on(pool, tmp_path) as chat:
        await chat.pilot.press("f4")
        await chat.until(lambda: isinstance(chat.app.screen, ChatsScreen))
        await chat.pilot.press("enter")
        await chat.until(lambda: chat.app.desk.chat.turns)
        assert figures in chat.screen()
        await chat.ask("two")
        assert pool.last_session is not None
        said = [message.content for message in pool.last_session.messages]
        assert said == ["one", "first **answer**", "two", "You said: two"]
        assert len(chat.app.desk.store.entries()) == 1


async def test_a_question_is_saved_before_its_answer_begins(tmp_path: Path) -> None:
    pool = ScriptedPool(hold_at=0)
    async with chat_on(pool, tmp_path) as chat:
        await chat.type("one")
        await chat.until(pool.is_held.is_set)
        other = Store(tmp_path / "chats.db")
        assert [entry.title for entry in other.entries()] == ["one"]
        other.close()


async def test_an_answer_is_saved_while_it_grows(tmp_path: Path) -> None:
    """At most what was said in the last second is lost with the process."""
    pool = ScriptedPool(hold_at=9)
    async with chat_on(pool, tmp_path) as chat:
        seconds = itertools.count()
        chat.app.desk._clock = lambda: float(next(seconds))
        await chat.type("one")
        await chat.until(lambda: chat.app.desk.chat.turns[0].answer)
        other = Store(tmp_path / "chats.db")
        assert "You said".startswith(other.load(1).turns[0].answer[:8] or "nothing")
        other.close()


async def test_what_another_instance_added_outlives_an_undo(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        await chat.ask("one")
        other = Store(tmp_path / "chats.db")
        theirs = other.load(1)
        theirs.turns.append(Turn("two", "ok"))
        assert other.save(theirs)
        await chat.ask("/undo")
        assert "was changed elsewhere, and stays there" in chat.screen()
        assert [turn.question for turn in other.load(1).turns] == ["one", "two"]
        other.close()


async def test_leaving_in_the_middle_of_an_answer_keeps_it(tmp_path: Path) -> None:
    pool = ScriptedPool(hold_at=9)
    async with chat_on(pool, tmp_path) as chat:
        await chat.type("one")
        await chat.until(lambda: chat.app.desk.chat.turns[0].answer)
        await chat.pilot.press("ctrl+q")
    store = Store(tmp_path / "chats.db")
    turn = store.load(store.entries()[0].id).turns[0]
    assert turn.answer.startswith("You said")
    assert "stopped" in turn.figures


async def test_the_list_searches_renames_and_deletes(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        for question in ("about wool", "about silk"):
            await chat.ask(question)
            await chat.ask("/clear")
        await chat.pilot.press("f4")
        await chat.until(lambda: "about silk" in chat.screen())
        await chat.pilot.press("down", "f2")
        assert chat.app.screen.query_one(LineField).value == "about wool"
        await chat.pilot.press("escape", "up", "f2", *"xy", "left", "delete")
        assert chat.app.screen.query_one(LineField).value == "about silkx"
        await chat.pilot.press("escape", *"wool")
        await chat.until(lambda: "about silk" not in chat.screen())
        await chat.pilot.press("f2")
        await chat.pilot.press("home", *"[b] ", "enter")
        await chat.until(lambda: "[b] about wool" in chat.screen())
        await chat.pilot.press("delete")
        await chat.until(lambda: "press the key again" in chat.screen())
        await chat.pilot.press("delete")
        await chat.until(lambda: "no conversation found" in chat.screen())
        await chat.pilot.press("escape")
        assert [entry.title for entry in chat.app.desk.store.entries()] == ["about silk"]


async def test_the_open_conversation_is_renamed_in_all_places_and_not_deleted(
    tmp_path: Path,
) -> None:
    async with chat_on(ScriptedPool(), tmp_path, size=(140, 24)) as chat:
        await chat.ask("about wool")
        await chat.ask("/chats woo")
        await chat.until(lambda: "▸" in chat.screen())
        await chat.pilot.press("l", "ctrl+r", *" and silk", "enter", "escape")
        await chat.until(lambda: "about wool and silk" in chat.screen())
        assert chat.app.desk.chat.title == "about wool and silk"
        await chat.pilot.press("f4")
        await chat.pilot.press("delete")
        await chat.pilot.pause()
        said = " ".join(chat.screen().replace("│", " ").split())
        assert "with /clear, then delete it" in said


async def test_the_open_conversation_keeps_the_title_it_was_given(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        await chat.ask("one")
        chat.app.desk.store.rename(chat.app.desk.chat.id or 0, "better")
        await chat.ask("two")
        assert [entry.title for entry in chat.app.desk.store.entries()] == ["better"]


async def test_a_store_that_cannot_be_opened_leaves_a_chat_that_forgets(tmp_path: Path) -> None:
    (tmp_path / "chats.db").write_text("no database " * 100)
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        await chat.ask("one")
        assert chat.app.desk.chat.turns[0].answer == "You said: one"
        assert "chats.db" in chat.screen().replace("\n", "")
