"""Asking and answering: streaming, stopping, failing, and what is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metasd_local.compose import OpenPool
from metasd_local.events import Event
from metasd_local.options import Options
from tests.tui.scripted_pool import Chat, ScriptedPool, chat_on
from tui.app import ChatApp
from tui.desk import Desk


async def test_an_answer_is_shown_with_its_figures(tmp_path: Path) -> None:
    pool = ScriptedPool({"hi": "Hello, wörld! 🙂"})
    async with chat_on(pool, tmp_path, options=Options(seed=7)) as chat:
        await chat.ask("hi")
        turn = chat.app.desk.chat.turns[0]
        assert turn.answer == "Hello, wörld! 🙂"
        assert turn.stats is not None
        assert turn.stats["emitted"] == len("Hello, wörld! 🙂".encode()) + 1
        screen = chat.screen()
        assert "hi" in screen
        assert "Hello, wörld! 🙂" in screen
        assert f"{turn.stats['emitted']} tokens · " in screen


async def test_an_answer_grows_on_the_screen_while_it_is_given(tmp_path: Path) -> None:
    pool = ScriptedPool({"hi": "first second third"}, hold_at=8)
    async with chat_on(pool, tmp_path) as chat:
        await chat.type("hi")
        await chat.until(lambda: "first" in chat.screen())
        assert chat.app.desk.is_answering
        assert "third" not in chat.screen()
        pool.go.set()
        await chat.until(lambda: "third" in chat.screen())


async def test_a_stop_keeps_what_was_said_and_says_so(tmp_path: Path) -> None:
    pool = ScriptedPool({"hi": "said and not said"}, hold_at=5)
    async with chat_on(pool, tmp_path) as chat:
        await chat.type("hi")
        await chat.until(lambda: chat.app.desk.chat.turns[-1].answer)
        await chat.pilot.press("escape")
        await chat.until(lambda: not chat.app.desk.is_busy and not chat.app.is_drawing)
        turn = chat.app.desk.chat.turns[0]
        assert turn.answer
        assert "said and not said".startswith(turn.answer)
        assert "(stopped)" in chat.screen()
        pool.hold_at = None
        await chat.ask("more")
        assert chat.app.desk.chat.turns[1].answer == "You said: more"


async def test_a_stop_before_the_first_token_gives_the_question_back(tmp_path: Path) -> None:
    pool = ScriptedPool(hold_at=0)
    async with chat_on(pool, tmp_path) as chat:
        await chat.type("a long\nquestion")
        await chat.until(pool.is_held.is_set)
        await chat.pilot.press("escape")
        await chat.until(lambda: not chat.app.desk.is_busy and not chat.app.is_drawing)
        assert chat.app.prompt.text == "a long\nquestion"
        assert chat.app.desk.chat.turns == []
        assert "stopped before the first word" in chat.screen()
        assert chat.app.desk.store.entries() == []


async def test_a_stop_that_the_session_forgot_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came when the answer was about to begin."""
    pool = ScriptedPool(hold_at=0)
    async with chat_on(pool, tmp_path) as chat:
        session = pool.last_session
        assert session is not None
        send = session.send

        def begin(*arguments: Any, **keywords: Any) -> Iterator[Event]:
            chat.app.desk.stop()
            pool.interrupt.clear()
            while not pool.interrupt.is_set:  # the prompt is read
                pool.go.wait(0.002)
            yield from send(*arguments, **keywords)

        monkeypatch.setattr(session, "send", begin)
        await chat.ask("one")
        assert chat.app.prompt.text == "one"


async def test_a_question_may_be_sent_while_the_models_are_loaded(tmp_path: Path) -> None:
    class Slow(ScriptedPool):
        def open(self, *arguments: Any, **keywords: Any) -> OpenPool:
            self.go.wait(30)
            return super().open(*arguments, **keywords)

    pool = Slow()
    app = ChatApp(Desk(pool.open, Options(), None), tmp_path / "tui.json")
    async with app.run_test() as pilot:
        chat = Chat(app, pilot)
        await chat.type("one")
        assert "as soon as the models are loaded" in chat.notices
        pool.go.set()
        await chat.until(lambda: "You said: one" in chat.screen())


