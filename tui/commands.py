"""The commands of the chat: what they are called, and what each asks the application to do."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metasd_local.errors import UsageError
from metasd_local.options import nearest_hint
from tui import handlers
from tui.settings import SETTINGS

if TYPE_CHECKING:
    from tui.app import ChatApp

MOST_PATHS = 50


@dataclass(frozen=True, slots=True)
class Command:
    """One command: what it does is either an action of the application or a handler."""

    name: str
    summary: str
    usage: str = ""
    """What may follow the name."""
    action: str = ""
    """Name of the action; empty if there is a handler."""
    run: Callable[[ChatApp, str], Awaitable[None]] | None = None
    follow: Callable[[ChatApp, str], Sequence[str]] | None = None
    """What may follow, given how it begins; None if nobody knows."""

    async def __call__(self, app: ChatApp, rest: str = "") -> None:
        """Do it; raise MetasdError for what the user should know."""
        if self.run is None:
            await app.run_action(f"app.{self.action}")
        else:
            await self.run(app, rest)


def is_command(text: str) -> bool:
    """Tell whether a text is meant as a command: code and paths begin with `/` too."""
    name, *_ = text.removeprefix("/").split(maxsplit=1) or [""]
    return text.startswith("/") and (name.isalpha() or name in ALIASES)


def find_command(line: str) -> tuple[Command, str]:
    """Return the command of a line and what follows; raise UsageError."""
    name, *rest = line.removeprefix("/").split(maxsplit=1)
    name = ALIASES.get(name, name)
    known = {command.name: command for command in COMMANDS}
    if name not in known:
        raise UsageError(f"there is no command /{name}{nearest_hint(name, known)} (see /help)")
    return known[name], rest[0].strip() if rest else ""


def complete(app: ChatApp, line: str) -> list[str]:
    """Return what a line may become; it begins with `/`."""
    name, space, rest = line.removeprefix("/").partition(" ")
    if not space:
        return [f"/{each.name}" for each in COMMANDS if each.name.startswith(name)]
    follow = next((each.follow for each in COMMANDS if each.name == name), None)
    return [f"/{name} {each}" for each in follow(app, rest)] if follow else []


def hints(app: ChatApp, line: str) -> list[tuple[str, str]]:
    """Return what to show while a command is typed: candidates, and what each is about."""
    candidates = complete(app, line)
    if " " not in line:
        commands = {f"/{each.name}": each for each in COMMANDS}
        return [(f"{line} {commands[line].usage}", commands[line].summary) for line in candidates]
    if not candidates:
        name = line.split(" ")[0]
        return [
            (f"/{each.name} {each.usage}", each.summary)
            for each in COMMANDS
            if f"/{each.name}" == name
        ]
    return [(line, "") for line in candidates]


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
    return [f"{name} {each}" for each in _beginning(value, ["default"])] if value else []


def _pools(_: ChatApp, text: str) -> list[str]:
    from metasd_local.catalogue import read_catalogue  # loads numpy

    return _beginning(text, [pool.name for pool in read_catalogue()])


def _paths(_: ChatApp, text: str) -> list[str]:
    folder, slash, beginning = text.rpartition("/")
    start = Path(folder + slash or ".").expanduser()
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


COMMANDS = (
    Command("help", "keys and commands", action="help"),
    Command("clear", "begin a new conversation; the old one stays in the list", action="new"),
    Command("chats", "conversations: search, continue, rename, delete", action="chats"),
    Command("regen", "answer the last question again", action="regenerate"),
    Command("undo", "take the last question and its answer back", action="undo"),
    Command("edit", "change a question and go on from there", "[N]", run=handlers.edit),
    Command(
        "system", "system prompt of this conversation", "[TEXT | none]", run=handlers.change_system
    ),
    Command("policy", "who drafts", "[POLICY]", run=handlers.change_policy, follow=_policies),
    Command(
        "drafters",
        "drafters to use",
        "[A,B | all]",
        run=handlers.choose_drafters,
        follow=_drafters,
    ),
    Command(
        "set",
        "pool, sampling, seed, limits; alone it shows all settings",
        "[NAME VALUE]",
        run=handlers.change_setting,
        follow=_settings,
    ),
    Command("download", "fetch a pool and open it", "POOL", run=handlers.download, follow=_pools),
    Command("stats", "figures of the last answer, arm by arm", run=handlers.show_stats),
    Command(
        "copy",
        "copy the last answer, answer N, or a code block",
        "[N | code [N]]",
        run=handlers.copy,
    ),
    Command("read", "attach a text file to the question", "FILE", run=handlers.read, follow=_paths),
    Command("export", "write the conversation", "[FILE.md | FILE.json]", run=handlers.export_chat),
    Command("exit", "leave", action="quit"),
)
ALIASES = {"quit": "exit", "bye": "exit", "q": "exit", "?": "help", "new": "clear"}
