"""Everything the user can do, by command, key or palette: one table, and how a line is read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual.binding import Binding

from metasd_local.errors import MetasdError, UsageError
from metasd_local.options import nearest_hint
from metasd_local.text import printable
from tui import actions
from tui.choices import NAMES
from tui.outside import suspend
from tui.welcome import examples

if TYPE_CHECKING:
    from tui.app import ChatApp

MOST_OFFERED = 50


def _policies(app: ChatApp, _: str) -> Iterable[str]:
    fixed = (f"fixed:{name}" for name in app.desk.drafters)
    return (*(name for name in app.policies if ":" not in name), *fixed)


def _drafters(app: ChatApp, text: str) -> Iterable[str]:
    before, comma, _ = text.rpartition(",")
    rest = (name for name in app.desk.drafters if name not in before.split(","))
    return (*(() if comma else ("all",)), *(before + comma + name for name in rest))


def _settings(_: ChatApp, text: str) -> Iterable[str]:
    name, space, _value = text.partition(" ")
    return (f"{name} default",) if space else NAMES


def _pools(*_: object) -> Iterable[str]:
    from metasd_local.pools.catalogue import read_catalogue  # loads numpy

    return (pool.name for pool in read_catalogue())


def _paths(_: ChatApp, text: str) -> Iterable[str]:
    folder, slash, beginning = text.rpartition("/")
    start = os.path.expanduser(folder + slash) or os.curdir
    try:
        names = sorted(os.listdir(start))
    except OSError:
        return
    for name in names:
        # What cannot be shown cannot be typed.
        is_shown = bool(beginning) or not name.startswith(".")
        if is_shown and name.startswith(beginning) and name == printable(name):
            is_folder = os.path.isdir(os.path.join(start, name))
            yield folder + slash + name + os.sep * is_folder


@dataclass(frozen=True, slots=True)
class Command:
    """One thing to do; it raises MetasdError for what the user should know."""

    name: str
    summary: str
    run: Callable[[ChatApp, str], None]
    """Is given what follows the name."""
    usage: str = ""
    """What may follow the name; in brackets what need not."""
    follow: Callable[[ChatApp, str], Iterable[str]] = lambda *_: ()
    """What may follow, given how it begins; more may be offered than begins so."""

    @property
    def title(self) -> str:
        """Return the name and what may follow it."""
        return f"/{self.name} {self.usage}".rstrip()


COMMANDS = (
    Command(
        "stop",
        "stop the answer, which stays; else put away what is typed, Up brings it back",
        lambda app, _: app.stop(),
    ),
    Command("help", "keys, commands, columns of the panel", lambda app, _: app.show_help()),
    Command(
        "view",
        "answers as Markdown, or as tokens with their drafters",
        lambda app, _: app.switch_view(),
    ),
    Command("panel", "show or fold the panel", lambda app, _: app.switch_panel()),
    Command(
        "chats",
        "conversations: search, continue, rename, delete",
        lambda app, rest: app.show_chats(rest),
        "[SEARCH]",
    ),
    Command(
        "set",
        "pool, policy, drafters, sampling, seed, limits; alone it shows all settings",
        actions.change_setting,
        "[NAME VALUE]",
        _settings,
    ),
    Command(
        "clear",
        "begin a new conversation; the old one stays in the list",
        lambda app, _: app.show_chat(app.desk.new_chat()),
    ),
    Command("regen", "answer the last question again", actions.regenerate),
    Command("undo", "take the last question and its answer back", actions.undo),
    Command("edit", "change a question and go on from there", actions.edit, "[N]"),
    Command("system", "system prompt of this conversation", actions.change_system, "[TEXT | none]"),
    Command("policy", "who drafts", actions.change_policy, "[POLICY]", _policies),
    Command("drafters", "drafters to use", actions.change_drafters, "[A,B | all]", _drafters),
    Command("download", "fetch a pool and open it", actions.download, "POOL", _pools),
    Command("stats", "figures of the last answer, arm by arm", actions.show_stats),
    Command(
        "copy",
        "copy the last answer, answer N, a code block or a question",
        actions.copy,
        "[N | code [N] | question [N]]",
    ),
    Command("read", "attach a text file to the question", actions.read, "FILE", _paths),
    Command("export", "write the conversation", actions.export_chat, "[FILE.md | FILE.json]"),
    Command(
        "reasoning", "open or fold the reasoning", lambda app, _: app.transcript.toggle_reasoning()
    ),
    Command("editor", "write the question in $VISUAL or $EDITOR", actions.write_outside),
    Command("page-up", "scroll up", lambda app, _: app.transcript.scroll_page_up(animate=False)),
    Command(
        "page-down", "scroll down", lambda app, _: app.transcript.scroll_page_down(animate=False)
    ),
    Command("end", "go to the end and follow the text", lambda app, _: app.transcript.follow()),
    Command(
        "palette", "all commands, themes, screenshot", lambda app, _: app.action_command_palette()
    ),
    Command("suspend", "go back to the shell, where `fg` goes on", lambda *_: suspend()),
    Command("exit", "leave; every conversation is saved", lambda app, _: app.exit()),
)
BY_NAME = {command.name: command for command in COMMANDS}
ALIASES = {
    **{"quit": "exit", "bye": "exit", "q": "exit", "?": "help", "new": "clear"},
    **{"settings": "set", "regenerate": "regen"},
}
KEYS = {
    **{"stop": "escape", "help": "f1", "view": "f2", "panel": "f3", "chats": "f4", "set": "f5"},
    **{"clear": "ctrl+n", "regen": "ctrl+r", "copy": "ctrl+y", "reasoning": "ctrl+o"},
    **{"editor": "ctrl+g", "page-up": "pageup", "page-down": "pagedown", "end": "ctrl+end"},
    **{"palette": "ctrl+p", "exit": "ctrl+q"},
}
"""What is pressed if nothing else is chosen, by the name of the command."""
LABELS = {
    **{"stop": "Stop", "help": "Help", "view": "View", "panel": "Panel", "chats": "Chats"},
    **{"set": "Settings", "clear": "New", "regen": "Again", "palette": "Menu", "exit": "Quit"},
}
"""What the footer calls those that are there."""
BINDINGS = tuple(
    # With priority, so that a key the user chose is not the text area's.
    Binding(
        key,
        f"command({name!r})",
        LABELS.get(name, ""),
        id=name,
        tooltip=BY_NAME[name].summary,
        priority=True,
        show=name in LABELS,
    )
    for name, key in KEYS.items()
)


def is_command(text: str) -> bool:
    """Tell whether a text is meant as a command: code and paths begin with `/` too."""
    found = re.match(r"/(\S+)", text)
    return found is not None and (found[1].isalpha() or found[1] in {*BY_NAME, *ALIASES})


def find_command(line: str) -> tuple[Command, str]:
    """Return the command of a line and what follows; raise UsageError."""
    name, *rest = line.removeprefix("/").split(maxsplit=1)
    name = ALIASES.get(name, name)
    if name not in BY_NAME:
        raise UsageError(f"there is no command /{name}{nearest_hint(name, BY_NAME)} (see /help)")
    return BY_NAME[name], rest[0].strip() if rest else ""


def complete(app: ChatApp, line: str) -> list[str]:
    """Return what a line may become; a space follows where it is clear that more may."""
    if not line.startswith("/"):
        return [] if line or app.desk.chat.turns else [*examples(app.desk.setup)]
    name, space, rest = line.removeprefix("/").partition(" ")
    if not space:
        found = [each for each in COMMANDS if each.name.startswith(name)]
        clear = " " if len(found) == 1 and found[0].usage else ""
        return [f"/{each.name}{clear}" for each in found]
    try:
        follow = BY_NAME[name].follow(app, rest) if name in BY_NAME else ()
        return [f"/{name} {each}" for each in follow if each.startswith(rest)][:MOST_OFFERED]
    except MetasdError:  # who enters the line is told
        return []


def hints(app: ChatApp, line: str) -> list[tuple[str, str]]:
    """Return what to show while a command is typed: candidates, and what each is about."""
    candidates = complete(app, line)
    if " " not in line:
        commands = [BY_NAME[each.strip("/ ")] for each in candidates]
        return [(command.title, command.summary) for command in commands]
    name = line.removeprefix("/").partition(" ")[0]
    if not candidates and name in BY_NAME:
        return [(BY_NAME[name].title, BY_NAME[name].summary)]
    return [(line, "") for line in candidates]