async def test_a_failing_target_gives_the_question_back_and_says_why(tmp_path: Path) -> None:
    """And the panel shows no arm as if it were still in use."""
    async with chat_on(ScriptedPool(fails_at=12), tmp_path, size=(120, 40)) as chat:
        await chat.ask("hi")
        assert "scripted failure at 12 tokens" in chat.screen()
        assert "last rounds" in chat.screen()
        assert "▸" not in chat.screen()
        assert "tok/s now" not in chat.screen()
        assert chat.app.prompt.text == "hi"
        assert chat.app.desk.chat.turns == []


async def test_a_pool_that_cannot_be_opened_is_explained(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path, name="missing") as chat:
        assert "no pool and no .gguf file is named 'missing'" in chat.screen()
        await chat.ask("hi")
        assert chat.app.prompt.text == "hi"


async def test_a_question_that_does_not_fit_the_context_comes_back(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(context_size=60), tmp_path) as chat:
        await chat.ask("x" * 80)
        assert "the context 60" in chat.screen().replace("\n", " ")
        assert chat.app.prompt.text == "x" * 80


async def test_what_is_typed_while_an_answer_is_given_is_not_lost(tmp_path: Path) -> None:
    pool = ScriptedPool(hold_at=3)
    async with chat_on(pool, tmp_path) as chat:
        await chat.type("hi")
        await chat.until(pool.is_held.is_set)
        await chat.type("next")
        assert chat.app.prompt.text == "next"
        pool.go.set()
        await chat.until(lambda: not chat.app.desk.is_busy)
        assert [turn.question for turn in chat.app.desk.chat.turns] == ["hi"]


async def test_the_model_gets_the_whole_conversation(tmp_path: Path) -> None:
    pool = ScriptedPool({"one": "first", "two": "<think>hmm</think>second"})
    async with chat_on(pool, tmp_path) as chat:
        for question in ("one", "two", "three"):
            await chat.ask(question)
        assert chat.app.desk.chat.turns[1].reasoning == "hmm"
        assert pool.last_session is not None
        said = bytes(token for token in pool.last_session.prompt_tokens if token < 256)
        assert said == b"onefirsttwosecondthree"


async def test_notices_are_shown_once(tmp_path: Path) -> None:
    pool = ScriptedPool(notices=("drafter x is not used: [bold]",))
    async with chat_on(pool, tmp_path) as chat:
        await chat.ask("one")
        await chat.ask("/policy plain")
        await chat.ask("two")
        assert chat.screen().count("drafter x is not used: [bold]") == 1


async def test_ctrl_c_stops_the_answer_and_pressed_twice_leaves(tmp_path: Path) -> None:
    """But not when something was typed in between."""
    pool = ScriptedPool(hold_at=4)
    async with chat_on(pool, tmp_path) as chat:
        await chat.type("hi")
        await chat.until(lambda: chat.app.desk.chat.turns[-1].answer)
        await chat.pilot.press("ctrl+c")
        await chat.until(lambda: "(stopped)" in chat.screen())
        await chat.pilot.press("ctrl+c", "x", "ctrl+c")
        await chat.until(lambda: "once more leaves" in chat.screen())
        assert chat.app.is_running
        await chat.pilot.press("ctrl+c")
    assert pool.is_closed


async def test_leaving_frees_the_models_also_while_an_answer_is_given(tmp_path: Path) -> None:
    pool = ScriptedPool(hold_at=4)
    async with chat_on(pool, tmp_path) as chat:
        await chat.type("hi")
        await chat.until(lambda: chat.app.desk.chat.turns[-1].answer)
        await chat.pilot.press("ctrl+q")
    assert pool.is_closed
