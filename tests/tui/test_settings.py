"""The screen of settings: what is typed is checked in place and holds from the next answer on."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.widgets import Input, Static, TextArea

from metasd_local.options import OPTIONS, Options
from tests.tui.scripted_pool import Chat, ScriptedPool, chat_on
from tui.choices import SETTINGS
from tui.settings import SHOWN, SettingsScreen


def put(chat: Chat, **values: str) -> None:
    for field, value in values.items():
        chat.app.screen.query_one(f"#{field}", Input).value = value


def notice(chat: Chat) -> str:
    return str(chat.app.screen.query_one("#said", Static).content)


def test_settings_are_options_and_chat_takes_them() -> None:
    assert all(option in OPTIONS for option in SETTINGS.values())
    assert all("chat" in option.commands or name == "pool" for name, option in SETTINGS.items())


async def test_what_is_changed_holds_from_the_next_answer_on(tmp_path: Path) -> None:
    """Also while an answer is given, which ends as it began."""
    pool = ScriptedPool(hold_at=3)
    async with chat_on(pool, tmp_path, options=Options(temperature=0.5)) as chat:
        await chat.type("one")
        await chat.until(pool.is_held.is_set)
        await chat.pilot.press("f5")
        assert chat.app.screen.query_one("#temperature", Input).value == "0.5"
        put(chat, policy="plain", seed="7")
        put(chat, temperature="")
        chat.app.screen.query_one("#system", TextArea).text = "be\nbrief"
        await chat.pilot.press("ctrl+s")
        assert not isinstance(chat.app.screen, SettingsScreen)
        await chat.pilot.pause()
        assert "from the next answer on: policy = plain; temperature = default" in chat.notices
        pool.go.set()
        pool.hold_at = None
        await chat.until(lambda: not chat.app.desk.is_busy and not chat.app.is_drawing)
        await chat.ask("two")
        first, second = (turn.stats or {} for turn in chat.app.desk.chat.turns)
        assert (first["policy"], second["policy"]) == ("fixed:ngram", "plain")
        assert second["seed"] == 7
        assert pool.sessions[-1].temperature is None
        assert pool.last_session is not None
        assert pool.last_session.messages[0].content == "be\nbrief"
        assert chat.app.desk.options.system is None


async def test_what_is_wrong_is_said_in_place_and_nothing_changes(tmp_path: Path) -> None:
    pool = ScriptedPool()
    async with chat_on(pool, tmp_path) as chat:
        before = chat.app.desk.options
        await chat.pilot.press("f5")
        screen = chat.app.screen
        assert isinstance(screen, SettingsScreen)
        for changes, complaint in (
            ({"temperature": "cold"}, "temperature: found 'cold', expected a number"),
            (
                {"temperature": "1", "scheme": "greedy"},
                "/set scheme greedy decodes at temperature 0",
            ),
            ({"scheme": "", "policy": "x"}, "/set policy: found 'x'"),
            ({"policy": "", "pool": "x.gguf"}, "x.gguf: there is no such file"),
        ):
            screen.query_one("#system", TextArea).text = "not to be used"
            put(chat, **changes)
            await chat.pilot.pause()
            screen.action_save()
            assert complaint in notice(chat)
        await chat.pilot.press("escape")
        assert chat.app.screen is not screen
        assert chat.app.desk.options == before
        assert chat.app.desk.chat.system is None
        assert len(pool.sessions) == 1


@pytest.mark.parametrize("name", [None, "missing"])
async def test_drafters_are_typed_as_a_line_also_where_none_are_loaded(
    tmp_path: Path, name: str | None
) -> None:
    pool = ScriptedPool()
    async with chat_on(pool, tmp_path, name=name) as chat:
        await chat.ask("/policy ucb:window=3")
        assert name or "no policy is named 'ucb:window=3'" in chat.screen()
        await chat.ask("/set stop a=b")
        await chat.ask("/set stop")
        assert name or chat.notices == "stop = a=b"
        await chat.ask("/drafters")
        field = chat.app.screen.focused
        assert isinstance(field, Input)
        assert (field.id, field.value) == ("drafters", "")
        assert field.placeholder == ("" if name else "ngram")
        put(chat, drafters="ngram", pool="")
        await chat.pilot.press("ctrl+s")
        assert chat.app.desk.options.drafters == ("ngram",)


async def test_the_lines_are_reached_by_arrows_and_explain_themselves(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        await chat.ask("/set pool")
        assert "scripted" in chat.screen()
        for name in ("pool", "policy", "drafters", "temperature"):
            assert SHOWN[name].help in notice(chat)
            await chat.pilot.press("down")


async def test_another_pool_takes_the_place_of_the_one_there_was(tmp_path: Path) -> None:
    """For one that cannot be loaded, the models there were come back."""
    pool = ScriptedPool(refuses="broken")
    for name in ("other", "broken"):
        (tmp_path / f"{name}.gguf").touch()
    async with chat_on(pool, tmp_path, size=(120, 40)) as chat:
        desk = chat.app.desk
        await chat.ask("one")
        await chat.ask(f"/set pool {tmp_path}/other.gguf")
        assert pool.is_closed
        assert [name for _, name in pool.opened] == [None, f"{tmp_path}/other.gguf"]
        await chat.ask("two")
        await chat.ask(f"/set pool {tmp_path}/broken.gguf")
        assert "is no GGUF file" in chat.screen()
        assert "come back" in chat.screen()
        assert chat.notices == ""
        assert [name for _, name in pool.opened[2:]] == [
            f"{tmp_path}/broken.gguf",
            f"{tmp_path}/other.gguf",
        ]
        await chat.ask("three")
        assert [turn.answer[10:] for turn in desk.chat.turns] == ["one", "two", "three"]


async def test_the_pool_stays_when_the_default_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does when a first pool was fetched, or another chat opened one."""
    (tmp_path / "other.gguf").touch()
    pool = ScriptedPool()
    async with chat_on(pool, tmp_path) as chat:
        other = f"{tmp_path}/other.gguf"
        monkeypatch.setattr("metasd_local.pools.local.default_pool", lambda *_: other)
        await chat.ask("/set temperature 0.5")
        assert len(pool.opened) == 1
        await chat.ask(f"/set pool {other}")
        assert [name for _, name in pool.opened[1:]] == [other]


async def test_a_pool_that_cannot_be_found_is_all_there_is_to_see(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path, name="missing") as chat:
        assert chat.screen().startswith(" ▌ no pool and no .gguf file")


async def test_the_theme_is_remembered(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        chat.app.theme = "nord"
        await chat.pilot.pause()
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        assert chat.app.theme == "nord"
