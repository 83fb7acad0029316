"""The thread of the models does in its idle time what nobody asked for, and stops it for a job."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from metasd_local.compose import OpenPool
from metasd_local.errors import Cancelled
from metasd_local.options import Options
from metasd_local.protocols import Logits
from tests.tui.scripted_pool import ScriptedPool, chat_on
from tui.worker import Answered, ModelThread, Question, Ready, Report


class Measuring(ScriptedPool):
    """Measures until it is interrupted."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        self.is_measuring = threading.Event()

    def measure_costs(self) -> None:
        """Never come to an end."""
        self.is_measuring.set()
        while not self.interrupt.is_set:
            pass
        raise Cancelled("stopped")


async def test_a_question_does_not_wait_for_a_measurement(tmp_path: Path) -> None:
    pool = Measuring()
    async with chat_on(pool, tmp_path) as chat:
        await chat.until(pool.is_measuring.is_set)
        await chat.ask("hi")
        assert chat.app.desk.chat.turns[0].answer == "You said: hi"


async def test_leaving_does_not_wait_for_a_measurement(tmp_path: Path) -> None:
    pool = Measuring()
    async with chat_on(pool, tmp_path) as chat:
        await chat.until(pool.is_measuring.is_set)
        await chat.pilot.press("ctrl+q")
    assert pool.is_closed


def wait_for(thread: ModelThread, kind: type[Report]) -> None:
    """Take reports until there is one of a kind."""
    while not (thread.reports and isinstance(thread.reports.popleft(), kind)):
        pass


def test_what_an_answer_was_stopped_with_does_not_stop_the_measurement_after_it() -> None:
    """Nor does another stop, which comes as long as nobody has seen the end of the answer."""
    pool = Measuring(hold_at=3)
    thread = ModelThread(pool.open)
    thread.open(Options())
    wait_for(thread, Ready)
    pool.is_measuring.wait()
    thread.ask(Question("hi", None, (), 0, None))
    pool.is_held.wait()
    pool.is_measuring.clear()
    thread.stop()
    wait_for(thread, Answered)
    pool.is_measuring.wait()
    assert not pool.interrupt.is_set
    thread.stop()
    assert not pool.interrupt.is_set
    thread.close()
    assert pool.is_closed


async def test_how_much_of_the_prompt_is_read_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of this one, once it is known how long it is."""
    pool, is_reading = ScriptedPool(), threading.Event()
    feed = pool.target.feed

    def slowly(tokens: Sequence[int], num_rows: int) -> Logits:
        feed(tokens[:30], 0)
        is_reading.set()
        pool.go.wait()
        return feed(tokens[30:], num_rows)

    async with chat_on(pool, tmp_path) as chat:
        await chat.ask("hi")
        known = pool.target.length
        monkeypatch.setattr(pool.target, "feed", slowly)
        await chat.type("x" * 60)
        await chat.until(is_reading.is_set)
        assert pool.target.length == known + 30
        shown = f"reading {100 * (known + 30) / 79:.0f} % of 79 tokens · "
        await chat.until(lambda: shown in chat.screen())
        monkeypatch.setattr(pool.target, "feed", feed)
        pool.go.set()
        await chat.until(lambda: not chat.app.desk.is_busy)


class Stuck(ScriptedPool):
    """Never comes back from loading."""

    def open(self, *_: Any, **__: Any) -> OpenPool:
        """Wait for the end of the test."""
        self.go.wait()
        raise Cancelled("stopped")


def test_leaving_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tui.worker.LONGEST_CLOSE_S", 0.01)
    pool = Stuck()
    thread = ModelThread(pool.open)
    thread.open(Options())
    thread.close()
    pool.go.set()
    thread._thread.join()


def test_a_stop_may_come_while_the_models_are_replaced() -> None:
    """The session goes between two looks at it."""

    class Going(ModelThread):
        looks = iter((ScriptedPool().session(Options()), *[None] * 9))
        _session = property(lambda self: next(self.looks), lambda *_: None)

    Going(ScriptedPool().open).stop()
