"""The commands that need more than an action of the application.

Each takes what follows its name, and raises MetasdError with what the user should know.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from metasd_local.errors import UsageError
from metasd_local.options import OPTIONS, nearest_hint
from tui.export import code_blocks, default_path, export
from tui.figures import stats_lines

if TYPE_CHECKING:
    from tui.app import ChatApp

SETTINGS = (
    *("temperature", "top-k", "top-p", "min-p", "repeat-penalty", "scheme", "window"),
    *("seed", "max-tokens", "stop", "think"),
)
"""Options that `/set` changes."""
MOST_ATTACHED_BYTES = 4_000_000


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
        app.desk.save(len(chat.turns))
    await app.transcript.say(f"system prompt of this conversation: {chat.system or 'none'}")


async def change_policy(app: ChatApp, rest: str) -> None:
    """Change or show who drafts."""
    if rest:
        app.change_options(policy=rest)
    elif app.desk.setup is not None:
        await app.transcript.say(f"policy: {app.desk.setup.policy}")


async def choose_drafters(app: ChatApp, rest: str) -> None:
    """Choose or show the drafters."""
    loaded, setup = app.desk.drafters, app.desk.setup
    if not rest:
        used = setup.drafters if setup else ()
        idle = [name for name in loaded if name not in used]
        await app.transcript.say(
            f"drafters: {', '.join(used) or 'none'}"
            + (f" · loaded but not used: {', '.join(idle)}" if idle else "")
        )
        return
    names = () if rest == "all" else tuple(part.strip() for part in rest.split(","))
    for name in names:
        if name not in loaded:
            raise UsageError(
                f"/drafters: {name!r} is not loaded{nearest_hint(name, loaded)} "
                f"(loaded: {', '.join(loaded)}); start metasd with --drafters to load another"
            )
    app.change_options(drafters=names)


async def change_setting(app: ChatApp, rest: str) -> None:
    """Change or show the settings."""
    name, _, value = rest.replace("=", " ", 1).partition(" ")
    known = {option.name: option for option in OPTIONS if option.name in SETTINGS}
    if not name:
        await app.transcript.say("\n".join(_settings_lines(app)))
        return
    name, value = name.replace("_", "-"), value.strip()
    if name not in known:
        raise UsageError(f"/set: there is no setting {name!r}{nearest_hint(name, known)}")
    option = known[name]
    if not value:
        raise UsageError(f"/set {name}: expected {option.kind.expected}, or `default`")
    parsed = None if value == "default" else option.parse_text(f"/set {name}", value)
    app.change_options(**{option.field: parsed})


def _settings_lines(app: ChatApp) -> list[str]:
    """Return every setting with its value: as set, else as the session has it."""
    lines = []
    setup = app.desk.setup
    for option in (option for option in OPTIONS if option.name in SETTINGS):
        value = getattr(app.desk.options, option.field)
        note = ""
        if value is None:
            note = "  (default)"
            value = getattr(setup.sampling, option.field, None) if setup else None
            value = option.default if value is None else value
        lines.append(f"{option.name:15} {value}{note}")
    return lines


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
        if path.stat().st_size > MOST_ATTACHED_BYTES:
            raise UsageError(
                f"{path}: more than {MOST_ATTACHED_BYTES:,} bytes; no model reads that"
            )
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path}: is no UTF-8 text: {error}") from error
    app.prompt.attach(path.name, text)


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
