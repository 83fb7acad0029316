"""What is drawn while an answer is given costs little, as the models want the processor."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.geometry import Size
from textual.screen import Screen

from tests.tui.scripted_pool import ScriptedPool, chat_on


async def test_neither_typing_nor_an_answer_lays_the_screen_out_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layout costs more than ten drawings: only the first question of a conversation needs it."""
    layouts: list[object] = []
    lay_out = Screen._refresh_layout

    def counted(self: Screen[object], size: Size | None = None, scroll: bool = False) -> None:
        if not scroll or self._layout_required:  # else only what is in sight moves
            layouts.append(self)
        lay_out(self, size, scroll)

    pool = ScriptedPool({"two": "a long answer " * 20}, hold_at=40)
    pool.go.set()
    async with chat_on(pool, tmp_path, size=(140, 30)) as chat:
        await chat.ask("one")
        await chat.until(lambda: not chat.app.screen._layout_required)
        pool.go.clear()
        pool.is_held.clear()
        with monkeypatch.context() as patches:
            patches.setattr(Screen, "_refresh_layout", counted)
            for key in "two":
                await chat.pilot.press(key)
            await chat.pilot.press("enter")
            await chat.until(pool.is_held.is_set)
            await chat.until(lambda: "a long answer" in chat.screen())
            assert layouts == []
            pool.go.set()
            await chat.until(lambda: not chat.app.desk.is_busy and not chat.app.is_drawing)
            assert layouts == []
