"""The whole chat on the embedded models."""

from __future__ import annotations

from pathlib import Path

from metasd_local.compose import open_pool
from metasd_local.options import Options
from tests.tui.scripted_pool import Chat
from tui.app import ChatApp
from tui.desk import Desk


async def test_the_starter_pool_answers_and_is_drafted_for(tmp_path: Path) -> None:
    options = Options(pool="starter", policy="ucb", threads=1, max_tokens=24, seed=1)
    app = ChatApp(Desk(open_pool, options, None), tmp_path / "tui.json")
    async with app.run_test(size=(140, 40)) as pilot:
        chat = Chat(app, pilot)
        await chat.until(lambda: "demo models" in chat.screen())
        await pilot.press("f2")
        await chat.ask("User: I want to find a restaurant in San Jose.")
        turn = app.desk.chat.turns[0]
        assert turn.stats is not None
        assert turn.stats["emitted"] == 24
        assert sum(size for arm, size in turn.marks if arm) > 0
        assert sum(size for _, size in turn.marks) == len(turn.answer)
        screen = chat.screen()
        assert "¹general ²general-large ³code ⁴maths ⁵translation ⁶dialogue ⁷ngram" in screen
        assert "24 tokens (limit)" in screen
        await chat.ask("/policy fixed:dialogue")
        await chat.ask("User: A cheap one.")
        stats = app.desk.chat.turns[1].stats
        assert stats is not None
        assert list(stats["arms"]) == ["dialogue"]
        assert stats["prompt_tokens_reused"] > 0
