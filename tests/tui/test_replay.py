"""A trace shows what was seen when it was written."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from metasd_local.errors import MetasdError
from metasd_local.events import GenerationDone, PromptRead, RoundDone, TextPiece
from metasd_local.options import Options
from metasd_local.replay import Replay, read_recordings, recording
from metasd_local.trace import TraceWriter
from tests.scripted_session import ROUND
from tests.traces import read_trace
from tests.tui.scripted_pool import Chat, ScriptedPool, chat_on
from tui.app import ChatApp
from tui.conversation import Turn
from tui.desk import Desk

# The n-gram drafter proposes much of it, and a thumb is four tokens.
REPLY = "well well well well 👍 well"


async def record(folder: Path, *questions: str) -> list[Turn]:
    """Chat and write a trace; return what was shown."""
    with TraceWriter(folder / "trace.jsonl") as trace:
        pool = ScriptedPool({"one": REPLY, "/two": REPLY})
        pool.open = recording(pool.open, trace)  # type: ignore[method-assign]
        async with chat_on(pool, folder) as chat:
            for question in questions:
                await chat.ask(question)
            return chat.app.desk.chat.turns


def app_for(path: Path, folder: Path) -> ChatApp:
    recordings = read_recordings(path)
    desk = Desk(Replay(recordings).open, Options(), None, recordings)  # type: ignore[arg-type]
    return ChatApp(desk, folder / "tui.json")


async def test_a_replay_says_draws_and_counts_the_same(tmp_path: Path) -> None:
    """Texts, marks, and the line of figures with the gain and the seed."""
    shown = await record(tmp_path, "one", "//two")
    app = app_for(tmp_path / "trace.jsonl", tmp_path)
    async with app.run_test(size=(140, 40)) as pilot:
        chat = Chat(app, pilot)
        await chat.until(lambda: len(app.desk.chat.turns) == 2 and app.desk.chat.turns[1].stats)
        for turn, before in zip(app.desk.chat.turns, shown, strict=True):
            assert (turn.question, turn.answer) == (before.question, before.answer)
            assert turn.marks == before.marks
            assert any(arm for arm, _ in turn.marks)
            assert turn.figures == before.figures
            assert turn.stats is not None
            assert before.stats is not None
            assert {**turn.stats, "pool": before.stats["pool"]} == before.stats
        assert "scripted (replay)" in chat.screen()
        await chat.ask("/policy plain")
        assert "start without --replay" in chat.screen()
        await chat.ask("three")
        assert "the replay is over" in chat.screen()
        assert app.prompt.text == "three"


async def test_a_replay_takes_its_time_and_can_be_stopped(tmp_path: Path) -> None:
    path = tmp_path / "slow.jsonl"
    with TraceWriter(path) as trace:
        for event in (
            *(PromptRead(3, 0, 0.0), ROUND, TextPiece("soon")),
            dataclasses.replace(ROUND, index=1, verify_s=50.0),
            *(TextPiece("late"), GenerationDone("stop", 0.0, 1.0, 1.0)),
        ):
            trace.write(event)
    app = app_for(path, tmp_path)
    async with app.run_test(size=(140, 40)) as pilot:
        chat = Chat(app, pilot)
        await chat.until(lambda: app.desk.chat.turns and app.desk.chat.turns[0].answer)
        await pilot.press("escape")
        await chat.until(lambda: "(stopped)" in chat.screen())
        assert app.desk.chat.turns[0].answer == "soon"


async def test_a_cut_trace_is_played_up_to_there_and_names_the_line(tmp_path: Path) -> None:
    """Wherever it was cut, also in the middle of a line."""
    await record(tmp_path, "one")
    path = tmp_path / "trace.jsonl"
    whole = path.read_bytes()
    for length in range(len(whole) // 3, len(whole) - 1, len(whole) // 9):
        path.write_bytes(whole[:length])
        number = whole[:length].count(b"\n")
        replay = Replay(read_recordings(path))
        *events, notice, done = replay.session(Options()).send("one", seed=0)
        assert f"{path}, line {number}: the trace ends in the middle" in str(notice)
        assert isinstance(done, GenerationDone)
        assert events == list(read_trace(path))


async def test_an_answer_that_was_never_finished_ends_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    await record(tmp_path, "one")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:4], *lines]))
    recordings = read_recordings(path)
    assert "line 5" in str(recordings[0].steps[-2][0])
    assert sum(isinstance(event, RoundDone) for event, _ in recordings[1].steps) > 1


@pytest.mark.parametrize(
    ("text", "message"), [("", "found no events"), ('{"event": "Asked"}\n', "line 1: Asked has")]
)
def test_a_broken_trace_is_refused_before_anything_is_drawn(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MetasdError, match=message):
        read_recordings(path)


async def test_a_replay_in_lines_loads_no_model(tmp_path: Path) -> None:
    """Not even the library that could."""
    [turn] = await record(tmp_path, "one")
    code = (
        "import sys; from metasd_local.__main__ import main; "
        f"sys.argv = ['metasd', 'chat', '--replay', {str(tmp_path / 'trace.jsonl')!r}]; "
        "status = main(); "
        "sys.exit(status or 9 * ('llama_cpp' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{turn.answer}\n"
    assert done.stderr == f"{turn.figures}\n"
