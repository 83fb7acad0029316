"""Conversations on the disk: one SQLite file, which several instances may use at once."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from metasd_local.errors import MetasdError
from tui.conversation import Conversation, Turn, title_of

VERSION = 1
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS chats (
    id INTEGER PRIMARY KEY, title TEXT NOT NULL, system TEXT, changed_s REAL NOT NULL);
CREATE TABLE IF NOT EXISTS turns (
    chat INTEGER NOT NULL REFERENCES chats ON DELETE CASCADE, position INTEGER NOT NULL,
    question TEXT NOT NULL, answer TEXT NOT NULL, reasoning TEXT NOT NULL, marks TEXT NOT NULL,
    figures TEXT NOT NULL, stats TEXT, PRIMARY KEY (chat, position)) WITHOUT ROWID;
PRAGMA user_version = {VERSION};
"""
BUSY_S = 0.3
"""How long to wait for another instance that is writing; what is not saved then is saved later."""
MOST_CHATS = 500
"""Most conversations in a list."""
MOST_QUESTIONS = 200
LONGEST_QUESTION = 10_000
"""Most characters of a question that is offered again: others have files in them."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A conversation in the list."""

    id: int
    title: str
    num_turns: int
    changed_s: float
    """Unix time of the last change."""


class Store:
    """Saves and finds conversations. Every method raises MetasdError if the file fails."""

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.time) -> None:
        """Open the file, creating it for this user alone; None keeps everything in memory."""
        self._path = path
        self._clock = clock
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                path.touch(mode=0o600)
            self._database = sqlite3.connect(path or ":memory:", timeout=BUSY_S)
        except (OSError, sqlite3.Error) as error:
            raise self._failure(error) from error
        with self._transaction() as database:
            found = database.execute("PRAGMA user_version").fetchone()[0]
            if found > VERSION:
                raise MetasdError(f"{path} was written by a newer metasd; update this one")
            if found < VERSION:
                database.executescript(f"PRAGMA journal_mode = WAL; {SCHEMA}")
            database.execute("PRAGMA foreign_keys = ON")
            # A transaction survives the death of the process; syncing each would cost a stutter.
            database.execute("PRAGMA synchronous = NORMAL")

    def save(self, chat: Conversation) -> bool:
        """Write what is not saved yet and drop the turns that are gone; give the chat its id.

        Return False if another instance changed or deleted the conversation meanwhile: this one
        is then saved apart from it.
        """
        if not chat.title and chat.turns:
            chat.title = title_of(chat.turns[0].question)
        now_s = self._clock()
        with self._transaction() as database:
            updated = database.execute(
                "UPDATE chats SET system = ?, changed_s = ? WHERE id = ? AND changed_s = ?",
                (chat.system, now_s, chat.id, chat.changed_s),
            )
            is_ours = updated.rowcount == 1
            if is_ours:
                chat_id, first = chat.id, chat.num_saved
            else:
                inserted = database.execute(
                    "INSERT INTO chats (title, system, changed_s) VALUES (?, ?, ?)",
                    (chat.title, chat.system, now_s),
                )
                chat_id, first = inserted.lastrowid, 0
            database.execute(
                "DELETE FROM turns WHERE chat = ? AND position >= ?", (chat_id, len(chat.turns))
            )
            database.executemany(
                "INSERT OR REPLACE INTO turns VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (chat_id, position, *_row(turn))
                    for position, turn in enumerate(chat.turns[first:], start=first)
                ],
            )
        is_apart = not is_ours and chat.id is not None
        chat.id, chat.changed_s, chat.num_saved = chat_id, now_s, len(chat.turns)
        return not is_apart

    def load(self, chat_id: int) -> Conversation:
        """Return a whole conversation."""
        with self._transaction() as database:
            found = database.execute(
                "SELECT title, system, changed_s FROM chats WHERE id = ?", (chat_id,)
            ).fetchone()
            if found is None:
                raise MetasdError("this conversation was deleted, perhaps by another instance")
            turns = database.execute(
                "SELECT question, answer, reasoning, marks, figures, stats FROM turns "
                "WHERE chat = ? ORDER BY position",
                (chat_id,),
            ).fetchall()
            title, system, changed_s = found
            chat = Conversation(chat_id, title, system, [_turn(*row) for row in turns])
            chat.num_saved, chat.changed_s = len(turns), changed_s
            return chat

    def entries(self, search: str = "") -> Sequence[Entry]:
        """Return the conversations with `search` in title or text, the last changed first."""
        pattern = "%" + search.translate({ord(sign): f"\\{sign}" for sign in "\\%_"}) + "%"
        with self._transaction() as database:
            rows = database.execute(
                "SELECT id, title, (SELECT count(*) FROM turns WHERE chat = id), changed_s "
                "FROM chats WHERE title LIKE :pattern ESCAPE '\\' OR EXISTS (SELECT 1 FROM turns "
                "WHERE chat = id AND (question LIKE :pattern ESCAPE '\\' "
                "OR answer LIKE :pattern ESCAPE '\\')) ORDER BY changed_s DESC LIMIT :most",
                {"pattern": pattern, "most": MOST_CHATS},
            ).fetchall()
        return [Entry(*row) for row in rows]

    def rename(self, chat_id: int, title: str) -> None:
        """Give a conversation another title."""
        with self._transaction() as database:
            database.execute("UPDATE chats SET title = ? WHERE id = ?", (title, chat_id))

    def delete(self, chat_id: int, changed_s: float | None) -> bool:
        """Delete a conversation that was changed last then; return False if it was again since."""
        with self._transaction() as database:
            deleted = database.execute(
                "DELETE FROM chats WHERE id = ? AND changed_s = ?", (chat_id, changed_s)
            )
        return deleted.rowcount == 1

    def questions(self) -> list[str]:
        """Return the last questions of all conversations, the newest last, each once."""
        with self._transaction() as database:
            rows = database.execute(
                "SELECT question FROM turns JOIN chats ON chat = id WHERE length(question) <= ? "
                "ORDER BY changed_s DESC, position DESC LIMIT ?",
                (LONGEST_QUESTION, MOST_QUESTIONS),
            ).fetchall()
        return list(dict.fromkeys(question for (question,) in rows))[::-1]

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._database:
                yield self._database
        except (sqlite3.Error, ValueError) as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> MetasdError:
        return MetasdError(
            f"{self._path}: {error}; the conversation goes on unsaved, /export writes it elsewhere"
        )


def _row(turn: Turn) -> Sequence[str | None]:
    """Return a turn as the columns after its place hold it."""
    stats = None if turn.stats is None else json.dumps(turn.stats)
    marks = json.dumps(turn.marks)
    return turn.question, turn.answer, turn.reasoning, marks, turn.figures, stats


def _turn(
    question: str, answer: str, reasoning: str, marks: str, figures: str, stats: str | None
) -> Turn:
    runs = [(arm, size) for arm, size in json.loads(marks)]
    return Turn(question, answer, reasoning, runs, figures, json.loads(stats) if stats else None)
