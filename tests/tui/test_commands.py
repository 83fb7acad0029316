"""Every command and key does what it says, and says what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from metasd_local.options import Options
from tests.tui.scripted_pool import Chat, ScriptedPool, chat_on
from tui.commands import COMMANDS, complete
from tui.export import code_blocks


def questions(chat: Chat) -> list[str]:
    return [turn.question for turn in chat.app.desk.chat.turns]


async def test_undo_takes_the_last_question_back_into_the_prompt(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        await chat.ask("one")
        await chat.ask("two")
        await chat.ask("/undo")
        assert questions(chat) == ["one"]
        assert chat.app.prompt.text == "two"
        assert "You said: two" not in chat.screen()
        assert len(chat.app.desk.store.load(chat.app.desk.chat.id or 0).turns) == 1


async def test_regenerating_draws_another_seed_and_keeps_the_question(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path, options=Options(seed=1)) as chat:
        await chat.ask("one")
        await chat.ask("/regen")
        turns = chat.app.desk.chat.turns
        assert questions(chat) == ["one"]
        assert turns[0].stats is not None
        assert turns[0].stats["seed"] != 1


async def test_a_regeneration_stopped_at_once_leaves_the_old_answer(tmp_path: Path) -> None:
    pool = ScriptedPool()
    async with chat_on(pool, tmp_path) as chat:
        await chat.ask("one")
        await chat.regenerate_and_stop(pool)
        assert chat.app.desk.chat.turns[0].answer == "You said: one"
        assert "You said: one" in chat.screen()
        assert chat.app.prompt.text == ""


async def test_an_edited_question_goes_on_from_there(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        for question in ("one", "two", "three"):
            await chat.ask(question)
        await chat.ask("/edit 2")
        assert chat.app.prompt.text == "two"
        assert "instead of question 2" in chat.screen()
        assert questions(chat) == ["one", "two", "three"]
        chat.app.prompt.put("")
        await chat.ask("zwei")
        assert questions(chat) == ["one", "zwei"]
        assert "three" not in chat.screen()


async def test_leaving_an_edit_changes_nothing(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        await chat.ask("one")
        await chat.ask("/edit")
        await chat.pilot.press("escape")
        assert chat.app.prompt.text == ""
        await chat.ask("two")
        assert questions(chat) == ["one", "two"]


async def test_an_edit_stopped_at_once_is_still_an_edit(tmp_path: Path) -> None:
    pool = ScriptedPool()
    async with chat_on(pool, tmp_path) as chat:
        await chat.ask("one")
        await chat.ask("two")
        await chat.ask("/edit 1")
        pool.hold_at = 0
        chat.app.prompt.put("")
        await chat.type("eins")
        await chat.until(pool.is_held.is_set)
        await chat.pilot.press("escape")
        await chat.until(lambda: chat.app.prompt.text == "eins")
        assert questions(chat) == ["one", "two"]
        pool.hold_at = None
        await chat.ask("")
        assert questions(chat) == ["eins"]


async def test_what_is_being_typed_stays_in_the_history_whatever_takes_its_place(
    tmp_path: Path,
) -> None:
    """A command of the palette that needs more to be typed, for instance."""
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        await chat.ask("one")
        for name in ("read", "edit", "undo"):
            chat.app.prompt.put(f"a draft before {name}")
            chat.app.action_command(name)
            assert chat.app.prompt.text in ("/read ", "one")
            await chat.pilot.press("up")
            assert chat.app.prompt.text == f"a draft before {name}"


async def test_clear_begins_anew_and_keeps_the_old_conversation_in_the_list(tmp_path: Path) -> None:
    pool = ScriptedPool()
    async with chat_on(pool, tmp_path) as chat:
        await chat.ask("one")
        await chat.ask("/clear")
        assert questions(chat) == []
        await chat.ask("two")
        assert pool.last_session is not None
        assert [m.content for m in pool.last_session.messages] == ["two", "You said: two"]
        assert {entry.title for entry in chat.app.desk.store.entries()} == {"one", "two"}


async def test_the_system_prompt_holds_from_the_next_question_on(tmp_path: Path) -> None:
    pool = ScriptedPool()
    async with chat_on(pool, tmp_path, options=Options(system="first")) as chat:
        await chat.ask("/system be brief")
        await chat.ask("one")
        assert pool.last_session is not None
        assert pool.last_session.messages[0].content == "be brief"
        await chat.ask("/system none")
        await chat.ask("two")
        assert pool.last_session.messages[0].content == "one"


async def test_the_policy_changes_between_answers_and_the_conversation_stays(
    tmp_path: Path,
) -> None:
    pool = ScriptedPool()
    async with chat_on(pool, tmp_path) as chat:
        await chat.ask("one")
        await chat.ask("/policy plain")
        await chat.ask("two")
        stats = chat.app.desk.chat.turns[1].stats
        assert stats is not None
        assert list(stats["arms"]) == ["plain"]
        assert pool.last_session is not None
        assert len(pool.last_session.messages) == 4
        await chat.ask("/policy nonsense")
        assert "found 'nonsense'" in chat.screen()
        assert chat.app.prompt.text == ""
        await chat.ask("three")
        assert chat.app.desk.options.policy == "plain"
        assert chat.app.desk.chat.turns[2].answer == "You said: three"


async def test_settings_are_checked_and_used(tmp_path: Path) -> None:
    pool = ScriptedPool()
    async with chat_on(pool, tmp_path) as chat:
        await chat.ask("/set temperature 0.5")
        await chat.ask("/set max-tokens 3")
        assert pool.sessions[-1].temperature == 0.5
        await chat.ask("one")
        stats = chat.app.desk.chat.turns[0].stats
        assert stats is not None
        assert stats["emitted"] == 3
        assert "(limit)" in chat.screen()
        await chat.ask("/set max-tokens default")
        assert pool.sessions[-1].max_tokens is None


async def test_drafters_are_chosen_among_those_loaded(tmp_path: Path) -> None:
    pool = ScriptedPool()
    async with chat_on(pool, tmp_path) as chat:
        await chat.ask("/drafters ngram")
        assert pool.sessions[-1].drafters == ("ngram",)
        await chat.ask("/drafters all")
        assert pool.sessions[-1].drafters is None


async def test_all_drafters_are_loaded_whatever_the_policy(tmp_path: Path) -> None:
    pool = ScriptedPool()
    async with chat_on(pool, tmp_path, options=Options(policy="plain")):
        assert pool.opened[0][0].policy is None
        assert pool.sessions[-1].policy == "plain"


async def test_copies_are_source_text(tmp_path: Path) -> None:
    code = "def f():\n\treturn '[b]'  \n"
    answer = f"Some *words*:\n\n```python\n{code}```\n\nand\n\n~~~\nsecond\n~~~\n"
    async with chat_on(ScriptedPool({"hi": answer}), tmp_path, size=(30, 24)) as chat:
        await chat.ask("hi")
        await chat.ask("more")
        await chat.ask("/copy 1")
        assert chat.app.clipboard == answer
        await chat.ask("/undo")
        chat.app.prompt.put("")
        await chat.ask("/copy code 1")
        assert chat.app.clipboard == code
        await chat.ask("/copy code")
        assert chat.app.clipboard == "second\n"
        await chat.pilot.press("ctrl+y")
        assert chat.app.clipboard == answer
        await chat.ask("/copy question 1")
        assert chat.app.clipboard == "hi"


def test_code_blocks_are_those_of_the_markdown_parser() -> None:
    answer = "- a\n\n  ```c\n  int x;\n  ```\n\n> ```\n> quoted\n> ```\n\n"
    answer += "1. b\n\n    ~~~\n    four\n    ~~~"
    assert code_blocks(f"{answer}\n\n```\nlast") == ["int x;\n", "quoted\n", "four\n", "last"]


async def test_a_file_goes_with_the_next_question_only(tmp_path: Path) -> None:
    pool = ScriptedPool()
    (tmp_path / "notes [1].txt").write_text("some\nlines")
    async with chat_on(pool, tmp_path) as chat:
        await chat.ask(f"/read {tmp_path}/notes [1].txt")
        assert "notes [1].txt, 10 characters" in chat.screen()
        await chat.ask("what is this?")
        await chat.ask("next")
        assert questions(chat) == ["notes [1].txt:\n```\nsome\nlines\n```\n\nwhat is this?", "next"]
        assert "10 characters" not in chat.screen()


async def test_exports_hold_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with chat_on(ScriptedPool({"hi": "*yes*"}), tmp_path) as chat:
        await chat.ask("/system be brief")
        await chat.ask("hi")
        await chat.ask(f"/export {tmp_path}/a.md")
        await chat.ask(f"/export {tmp_path}/a.json")
        await chat.ask("/export")
        await chat.ask("/export")
        turn = chat.app.desk.chat.turns[0]
    markdown = (tmp_path / "a.md").read_text()
    assert markdown == (tmp_path / "hi.md").read_text() == (tmp_path / "hi-2.md").read_text()
    assert markdown.startswith("# hi\n\n## System prompt\n\nbe brief\n\n## Question\n\nhi\n\n")
    assert f"*yes*\n\n*{turn.figures}*\n" in markdown
    document = json.loads((tmp_path / "a.json").read_text())
    assert document["turns"][0]["answer"] == "*yes*"
    assert document["turns"][0]["stats"] == turn.stats


async def test_editor_and_download_borrow_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the editor leaves is in the prompt, what was fetched is opened."""
    write = "import sys; open(sys.argv[1], 'a').write(' and more')"
    monkeypatch.setenv("VISUAL", f'{sys.executable} -c "{write}"')
    pool = ScriptedPool()
    async with chat_on(pool, tmp_path, name="missing") as chat:
        monkeypatch.setattr(chat.app, "suspend", nullcontext)
        chat.app.prompt.put("some")
        await chat.pilot.press("ctrl+g")
        assert chat.app.prompt.text == "some and more"
        commands = []

        def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
            commands.append(command[1:])
            return subprocess.CompletedProcess(command, 0)

        monkeypatch.setattr(subprocess, "run", run)
        chat.app.prompt.put("")
        await chat.ask("/download starter")
        assert commands == [["-m", "metasd_local", "download", "starter"]]
        assert pool.opened[-1][1] == "starter"


