"""What an empty conversation shows, and what it offers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from textual.app import App

from metasd_local.options import Options
from tests.tui.scripted_pool import ScriptedPool, chat_on
from tui import outside
from tui.welcome import EXAMPLES


async def test_the_demo_models_offer_examples_and_name_the_way_to_others(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(name="starter"), tmp_path, size=(120, 40)) as chat:
        screen = chat.screen()
        assert "demo models" in screen
        assert "metasd ~/model.gguf" in screen
        assert "qwen3 (needs" in screen
        assert "/download" in screen
        for example in (*EXAMPLES, EXAMPLES[0]):
            await chat.pilot.press("tab")
            assert chat.app.prompt.text == example
        assert chat.app.focused is chat.app.prompt
        await chat.pilot.press("enter")
        await chat.until(lambda: chat.app.desk.chat.turns and not chat.app.desk.is_busy)
        assert "demo models" not in chat.screen()
        await chat.ask("/clear")
        assert "demo models" in chat.screen()


async def test_another_pool_is_just_named(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        assert "scripted" in chat.screen()
        assert "demo models" not in chat.screen()


async def test_a_pool_is_fetched_where_its_progress_can_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only on a terminal that can be lent; to a name that is not known the nearest is said."""
    said: list[Sequence[str]] = []
    lend = outside._run

    def run(app: App[Any], words: Sequence[str]) -> int:
        said.append(words)
        return lend(app, words)

    monkeypatch.setattr(outside, "_run", run)
    async with chat_on(ScriptedPool(), tmp_path, options=Options(offline=True)) as chat:
        await chat.ask("/download qwen4")
        assert "did you mean" in chat.notices
        await chat.ask("/download qwen3")
        assert "cannot be lent" in chat.notices
        assert chat.app.desk.options.pool is None
    assert said[0][-3:] == ["download", "qwen3", "--offline"]
