"""What the user can do: each takes what follows the command's name, nothing if a key was pressed.

They raise MetasdError with what the user should know. `app` is the application, or what stands for
it in the chat in lines.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from metasd_local.errors import UsageError
from metasd_local.options import nearest_hint
from tui.choices import SETTINGS, as_typed
from tui.export import code_blocks, default_path, export
from tui.figures import stats_lines
from tui.outside import download_outside, edit_outside

if TYPE_CHECKING:
    from tui.app import ChatApp

MOST_ATTACHED_BYTES = 1_000_000
TOKEN_CHARACTERS = 4
"""About as long is a token of most languages."""


def undo(app: ChatApp, _: str) -> None:
    """Take the last question back into the prompt."""
    turn = app.desk.undo()
    app.show_chat(app.desk.chat)
    app.prompt.offer(turn.question)


def regenerate(app: ChatApp, _: str) -> None:
    """Answer the last question again."""
    turns = app.desk.chat.turns
    index = _number("/regen", "", "a question", len(turns)) - 1
    app.ask(turns[index].question, first=index, new_seed=True)


def edit(app: ChatApp, rest: str) -> None:
    """Put a question back into the prompt, to go on from there."""
    app.desk.check_idle()
    turns = app.desk.chat.turns
    index = _number("/edit", rest, "a question", len(turns)) - 1
    app.prompt.change_turn(index, turns[index].question)


def write_outside(app: ChatApp, _: str) -> None:
    """Write the question in $VISUAL or $EDITOR."""
    app.prompt.put(edit_outside(app, app.prompt.text))


def change_system(app: ChatApp, rest: str) -> None:
    """Change or show the system prompt."""
    if rest:
        app.desk.change(system=None if rest == "none" else rest)
    app.transcript.say(f"system prompt of this conversation: {app.desk.chat.system or 'none'}")


def change_setting(app: ChatApp, rest: str) -> None:
    """Change a setting, or show them all."""
    name, value, *_ = *re.split(r"[\s=]+", rest, maxsplit=1), ""
    name = name.replace("_", "-")
    if name and name not in SETTINGS:
        raise UsageError(f"/set: there is no setting {name!r}{nearest_hint(name, SETTINGS)}")
    if not value and (not name or not SETTINGS[name].is_repeatable):
        app.show_settings(name)
        return
    option = SETTINGS[name]
    if not value:
        app.board.tell(f"{name} = {as_typed(getattr(app.desk.options, option.field))}")
        return
    parsed = None if value == "default" else option.parse_text(f"/set {name}", value)
    app.change_options(**{option.field: parsed})


def change_policy(app: ChatApp, rest: str) -> None:
    """Change the policy, or show it among the settings."""
    change_setting(app, f"policy {rest}")


def change_drafters(app: ChatApp, rest: str) -> None:
    """Choose among the drafters, or show them among the settings."""
    change_setting(app, f"drafters {'default' if rest == 'all' else rest}")


def show_stats(app: ChatApp, _: str) -> None:
    """Show the figures of the last answer."""
    turns = app.desk.chat.turns
    stats = turns[-1].stats if turns else None
    if stats is None:
        raise UsageError("/stats: there is no complete answer yet")
    app.transcript.say("\n".join(stats_lines(stats)))


def copy(app: ChatApp, rest: str) -> None:
    """Copy an answer, a code block or a question as it was written."""
    turns = app.desk.chat.turns
    word, _, number = rest.partition(" ")
    if word == "code":
        what, texts = "a code block", code_blocks(turns[-1].answer) if turns else ()
    elif word == "question":
        what, texts = "a question", [turn.question for turn in turns]
    else:
        what, texts, number = "an answer", [turn.answer for turn in turns], rest
    index = _number("/copy", number.strip(), what, len(texts))
    app.copy(f"{what.partition(' ')[2]} {index}", texts[index - 1])


def read(app: ChatApp, rest: str) -> None:
    """Attach a file to the next question."""
    if not rest:
        raise UsageError("/read: expected the path of a text file")
    path = _path(rest)
    try:
        if path.is_dir():
            raise UsageError(f"{path}: is a folder, expected a text file")
        size = path.stat().st_size
        if size > MOST_ATTACHED_BYTES:
            raise UsageError(f"{path}: {size:,} bytes, expected at most {MOST_ATTACHED_BYTES:,}")
        # Whatever else there is by that name, a pipe for instance, may never end.
        text = path.read_text(encoding="utf-8") if path.is_file() else "\0"
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UsageError(f"{path}: is no text file, expected one in UTF-8")
    app.prompt.attach(path.name, text)
    size, setup = len(text) // TOKEN_CHARACTERS, app.desk.setup
    if setup is not None and size > setup.context_size:
        app.board.tell(
            f"{path.name} has about {size:,} tokens and the context {setup.context_size:,}: it is "
            "not likely to fit; Esc puts it away, and a part of the file may be pasted instead"
        )


def download(app: ChatApp, rest: str) -> None:
    """Fetch a pool of the catalogue and open it."""
    from metasd_local.pools.catalogue import read_catalogue  # loads numpy

    app.desk.check_idle()
    catalogue = read_catalogue()
    if not rest:
        known = ", ".join(pool.name for pool in catalogue)
        raise UsageError(f"/download: expected the name of a pool: {known}")
    pool = catalogue[rest].name
    download_outside(app, pool, offline=bool(app.desk.options.offline))
    app.change_options(pool=pool)


def export_chat(app: ChatApp, rest: str) -> None:
    """Write the conversation to a file."""
    chat = app.desk.chat
    if not chat.turns:
        raise UsageError("/export: there is nothing to write yet")
    path = _path(rest) if rest else default_path(chat, Path.cwd())
    export(chat, path)
    app.transcript.say(f"written: {path.absolute()}")


def _path(text: str) -> Path:
    if "\0" in text:
        raise UsageError("a path holds no zero byte; found one")
    return Path(os.path.expanduser(text))  # which leaves the ~ of a user there is not


def _number(command: str, text: str, what: str, count: int) -> int:
    """Return the number that was typed, by default the last; raise UsageError."""
    if not count:
        raise UsageError(f"{command}: there is not yet {what}")
    if not text:
        return count
    if not text.isdecimal() or not 1 <= int(text) <= count:
        raise UsageError(f"{command}: found {text!r}, expected the number of {what}, 1 to {count}")
    return int(text)
