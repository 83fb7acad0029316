"""What goes wrong is said with its reason and a way out, and costs nobody a conversation."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from metasd_local.compose import OpenPool
from metasd_local.drafters.ngram import NgramDrafter
from metasd_local.errors import BackendError, ModelError
from metasd_local.options import Options
from metasd_local.protocols import Draft
from tests.tui.scripted_pool import ScriptedPool, chat_on
from tui.desk import Changes
from tui.store import Store


async def test_turns_that_outgrow_the_context_are_not_sent_but_kept(tmp_path: Path) -> None:
    pool = ScriptedPool(context_size=200)
    async with chat_on(pool, tmp_path) as chat:
        questions = [f"question {number}" for number in range(8)]
        for question in questions:
            await chat.ask(question)
        turns = chat.app.desk.chat.turns
        assert [turn.answer for turn in turns] == [f"You said: {each}" for each in questions]
        assert "outgrows the context of 200 tokens" in chat.screen()
        assert pool.last_session is not None
        sent = [message.content for message in pool.last_session.messages][::2]
        assert sent == questions[chat.app.desk.chat.num_dropped :]
        assert len(sent) < len(questions)
        assert len(chat.app.desk.store.load(chat.app.desk.chat.id or 0).turns) == len(questions)
        await chat.ask("/edit 1")
        chat.app.prompt.put("")
        await chat.ask("anew")
        await chat.ask("more")
        assert [message.content for message in pool.last_session.messages][::2] == ["anew", "more"]


async def test_a_full_disk_is_explained_and_made_up_for(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        await chat.ask("one")
        database = chat.app.desk.store._database
        [pages] = database.execute("PRAGMA page_count").fetchone()
        database.execute("CREATE TABLE filler (filler)")
        database.execute(f"PRAGMA max_page_count = {pages + 1}")
        with pytest.raises(sqlite3.OperationalError):
            while True:
                database.execute("INSERT INTO filler VALUES (zeroblob(100))")
        for question in ("two", "three", "x" * 150):
            await chat.ask(question)
        assert len(chat.app.desk.chat.turns) == 4
        other = Store(tmp_path / "chats.db")
        found = other.load(chat.app.desk.chat.id or 0)
        assert [bool(turn.answer) for turn in found.turns] == [True, True, True, False]
        shown = " ".join(chat.screen().split())
        assert "disk is full" in shown
        assert "/export" in shown
        database.execute(f"PRAGMA max_page_count = {pages + 100}")
        await chat.ask("five")
        answers = [turn.answer for turn in other.load(chat.app.desk.chat.id or 0).turns]
        assert answers == [turn.answer for turn in chat.app.desk.chat.turns]
        other.close()


async def test_a_conversation_changed_elsewhere_is_saved_apart_and_said_to_be(
    tmp_path: Path,
) -> None:
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        await chat.ask("one")
        other = Store(tmp_path / "chats.db")
        theirs = other.load(chat.app.desk.chat.id or 0)
        assert other.save(theirs)
        await chat.ask("two")
        assert "changed elsewhere: saved as another" in chat.screen()
        lengths = sorted(len(other.load(entry.id).turns) for entry in other.entries())
        assert lengths == [1, 2]
        other.close()


async def test_what_cannot_be_read_or_edited_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "zeros").write_bytes(b"a\0b")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_bytes(b"a" * 1_000_001)
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        for name, complaint in (
            ("zeros", "is no text file"),
            ("bytes", "is no text file"),
            ("large", "1,000,001 bytes"),
            (".", "is a folder"),
        ):
            await chat.ask(f"/read {tmp_path}/{name}")
            assert complaint in chat.notices
        await chat.pilot.press("escape")
        (tmp_path / "long").write_text("word " * 2000, encoding="utf-8")
        await chat.ask(f"/read {tmp_path}/long")
        assert "about 2,500 tokens and the context 2,000" in chat.notices
        await chat.ask("what is it?")
        assert "or raise --ctx at the next start" in " ".join(
            chat.screen().replace("▌", "").split()
        )
        assert chat.app.prompt.text == "what is it?"
        assert "long, 10,000 characters" in chat.screen()
        await chat.pilot.press("escape")
        chat.app.prompt.put("half a question")
        await chat.pilot.press("ctrl+g")
        assert "cannot be lent to another program" in chat.notices
        assert chat.app.prompt.text == "half a question"


async def test_a_broken_catalogue_is_named_when_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not while a name of it is typed."""
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        (tmp_path / "metasd").mkdir()
        (tmp_path / "metasd" / "models.toml").write_text("pools = 3")
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        chat.app.prompt.insert("/download q")
        await chat.pilot.press("tab", "enter")
        await chat.until(lambda: "models.toml" in chat.notices)


