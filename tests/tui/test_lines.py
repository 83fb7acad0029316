"""The chat in lines: answers on stdout, all else on stderr, and the same conversations."""

from __future__ import annotations

import io
import os
import signal
import threading
from pathlib import Path
from typing import TextIO

import pytest

from metasd_local.cli import main
from metasd_local.cli.surroundings import Surroundings
from metasd_local.errors import MetasdError, UsageError
from tests.scripted_session import Terminal
from tests.tui.scripted_pool import ScriptedPool
from tui.conversation import Conversation
from tui.start import chat
from tui.store import Store


class Pipe:
    """A chat whose input is written beforehand."""

    def __init__(self, folder: Path, pool: ScriptedPool) -> None:
        self.out, self.err = io.StringIO(), io.StringIO()
        self._folder = folder
        self._pool = pool

    def run(self, typed: str | TextIO, *arguments: str, **environment: str) -> int:
        """Say all lines."""
        homes = {f"XDG_{name}_HOME": str(self._folder) for name in ("CONFIG", "DATA", "STATE")}

        def refuse(*_: object, **__: object) -> object:
            raise AssertionError("the chat opens no session and asks for no names")

        surroundings = Surroundings(
            stdin=io.StringIO(typed) if isinstance(typed, str) else typed,
            stdout=self.out,
            stderr=self.err,
            environment={**homes, **environment},
            open_pool=self._pool.open,
            names_pool=refuse,  # type: ignore[arg-type]
            chat=chat,
        )
        return main(["chat", *arguments], surroundings)

    def saved(self) -> list[Conversation]:
        """Return the conversations, the last changed first."""
        store = Store(self._folder / "metasd" / "chats.db")
        found = [store.load(entry.id) for entry in store.entries()]
        store.close()
        return found


@pytest.fixture
def pipe(tmp_path: Path) -> Pipe:
    """Return a chat with a pool that repeats what is said."""
    return Pipe(tmp_path, ScriptedPool({"hide": "<think>why</think>because", "red": "\x1b[31mred"}))


def test_every_line_is_answered_and_saved(pipe: Pipe) -> None:
    """No terminal is needed, and none of the figures get into the answers."""
    assert pipe.run("one\n\ntwo") == 0
    assert pipe.out.getvalue() == "You said: one\nYou said: two\n"
    assert pipe.err.getvalue().count(" tok/s") == 2
    [chat] = pipe.saved()
    assert [turn.question for turn in chat.turns] == ["one", "two"]


def test_a_backslash_continues_a_line(pipe: Pipe) -> None:
    assert pipe.run("one\\\n  two\\\nthree\nfour\\") == 0
    [chat] = pipe.saved()
    assert [turn.question for turn in chat.turns] == ["one\n  two\nthree", "four\n"]


def test_reasoning_is_counted_and_not_shown(pipe: Pipe) -> None:
    pipe.run("hide\n")
    assert pipe.out.getvalue() == "because\n"
    assert "reasoning, 3 characters" in pipe.err.getvalue()


def test_a_terminal_obeys_nothing_a_model_says(pipe: Pipe) -> None:
    pipe.out = Terminal()
    pipe.run(Terminal("red\n"), "--lines")
    assert "\x1b" not in pipe.out.getvalue()
    assert "[31mred" in pipe.out.getvalue()


def test_a_terminal_that_can_only_write_gets_lines(pipe: Pipe) -> None:
    """That of an editor, for instance."""
    pipe.out = Terminal()
    assert pipe.run(Terminal("one\n"), TERM="dumb") == 0
    assert "You said: one" in pipe.out.getvalue()


def test_commands_do_what_they_do_on_the_screen(pipe: Pipe, tmp_path: Path) -> None:
    attached, written = tmp_path / "note.txt", tmp_path / "said.md"
    attached.write_text("attached words", encoding="utf-8")
    lines = (
        *("one", "/regen", "/system be brief", "/policy plain", "/set temperature 0.5", "/set"),
        *("/stats", f"/read {attached}", "two", f"/export {written}", "//slash", "/undo"),
        *("/clear", "three", "/chats", "/chats one", "/chats 1", "four", "/help", "/exit", "five"),
    )
    assert pipe.run("\n".join(lines)) == 0, pipe.err.getvalue()
    newest, other = pipe.saved()
    assert [turn.question.splitlines()[-1] for turn in newest.turns] == ["one", "two", "four"]
    assert "attached words" in newest.turns[1].question
    assert newest.system == "be brief"
    assert [turn.question for turn in other.turns] == ["three"]
    assert "You said: one" in written.read_text(encoding="utf-8")
    said = pipe.err.getvalue()
    assert "from the next answer on: temperature = 0.5" in said
    assert "temperature     0.5" in said
    assert "taken back: /slash" in said
    assert "/chats 2  three (1)" in said
    assert "/regen" in said


