"""Conversations on the disk survive, are found again, and are shared between instances."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest

from metasd_local.errors import MetasdError
from tui.conversation import Conversation, Turn
from tui.store import Store

TURN = Turn("hi\n[b]", "hello \x1b[31m", "hmm", [("code", 3), ("", 5)], "3 tokens", {"emitted": 3})


def saved(store: Store, *questions: str, system: str | None = None) -> Conversation:
    chat = Conversation(system=system, turns=[Turn(question, "ok") for question in questions])
    store.save(chat)
    return chat


def test_a_conversation_comes_back_as_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path / "a" / "chats.db")
    chat = Conversation(system="be brief", turns=[TURN])
    store.save(chat)
    assert chat.id is not None
    found = Store(tmp_path / "a" / "chats.db").load(chat.id)
    assert (found.system, found.title) == ("be brief", "hi [b]")
    again = found.turns[0]
    assert (again.question, again.answer, again.reasoning) == (
        TURN.question,
        TURN.answer,
        TURN.reasoning,
    )
    assert (again.marks, again.figures, again.stats) == (TURN.marks, TURN.figures, TURN.stats)


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    Store(tmp_path / "chats.db")
    assert stat.S_IMODE(os.stat(tmp_path / "chats.db").st_mode) == 0o600


def test_turns_that_were_taken_back_are_gone(tmp_path: Path) -> None:
    store = Store(tmp_path / "chats.db")
    chat = saved(store, "one", "two", "three")
    chat.cut(1)
    chat.turns.append(Turn("other", "yes"))
    store.save(chat)
    assert [turn.question for turn in store.load(chat.id or 0).turns] == ["one", "other"]


def test_the_list_has_the_last_changed_first_and_searches_titles_and_texts(tmp_path: Path) -> None:
    now_s = iter(range(100))
    store = Store(tmp_path / "chats.db", clock=lambda: next(now_s))
    saved(store, "about 100% wool")
    saved(store, "about cotton", "and silk_worms")
    assert [entry.title for entry in store.entries()] == ["about cotton", "about 100% wool"]
    assert [entry.title for entry in store.entries("SILK_")] == ["about cotton"]
    assert [entry.title for entry in store.entries("100%")] == ["about 100% wool"]
    assert store.entries("100_") == []


def test_rename_and_delete(tmp_path: Path) -> None:
    store = Store(tmp_path / "chats.db")
    chat = saved(store, "one")
    store.rename(chat.id or 0, "better")
    assert [entry.title for entry in store.entries()] == ["better"]
    assert not store.delete(chat.id or 0, 0.0)
    assert store.delete(chat.id or 0, chat.changed_s)
    assert store.entries() == []
    with pytest.raises(MetasdError, match="was deleted"):
        store.load(chat.id or 0)


def test_questions_come_once_the_newest_last(tmp_path: Path) -> None:
    now_s = iter(range(100))
    store = Store(tmp_path / "chats.db", clock=lambda: next(now_s))
    saved(store, "one", "two")
    saved(store, "three", "one")
    assert store.questions() == ["two", "three", "one"]


def test_two_instances_write_to_one_file(tmp_path: Path) -> None:
    stores = [Store(tmp_path / "chats.db") for _ in range(2)]
    for number in range(10):
        saved(stores[number % 2], f"question {number}")
    assert len(stores[0].entries()) == len(stores[1].entries()) == 10


def test_a_conversation_that_another_instance_went_on_with_is_saved_apart(tmp_path: Path) -> None:
    stores = [Store(tmp_path / "chats.db") for _ in range(2)]
    first = saved(stores[0], "one")
    second = stores[1].load(first.id or 0)
    for store, chat, question in zip(stores, (first, second), ("mine", "yours"), strict=True):
        chat.turns.append(Turn(question, "ok"))
        assert store.save(chat) == (chat is first)
    kept = {tuple(t.question for t in stores[0].load(e.id).turns) for e in stores[0].entries()}
    assert kept == {("one", "mine"), ("one", "yours")}
    assert stores[0].delete(second.id or 0, second.changed_s)
    assert not stores[1].save(second)
    assert [turn.question for turn in stores[0].load(second.id or 0).turns] == ["one", "yours"]


def test_what_could_not_be_saved_is_saved_later(tmp_path: Path) -> None:
    """Another instance that holds the file for long delays nothing but the saving."""
    store = Store(tmp_path / "chats.db")
    chat = saved(store, "one")
    other = sqlite3.connect(tmp_path / "chats.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    chat.turns.append(Turn("two", "ok"))
    with pytest.raises(MetasdError, match="locked"):
        store.save(chat)
    other.execute("COMMIT")
    other.close()
    chat.turns.append(Turn("three", "ok"))
    assert store.save(chat)
    assert [t.question for t in store.load(chat.id or 0).turns] == ["one", "two", "three"]


def test_a_full_disk_is_named_and_what_was_there_stays(tmp_path: Path) -> None:
    store = Store(tmp_path / "chats.db")
    chat = saved(store, "one")
    [pages] = store._database.execute("PRAGMA page_count").fetchone()
    store._database.execute(f"PRAGMA max_page_count = {pages}")
    chat.turns.append(Turn("two", "x" * 100_000))
    with pytest.raises(MetasdError, match=r"full.*/export"):
        store.save(chat)
    assert [turn.question for turn in store.load(chat.id or 0).turns] == ["one"]


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "chats.db").write_text("not a database, certainly not one of SQLite " * 50)
    with pytest.raises(MetasdError, match=r"chats\.db"):
        Store(tmp_path / "chats.db")


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "chats.db")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(MetasdError, match="newer metasd"):
        Store(tmp_path / "chats.db")
