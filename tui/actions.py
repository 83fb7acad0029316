"""What the user can do: each takes what follows the command's name, nothing if a key was pressed.

They raise MetasdError with what the user should know. `app` is the application, or what stands for
it in the chat in lines.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from metasd_local.errors import UsageError
from metasd_local.options import nearest_hint
from tui.export import code_blocks, default_path, export
from tui.figures import stats_lines
from tui.outside import download_outside, edit_outside
from tui.settings import SETTINGS

if TYPE_CHECKING:
    from tui.app import ChatApp

MOST_ATTACHED_BYTES = 1_000_000


def undo(app: ChatApp, _: str) -> None:
    """Take the last question back into the prompt."""
    turn = app.desk.undo()
    app.show_chat(app.desk.chat)
    app.prompt.put(turn.question)


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
    app.say(f"system prompt of this conversation: {app.desk.chat.system or 'none'}")


def change_setting(app: ChatApp, rest: str) -> None:
    """Change a setting, or show them all."""
    name, _, value = rest.replace("=", " ", 1).partition(" ")
    name, value = name.replace("_", "-"), value.strip()
    known = {option.name: option for option in SETTINGS}
    if name and name not in known:
        raise UsageError(f"/set: there is no setting {name!r}{nearest_hint(name, known)}")
    if not value:
        app.show_settings(name)
        return
    option = known[name]
    parsed = None if value == "default" else option.parse_text(f"/set {name}", value)
    app.change_options(**{option.field: parsed})


def show_stats(app: ChatApp, _: str) -> None:
    """Show the figures of the last answer."""
    turns = app.desk.chat.turns
    stats = turns[-1].stats if turns else None
    if stats is None:
        raise UsageError("/stats: there is no complete answer yet")
    app.say("\n".join(stats_lines(stats)))


def copy(app: ChatApp, rest: str) -> None:
    """Copy an answer or a code block as the model wrote it."""
    turns = app.desk.chat.turns
    word, _, number = rest.partition(" ")
    if word == "code":
        blocks = code_blocks(turns[-1].answer) if turns else ()
        index = _number("/copy code", number, "a code block", len(blocks))
        what, text = f"code block {index}", blocks[index - 1]
    else:
        index = _number("/copy", rest, "an answer", len(turns))
        what, text = f"answer {index}", turns[index - 1].answer
    app.copy_to_clipboard(text)
    app.tell(
        f"{what}, {len(text):,} characters, sent to the terminal's clipboard; a terminal that "
        "takes none ignores it: then /export"
    )


def read(app: ChatApp, rest: str) -> None:
    """Attach a file to the next question."""
    if not rest:
        raise UsageError("/read: expected the path of a text file")
    path = Path(os.path.expanduser(rest))
    try:
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


def download(app: ChatApp, rest: str) -> None:
    """Fetch a pool of the catalogue and open it."""
    from metasd_local.pools.catalogue import read_catalogue  # loads numpy

    app.desk.check_idle()
    pool = read_catalogue()[rest].name
    download_outside(app, pool, offline=bool(app.desk.options.offline))
    app.change_options(pool=pool)


def export_chat(app: ChatApp, rest: str) -> None:
    """Write the conversation to a file."""
    chat = app.desk.chat
    if not chat.turns:
        raise UsageError("/export: there is nothing to write yet")
    path = Path(os.path.expanduser(rest)) if rest else default_path(chat, Path.cwd())
    export(chat, path)
    app.say(f"written: {path.absolute()}")


def _number(command: str, text: str, what: str, count: int) -> int:
    """Return the number that was typed, by default the last; raise UsageError."""
    if not count:
        raise UsageError(f"{command}: there is not yet {what}")
    if not text:
        return count
    if not text.isdecimal() or not 1 <= int(text) <= count:
        raise UsageError(f"{command}: found {text!r}, expected the number of {what}, 1 to {count}")
    return int(text)
