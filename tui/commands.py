"""Everything the user can do, by command, key or palette: one table, and how a line is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textual.binding import Binding

from metasd_local.errors import UsageError
from metasd_local.options import nearest_hint
from tui import actions
from tui.outside import suspend
from tui.settings import SETTINGS
from tui.welcome import examples

if TYPE_CHECKING:
    from tui.app import ChatApp

MOST_PATHS = 50


def _begin_anew(app: ChatApp, _: str) -> None:
    app.show_chat(app.desk.new_chat())


def _choose_policy(app: ChatApp, rest: str) -> None:
    actions.change_setting(app, f"policy {rest}")


def _choose_drafters(app: ChatApp, rest: str) -> None:
    actions.change_setting(app, f"drafters {'default' if rest == 'all' else rest}")


def _beginning(text: str, choices: Sequence[str]) -> list[str]:
    return [choice for choice in choices if choice.startswith(text)]


def _policies(app: ChatApp, text: str) -> list[str]:
    fixed = [f"fixed:{name}" for name in app.desk.drafters]
    return _beginning(text, [*(name for name in app.policies if ":" not in name), *fixed])


def _drafters(app: ChatApp, text: str) -> list[str]:
    before, comma, last = text.rpartition(",")
    chosen = before.split(",")
    rest = [name for name in app.desk.drafters if name not in chosen]
    choices = rest if comma else ["all", *rest]
    return [f"{before}{comma}{each}" for each in _beginning(last, choices)]


def _settings(_: ChatApp, text: str) -> list[str]:
    name, space, value = text.partition(" ")
    if not space:
        return _beginning(name, [option.name for option in SETTINGS])
    return [f"{name} default"] if "default".startswith(value) else []


def _pools(_: ChatApp, text: str) -> list[str]:
    from metasd_local.pools.catalogue import read_catalogue  # loads numpy

    return _beginning(text, [pool.name for pool in read_catalogue()])


def _paths(_: ChatApp, text: str) -> list[str]:
    folder, slash, beginning = text.rpartition("/")
    start = Path(os.path.expanduser(folder + slash or "."))
    try:
        found = sorted(start.iterdir())
    except OSError:
        return []
    shown = [entry for entry in found if entry.name.startswith(beginning)]
    return [
        text.removesuffix(beginning) + entry.name + (os.sep if entry.is_dir() else "")
        for entry in shown[:MOST_PATHS]
        if beginning or not entry.name.startswith(".")
    ]


@dataclass(frozen=True, slots=True)
class Command:
    """One thing to do; it raises MetasdError for what the user should know."""

    name: str
    summary: str
    run: Callable[[ChatApp, str], None]
    """Is given what follows the name."""
    usage: str = ""
    """What may follow the name; in brackets what need not."""
    key: str = ""
    label: str = ""
    """What the footer calls it; empty if it is not there."""
    follow: Callable[[ChatApp, str], Sequence[str]] | None = None
    """What may follow, given how it begins; None if nobody knows."""

    @property
    def title(self) -> str:
        """Return the name and what may follow it."""
        return f"/{self.name} {self.usage}".rstrip()


COMMANDS = (
    Command(
        "stop",
        "stop the answer, which stays; else put away what is typed, Up brings it back",
        lambda app, _: app.stop(),
        key="escape",
        label="Stop",
    ),
    Command(
        "help",
        "keys, commands, columns of the panel",
        lambda app, _: app.show_help(),
        key="f1",
        label="Help",
    ),
    Command(
        "view",
        "answers as Markdown, or as tokens with their drafters",
        lambda app, _: app.switch_view(),
        key="f2",
        label="View",
    ),
    Command(
        "panel",
        "show or fold the panel",
        lambda app, _: app.switch_panel(),
        key="f3",
        label="Panel",
    ),
    Command(
        "chats",
        "conversations: search, continue, rename, delete",
        lambda app, rest: app.show_chats(rest),
        "[SEARCH]",
        key="f4",
        label="Chats",
    ),
    Command(
        "set",
        "pool, policy, drafters, sampling, seed, limits; alone it shows all settings",
        actions.change_setting,
        "[NAME VALUE]",
        key="f5",
        label="Settings",
        follow=_settings,
    ),
    Command(
        "clear",
        "begin a new conversation; the old one stays in the list",
        _begin_anew,
        key="ctrl+n",
        label="New",
    ),
    Command(
        "regen", "answer the last question again", actions.regenerate, key="ctrl+r", label="Again"
    ),
    Command("undo", "take the last question and its answer back", actions.undo),
    Command("edit", "change a question and go on from there", actions.edit, "[N]"),
    Command("system", "system prompt of this conversation", actions.change_system, "[TEXT | none]"),
    Command("policy", "who drafts", _choose_policy, "[POLICY]", follow=_policies),
    Command("drafters", "drafters to use", _choose_drafters, "[A,B | all]", follow=_drafters),
    Command("download", "fetch a pool and open it", actions.download, "POOL", follow=_pools),
    Command("stats", "figures of the last answer, arm by arm", actions.show_stats),
    Command(
        "copy",
        "copy the last answer, answer N, or a code block",
        actions.copy,
        "[N | code [N]]",
        key="ctrl+y",
    ),
    Command("read", "attach a text file to the question", actions.read, "FILE", follow=_paths),
    Command("export", "write the conversation", actions.export_chat, "[FILE.md | FILE.json]"),
    Command(
        "reasoning",
        "open or fold the reasoning",
        lambda app, _: app.toggle_reasoning(),
        key="ctrl+o",
    ),
    Command(
        "editor", "write the question in $VISUAL or $EDITOR", actions.write_outside, key="ctrl+g"
    ),
    Command("page-up", "scroll up", lambda app, _: app.scroll_page(-1), key="pageup"),
    Command("page-down", "scroll down", lambda app, _: app.scroll_page(1), key="pagedown"),
    Command(
        "end", "go to the end and follow the text", lambda app, _: app.follow(), key="ctrl+end"
    ),
    Command(
        "palette",
        "all commands, themes, screenshot",
        lambda app, _: app.action_command_palette(),
        key="ctrl+p",
        label="Menu",
    ),
    Command("suspend", "go back to the shell, where `fg` goes on", lambda *_: suspend()),
    Command(
        "exit",
        "leave; every conversation is saved",
        lambda app, _: app.leave(),
        key="ctrl+q",
        label="Quit",
    ),
)
BY_NAME = {command.name: command for command in COMMANDS}
ALIASES = {
    **{"quit": "exit", "bye": "exit", "q": "exit", "?": "help", "new": "clear"},
    **{"settings": "set", "regenerate": "regen"},
}
BINDINGS = tuple(
    # With priority, so that a key the user chose is not the text area's.
    Binding(
        each.key,
        f"command({each.name!r})",
        each.label,
        id=each.name,
        tooltip=each.summary,
        priority=True,
        show=bool(each.label),
    )
    for each in COMMANDS
    if each.key
)


def is_command(text: str) -> bool:
    """Tell whether a text is meant as a command: code and paths begin with `/` too."""
    name, *_ = text.removeprefix("/").split(maxsplit=1) or [""]
    return text.startswith("/") and (name.isalpha() or name in {*BY_NAME, *ALIASES})


def find_command(line: str) -> tuple[Command, str]:
    """Return the command of a line and what follows; raise UsageError."""
    name, *rest = line.removeprefix("/").split(maxsplit=1)
    name = ALIASES.get(name, name)
    if name not in BY_NAME:
        raise UsageError(f"there is no command /{name}{nearest_hint(name, BY_NAME)} (see /help)")
    return BY_NAME[name], rest[0].strip() if rest else ""


def complete(app: ChatApp, line: str) -> list[str]:
    """Return what a line may become."""
    if not line.startswith("/"):
        return [] if line or app.desk.chat.turns else [*examples(app.desk.setup)]
    name, space, rest = line.removeprefix("/").partition(" ")
    if not space:
        return [f"/{each}" for each in _beginning(name, [*BY_NAME])]
    follow = BY_NAME[name].follow if name in BY_NAME else None
    return [f"/{name} {each}" for each in follow(app, rest)] if follow else []


def hints(app: ChatApp, line: str) -> list[tuple[str, str]]:
    """Return what to show while a command is typed: candidates, and what each is about."""
    candidates = complete(app, line)
    if " " not in line:
        commands = [BY_NAME[each.removeprefix("/")] for each in candidates]
        return [(command.title, command.summary) for command in commands]
    name = line.removeprefix("/").partition(" ")[0]
    if not candidates and name in BY_NAME:
        return [(BY_NAME[name].title, BY_NAME[name].summary)]
    return [(line, "") for line in candidates]