def test_an_edit_a_copy_and_the_settings_need_no_screen(pipe: Pipe) -> None:
    lines = (
        *("one", "two", "/edit 1", "eins", "/copy", "/copy question", "/system be brief"),
        *("/set drafters = ngram", "/set stop a=b", "/set stop", "/set", "/chats 1"),
    )
    assert pipe.run("\n".join(lines)) == 0, pipe.err.getvalue()
    assert pipe.out.getvalue().splitlines()[2:] == ["You said: eins", "You said: eins", "eins"]
    said = pipe.err.getvalue()
    for line in (
        "stop = a=b",
        "stop            a=b",
        "system          be brief",
        "conversation one, 1 question",
    ):
        assert f"{line}\n" in said
    assert "drafters        ngram\n" in said


def test_a_full_disk_under_stdout_is_said_in_one_line(pipe: Pipe) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        pipe.out = full  # type: ignore[assignment]
        assert pipe.run("one\n") == 1
        assert pipe.err.getvalue() == "metasd: stopped: No space left on device\n"
    assert len(pipe.saved()) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [("/nope", "no command /nope"), ("/view", "needs the screen"), ("/undo", "nothing to take")],
)
def test_what_cannot_be_done_is_said_and_the_rest_goes_on(
    pipe: Pipe, line: str, message: str
) -> None:
    """The exit status tells it to a script, not to somebody who typed it."""
    assert pipe.run(f"{line}\none\n") == 1
    assert message in pipe.err.getvalue()
    assert pipe.out.getvalue() == "You said: one\n"
    assert pipe.run(Terminal(f"{line}\n"), "--lines") == 0


@pytest.mark.parametrize(("error", "status"), [(UsageError("no such"), 2), (MetasdError("no"), 1)])
def test_models_that_cannot_be_opened_end_it(
    tmp_path: Path, error: MetasdError, status: int
) -> None:
    class Closed(ScriptedPool):
        def open(self, *_: object, **__: object) -> object:  # type: ignore[override]
            raise error

    pipe = Pipe(tmp_path, Closed())
    assert pipe.run("one\n") == status
    assert pipe.err.getvalue() == f"metasd: {error}\n"
    assert pipe.saved() == []


def test_a_failed_answer_is_taken_back_and_told_by_the_status(tmp_path: Path) -> None:
    pipe = Pipe(tmp_path, ScriptedPool(fails_at=3))
    assert pipe.run("one\n") == 1
    assert pipe.saved() == []


def test_ctrl_c_stops_the_answer_and_once_more_leaves(tmp_path: Path) -> None:
    pool = ScriptedPool(hold_at=9)

    def press() -> None:
        pool.is_held.wait(30)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    pipe = Pipe(tmp_path, pool)
    before = signal.getsignal(signal.SIGINT)
    assert pipe.run("one\n/stats\n") == 0
    thread.join()
    assert signal.getsignal(signal.SIGINT) == before
    assert "(stopped)" in pipe.err.getvalue()
    [chat] = pipe.saved()
    assert chat.turns[0].answer.startswith("You said")
    assert pool.is_closed


def test_what_is_no_text_ends_it(pipe: Pipe) -> None:
    """Wrong usage, as with `metasd run`; what was answered before is saved."""
    assert pipe.run(io.TextIOWrapper(io.BytesIO(b"one\n" + b" " * 9000 + b"\xff\n"))) == 2
    assert "no UTF-8" in pipe.err.getvalue()
    assert len(pipe.saved()) == 1


class Impatient(io.StringIO):
    """Where somebody presses Ctrl-C instead of typing."""

    def readline(self, _: int | None = -1) -> str:  # type: ignore[override]
        """Wait for nothing."""
        os.kill(os.getpid(), signal.SIGINT)
        return ""


def test_ctrl_c_instead_of_a_line_leaves(pipe: Pipe) -> None:
    assert pipe.run(Impatient()) == 130
    assert pipe.saved() == []