async def test_stats_are_those_of_the_last_answer(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        await chat.ask("one one one one")
        await chat.ask("/stats")
        stats = chat.app.desk.chat.turns[0].stats
        assert stats is not None
        assert f"drafted {stats['drafted']}, accepted {stats['accepted']}" in chat.screen()


MISTAKES = (
    ("/polcy ucb", "no command /polcy; did you mean 'policy'?"),
    ("/undo", "nothing to take back"),
    ("/regen", "not yet a question"),
    ("/edit", "not yet a question"),
    ("/copy", "not yet an answer"),
    ("/export", "nothing to write"),
    ("/stats", "no complete answer"),
    ("/read", "the path of a text file"),
    ("/read /nowhere/x", "cannot be read"),
    ("/read ~nobody/x", "cannot be read"),
    ("/export ~nobody/x", "nothing to write"),
    ("/set pool ~nobody/x.gguf", "there is no such file"),
    ("/panel", "the terminal has 80 columns, the panel needs 120"),
    ("/download", "expected the name of a pool: starter, "),
    ("/drafters general,general", "/set drafters"),
    ("/drafters cod", "found 'cod', expected the path of a .gguf file"),
    ("/set pool /nowhere/x.gguf", "/nowhere/x.gguf: there is no such file"),
    ("/set temprature 1", "did you mean 'temperature'?"),
    ("/set temperature cold", "expected a number of at least 0"),
)


async def test_what_cannot_be_is_explained(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        for line, complaint in MISTAKES:
            await chat.ask(line)
            assert complaint in chat.notices
            assert complaint[:20] in chat.screen()
        assert questions(chat) == []


async def test_a_question_may_begin_with_a_slash(tmp_path: Path) -> None:
    typed = ("//help me", "/etc/passwd is what?", "/* a comment */\nint x;", "/", "/ me waves")
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        for question in typed:
            await chat.ask(question)
        assert questions(chat) == ["/help me", *typed[1:]]


async def test_completion_knows_commands_and_what_follows(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        assert complete(chat.app, "/re") == ["/regen", "/read", "/reasoning"]
        assert complete(chat.app, "/policy p") == ["/policy plain"]
        assert complete(chat.app, "/policy f") == ["/policy fixed:ngram"]
        assert complete(chat.app, "/drafters n") == ["/drafters ngram"]
        assert complete(chat.app, "/set temp") == ["/set temperature"]
        assert complete(chat.app, "/read ~nobody/") == complete(chat.app, "/export x") == []
        assert complete(chat.app, f"/read {tmp_path}/ch") == [
            f"/read {tmp_path}/chats.db",
            f"/read {tmp_path}/chats.db-shm",
            f"/read {tmp_path}/chats.db-wal",
        ]
        chat.app.prompt.insert("/pol")
        await chat.pilot.press("tab")
        assert chat.app.prompt.text == "/policy "
        await chat.pilot.pause()
        assert "/policy plain" in chat.screen()
        await chat.pilot.press("tab")
        assert chat.app.prompt.text == "/policy plain"
        chat.app.prompt.put("/re")
        await chat.pilot.press("tab", "backspace", "n")
        assert chat.app.prompt.text == "/regen"
        await chat.pilot.press("tab")
        assert chat.app.prompt.text == "/regen"


async def test_the_help_screen_names_every_command_and_closes(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path, size=(100, 80)) as chat:
        await chat.ask("/help")
        for command in COMMANDS:
            assert f"/{command.name}" in chat.screen()
        await chat.pilot.press("f1")
        assert len(chat.app.screen_stack) == 1


async def test_exit_leaves(tmp_path: Path) -> None:
    pool = ScriptedPool()
    async with chat_on(pool, tmp_path) as chat:
        chat.app.prompt.insert("/bye")
        await chat.pilot.press("enter")
    assert pool.is_closed


async def test_notices_use_the_words_that_are_typed(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        await chat.ask("/set max-tokens 9")
        assert chat.notices == "from the next answer on: max-tokens = 9"
        await chat.ask("one")
        await chat.ask("/copy 7")
        assert chat.notices == "/copy: found '7', expected the number of an answer, 1 to 1"
        chat.app.prompt.put("/stats")
        await chat.pilot.pause()
        assert " /stats  figures of the last answer" in chat.screen()


async def test_tab_offers_one_command_after_the_other(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path) as chat:
        chat.app.prompt.put("/re")
        seen = []
        for _ in range(4):
            await chat.pilot.press("tab")
            seen.append(chat.app.prompt.text)
        assert seen == ["/regen", "/read", "/reasoning", "/regen"]


async def test_the_help_keeps_its_columns_in_a_narrow_terminal(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(), tmp_path, size=(80, 60)) as chat:
        await chat.ask("/help")
        rows = chat.screen().split("\n")
        index = next(y for y, row in enumerate(rows) if "(Shift+Enter" in row)
        assert rows[index + 1].index("tells") == rows[index].index("new line")


async def test_undoing_the_only_question_shows_the_beginning_again(tmp_path: Path) -> None:
    async with chat_on(ScriptedPool(name="starter"), tmp_path) as chat:
        await chat.ask("one")
        assert "demo models" not in chat.screen()
        await chat.ask("/undo")
        assert "demo models" in chat.screen()
