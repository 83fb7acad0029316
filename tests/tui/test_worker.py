"""The thread of the models does in its idle time what nobody asked for, and stops it for a job."""

from __future__ import annotations

import threading
from pathlib import Path

from metasd_local.errors import Cancelled
from tests.tui.scripted_pool import ScriptedPool, chat_on


class Measuring(ScriptedPool):
    """Measures until it is interrupted."""

    def __init__(self) -> None:
        super().__init__()
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
