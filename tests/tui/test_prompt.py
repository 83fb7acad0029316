"""Typing: lines, paste, history, and keys in their order."""

from __future__ import annotations

import random
from pathlib import Path

from textual import events
from textual.widgets.text_area import Selection

from metasd_local.text import printable
from tests.tui.scripted_pool import ScriptedPool, chat_on
from tui.conversation import title_of
from tui.fields import LineField


async def test_enter_sends_and_ctrl_j_begins_a_line(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        await chat.pilot.press("a", "ctrl+j", "b", "shift+enter", "c", "enter")
        await chat.until(lambda: not chat.app.desk.is_busy)
        assert chat.app.desk.chat.turns[0].question == "a\nb\nc"
        assert chat.app.prompt.text == ""


async def test_letters_typed_just_before_enter_are_sent(tmp_path: Path) -> None:
    """Keys arrive in one burst over ssh; none may overtake another."""
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        for key in ("h", "e", "y", "enter", "x"):
            chat.app.post_message(events.Key(key, key if len(key) == 1 else "\r"))
        await chat.until(lambda: chat.app.desk.chat.turns)
        assert chat.app.desk.chat.turns[0].question == "hey"
        await chat.until(lambda: chat.app.prompt.text == "x")


async def test_a_paste_of_several_lines_is_kept_as_it_is(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        chat.app.prompt.post_message(events.Paste("def f():\r\n\treturn 1\n\n\x1b[31m# end"))
        await chat.until(lambda: chat.app.prompt.text)
        assert chat.app.prompt.text == "def f():\n\treturn 1\n\n[31m# end"
        assert not chat.app.desk.chat.turns


async def test_what_is_selected_makes_room_for_a_paste_and_for_a_line(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        prompt = chat.app.prompt
        prompt.put("one two three")
        prompt.selection = Selection((0, 4), (0, 7))
        prompt.post_message(events.Paste("2"))
        await chat.until(lambda: prompt.text == "one 2 three")
        prompt.selection = Selection((0, 0), (0, 4))
        await chat.pilot.press("ctrl+j", "x")
        assert prompt.text == "\nx2 three"


async def test_nothing_typed_or_brought_back_holds_what_a_terminal_obeys(tmp_path: Path) -> None:
    """Wherever it comes from: a file, a title, the names of files, pools and drafters."""
    draw = random.Random(0)
    texts = ["".join(draw.choices("\x1b\x07\x9b\r\u202e]2;ab\n ~", k=12)) for _ in range(50)]
    evil = "\x1b]2;PWNED\x07"
    (tmp_path / f"a{evil}").touch()
    async with chat_on(ScriptedPool(name=evil), tmp_path) as chat:
        prompt = chat.app.prompt
        found = []
        for text in texts:
            prompt.put(text)
            line = LineField(text, placeholder=text)
            line.insert_text_at_cursor(text)
            found += [prompt.text, title_of(text), line.value]
        prompt.put("")
        chat.app.copy_to_clipboard(evil)
        await chat.pilot.press("ctrl+v")
        found.append(prompt.text)
        prompt.put(f"/read {tmp_path}/a")
        await chat.pilot.press("tab")
        found.append(prompt.text)
        chat.app.desk.chat.system = evil
        await chat.pilot.press("f5")
        field = chat.app.screen.focused
        assert isinstance(field, LineField)
        field.post_message(events.Paste(evil))
        await chat.until(lambda: field.value)
        await chat.pilot.press("left", "right", "x")
        assert field.value == printable(evil) + "x"
        assert all("\x1b" not in row.text for row in chat.app.screen._compositor.render_strips())
        assert found == [printable(text) for text in found]


async def test_the_history_comes_back_also_from_earlier_starts(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        await chat.ask("one")
        await chat.ask("two")
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        prompt = chat.app.prompt
        prompt.insert("being typed")
        await chat.pilot.press("up")
        assert prompt.text == "two"
        await chat.pilot.press("up", "up")
        assert prompt.text == "one"
        await chat.pilot.press("down", "down")
        assert prompt.text == "being typed"


async def test_up_moves_within_several_lines_first(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        await chat.ask("one")
        chat.app.prompt.insert(f"a\n{'b ' * 50}")
        await chat.pilot.press("up", "up")
        assert chat.app.prompt.text.startswith("a")
        await chat.pilot.press("up")
        assert chat.app.prompt.text == "one"


async def test_what_is_put_away_can_be_brought_back(tmp_path: Path) -> None:
    """So that a huge paste is gone with one key, and a slip loses nothing."""
    note = tmp_path / "note.txt"
    note.write_text("words", encoding="utf-8")
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        await chat.ask(f"/read {note}")
        chat.app.prompt.insert("a\nb")
        await chat.pilot.press("escape")
        assert chat.app.prompt.text == ""
        assert "note.txt" not in chat.screen()
        await chat.pilot.press("up")
        assert chat.app.prompt.text == "a\nb"
