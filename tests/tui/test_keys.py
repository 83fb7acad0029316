"""Keys: every action has one, the user may choose others, and the help names those in force."""

from __future__ import annotations

from pathlib import Path

import pytest

from metasd_local.config import load_keys, load_options
from metasd_local.errors import ConfigError
from tests.tui.scripted_pool import ScriptedPool, chat_on
from tui.commands import BY_NAME, KEYS
from tui.keys import key_name, read_keymap


def test_what_is_not_said_stays() -> None:
    keymap = read_keymap({"copy": "ctrl+r", "regenerate": "F6, ctrl+t"}, Path("c.toml"))
    assert keymap["copy"] == "ctrl+r"
    assert keymap["regen"] == "f6,ctrl+t"
    assert keymap["exit"] == "ctrl+q"
    assert list(keymap) == [*KEYS]
    assert key_name("escape,ctrl+pageup") == "Esc, Ctrl+PgUp"


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ('regenrate = "f6"', r"\[keys\] has an unknown key 'regenrate'; did you mean 'regenerate'"),
        ("copy = 6", r"\[keys\] copy: found 6, expected a text"),
        ('copy = "f66"', r"\[keys\] copy: found 'f66'.*did you mean 'f6'"),
        ('copy = "ctlr+x"', r"\[keys\] copy: found 'ctlr\+x', expected a key.*'ctrl\+x'"),
        ('copy = "x"', r"\[keys\] copy: found 'x', expected a key that types nothing"),
        ('copy = "shift+enter"', r"\[keys\] copy: found 'shift\+enter'"),
        ('copy = "delete"', r"\[keys\] copy: found 'delete'"),
        ('copy = "f1"', r"\[keys\] copy: 'f1' is the key of help; give one of the two another"),
    ],
)
def test_what_cannot_be_is_named_with_file_and_table(
    tmp_path: Path, said: str, complaint: str
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f"[keys]\n{said}\n")
    with pytest.raises(ConfigError, match=rf"config\.toml: {complaint}"):
        read_keymap(load_keys(path), path)


def test_the_table_stands_beside_the_options(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('seed = 3\n[keys]\ncopy = "f6"\n')
    assert load_options({}, {}, path).seed == 3
    assert load_keys(path) == {"copy": "f6"}
    path.write_text("keys = 3\n")
    with pytest.raises(ConfigError, match=r"keys: found 3, expected a table"):
        load_keys(path)
    assert load_keys(tmp_path / "none.toml") == {}


async def test_chosen_keys_work_and_the_help_names_them(tmp_path: Path) -> None:
    """Ctrl+E is a key of the text area, which the user's choice overrides."""
    keymap = read_keymap({"regenerate": "ctrl+e", "settings": "ctrl+r", "copy": "f5"}, Path("c"))
    pool = ScriptedPool()
    async with chat_on(pool, tmp_path, size=(140, 80), keymap=keymap) as chat:
        await chat.ask("one")
        first = chat.app.desk.chat.turns[0]
        await chat.pilot.press("ctrl+e")
        await chat.until(lambda: not chat.app.desk.is_busy and not chat.app.is_drawing)
        assert chat.app.desk.chat.turns[0] is not first
        await chat.pilot.press("f5")
        assert chat.app.clipboard == "You said: one"
        assert "^e Again" in chat.screen()
        await chat.pilot.press("f1")
        await chat.pilot.pause()
        rows = [" ".join(row.split()) for row in chat.screen().splitlines()]
        for name in KEYS:
            shown = f"{key_name(keymap[name])} {BY_NAME[name].summary}"
            assert any(shown[:50] in row for row in rows), name
        await chat.pilot.press("escape", "ctrl+r")
        await chat.until(lambda: "repeat-penalty" in chat.screen())


async def test_every_action_is_in_the_palette(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        titles = [each.title for each in chat.app.get_system_commands(chat.app.screen)]
        for command in BY_NAME.values():
            assert f"/{command.name} · {command.summary}" in titles
        await chat.pilot.press("ctrl+p", *"new conversation")
        await chat.until(lambda: "/clear" in chat.screen())


async def test_texts_name_the_keys_that_were_chosen(tmp_path: Path) -> None:
    """A hint that names a key which does something else is worse than none."""
    keymap = read_keymap({"reasoning": "f7", "end": "f8"}, Path("c"))
    pool = ScriptedPool({"one": "<think>hm</think>" + "line\n" * 60})
    async with chat_on(pool, tmp_path, keymap=keymap) as chat:
        await chat.ask("one")
        await chat.pilot.press("pageup", "pageup", "pageup", "pageup")
        await chat.until(lambda: "reasoning, 2 characters (F7)" in chat.screen())
        assert "more below, F8" in chat.screen()