class FailingDrafter(NgramDrafter):
    """Runs out of memory at its first draft."""

    def propose(self, *_: object) -> Draft:
        """Fail."""
        raise BackendError("out of memory")


async def test_a_drafter_that_fails_is_dropped_with_its_reason(tmp_path: Path) -> None:
    """The answer is the same, and the notice stands where it happened."""
    pool = ScriptedPool()
    pool.drafters = (FailingDrafter(),)
    async with chat_on(pool, tmp_path) as chat:
        await chat.ask("one")
        screen = " ".join(chat.screen().replace("▌", " ").split())
        assert "drafter ngram failed and is no longer used: out of memory" in screen
        assert chat.app.desk.chat.turns[0].answer == "You said: one"


async def test_what_goes_wrong_before_the_first_question_is_seen(tmp_path: Path) -> None:
    """On the smallest usual terminal, beside the text that an empty conversation shows."""
    (tmp_path / "chats.db").write_text("no database " * 100)
    async with chat_on(ScriptedPool(name="starter"), tmp_path) as chat:
        assert "demo models" in chat.screen()
        assert "chats.db" in chat.screen().replace("\n", "")
        await chat.ask("/system be brief")
        assert "system prompt of this conversation: be brief" in chat.screen()


async def test_notes_stay_where_they_are_until_another_conversation_is_shown(
    tmp_path: Path,
) -> None:
    """Whatever is taken back or answered again meanwhile."""
    pool = ScriptedPool()
    async with chat_on(pool, tmp_path) as chat:

        def places() -> list[int]:
            shown = ("said: one", "a failure", "said: two", "stopped before", "said: three")
            return [chat.screen().find(text) for text in shown if text in chat.screen()]

        await chat.ask("one")
        chat.app.transcript.draw(Changes(errors=[ModelError("a failure")]), chat.app.desk)
        await chat.ask("two")
        await chat.regenerate_and_stop(pool)
        pool.hold_at = None
        assert len(places()) == 4
        assert places() == sorted(places())
        await chat.ask("/undo")
        chat.app.prompt.put("")
        await chat.ask("three")
        assert len(places()) == 4
        assert places() == sorted(places())
        await chat.ask("/clear")
        assert places() == []


async def test_complaints_stay_where_they_are_and_go_with_the_next_command(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        places = set()
        for number in range(4):
            await chat.ask(f"/nope{'x' * number}")
            places.add(next(y for y, row in enumerate(chat.screen().split("\n")) if "no co" in row))
        assert len(places) == 1
        assert chat.app.prompt.text == ""
        await chat.ask("/system be brief")
        assert "no command" not in chat.screen()


async def test_drafters_that_cannot_be_loaded_can_be_left_out(tmp_path: Path) -> None:
    class Refusing(ScriptedPool):
        def open(self, options: Options, *others: Any, **keywords: Any) -> OpenPool:
            if options.drafters:
                raise ModelError("x.gguf is no GGUF file")
            return super().open(options, *others, **keywords)

    async with chat_on(Refusing(), tmp_path, options=Options(drafters=("x.gguf",))) as chat:
        assert "x.gguf is no GGUF file" in chat.screen()
        await chat.ask("one")
        assert "with /set pool or /drafters" in " ".join(chat.screen().replace("▌", "").split())
        assert chat.app.prompt.text == "one"
        await chat.pilot.press("escape")
        await chat.ask("/drafters all")
        await chat.ask("one")
        assert chat.app.desk.chat.turns[0].answer == "You said: one"
