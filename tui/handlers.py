"""The commands that need more than an action of the application.

Each takes what follows its name, and raises MetasdError with what the user should know.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from metasd_local.errors import UsageError
from metasd_local.options import nearest_hint
from tui.export import code_blocks, default_path, export
from tui.figures import stats_lines
from tui.outside import download_outside
from tui.settings import SETTINGS

if TYPE_CHECKING:
    from tui.app import ChatApp

MOST_ATTACHED_BYTES = 1_000_000


async def edit(app: ChatApp, rest: str) -> None:
    """Put a question back into the prompt, to go on from there."""
    app.desk.check_idle()
    turns = app.desk.chat.turns
    index = _number("/edit", rest, "question", len(turns)) - 1
    app.prompt.put(turns[index].question)
    app.prompt.editing = index


async def change_system(app: ChatApp, rest: str) -> None:
    """Change or show the system prompt."""
    chat = app.desk.chat
    if rest:
        chat.system = None if rest == "none" else rest
        app.desk.save()
    await app.transcript.say(f"system prompt of this conversation: {chat.system or 'none'}")


async def change_policy(app: ChatApp, rest: str) -> None:
    """Change who drafts, or show the settings."""
    await change_setting(app, f"policy {rest}")


async def choose_drafters(app: ChatApp, rest: str) -> None:
    """Choose the drafters, or show the settings."""
    await change_setting(app, f"drafters {'default' if rest == 'all' else rest}")


async def change_setting(app: ChatApp, rest: str) -> None:
    """Change a setting, or show them all."""
    name, _, value = rest.replace("=", " ", 1).partition(" ")
    name, value = name.replace("_", "-"), value.strip()
    known = {option.name: option for option in SETTINGS}
    if name and name not in known:
        raise UsageError(f"/set: there is no setting {name!r}{nearest_hint(name, known)}")
    if not value:
        app.action_settings(name)
        return
    option = known[name]
    parsed = None if value == "default" else option.parse_text(f"/set {name}", value)
    app.change_options(**{option.field: parsed})


async def show_stats(app: ChatApp, rest: str) -> None:  # noqa: ARG001
    """Show the figures of the last answer."""
    turns = app.desk.chat.turns
    stats = turns[-1].stats if turns else None
    if stats is None:
        raise UsageError("/stats: there is no complete answer yet")
    await app.transcript.say("\n".join(stats_lines(stats)))


async def copy(app: ChatApp, rest: str) -> None:
    """Copy an answer or a code block as the model wrote it."""
    turns = app.desk.chat.turns
    if not turns:
        raise UsageError("/copy: there is no answer yet")
    word, _, number = rest.partition(" ")
    if word == "code":
        blocks = code_blocks(turns[-1].answer)
        what = f"code block {_number('/copy code', number, 'code block', len(blocks))}"
        text = blocks[int(what.split()[-1]) - 1]
    else:
        index = _number("/copy", rest, "answer", len(turns))
        what, text = f"answer {index}", turns[index - 1].answer
    app.copy_to_clipboard(text)
    app.notify(
        f"{what}, {len(text):,} characters, sent to the terminal's clipboard; a terminal that "
        "takes none ignores it: then /export",
        markup=False,
    )


async def read(app: ChatApp, rest: str) -> None:
    """Attach a file to the next question."""
    if not rest:
        raise UsageError("/read: expected the path of a text file")
    path = Path(rest).expanduser()
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


async def download(app: ChatApp, rest: str) -> None:
    """Fetch a pool of the catalogue and open it."""
    from metasd_local.catalogue import read_catalogue  # loads numpy

    app.desk.check_idle()
    pool = read_catalogue()[rest].name
    download_outside(app, pool)
    app.change_options(pool=pool)


async def export_chat(app: ChatApp, rest: str) -> None:
    """Write the conversation to a file."""
    chat = app.desk.chat
    if not chat.turns:
        raise UsageError("/export: there is nothing to write yet")
    path = Path(rest).expanduser() if rest else default_path(chat, Path.cwd())
    export(chat, path)
    await app.transcript.say(f"written: {path}")


def _number(command: str, text: str, what: str, count: int) -> int:
    """Return the number that was typed, by default the last; raise UsageError."""
    if not count:
        raise UsageError(f"{command}: there is no {what}")
    if not text:
        return count
    if not text.isdecimal() or not 1 <= int(text) <= count:
        raise UsageError(
            f"{command}: found {text!r}, expected the number of a {what}, 1 to {count}"
        )
    return int(text)
