"""The keys of the chat: what each one does, and what config.toml makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from textual.binding import Binding
from textual.keys import Keys, key_to_character

from metasd_local.errors import ConfigError
from metasd_local.options import nearest_hint

_ROWS = (
    # id, key, action, label, what it does
    (
        "stop",
        "escape",
        "stop",
        "Stop",
        "stop the answer, which stays; else put away what is typed, Up brings it back",
    ),
    ("help", "f1", "help", "Help", "keys, commands, columns of the panel"),
    ("view", "f2", "switch_view", "View", "answers as Markdown, or as tokens with their drafters"),
    ("panel", "f3", "switch_panel", "Panel", "show or fold the panel"),
    ("chats", "f4", "chats", "Chats", "conversations: search, continue, rename, delete"),
    ("settings", "f5", "settings", "Settings", "pool, policy, drafters, sampling, seed"),
    ("new", "ctrl+n", "new", "New", "begin a new conversation"),
    ("regenerate", "ctrl+r", "regenerate", "Again", "answer the last question again"),
    ("copy", "ctrl+y", "copy", "Copy", "copy the last answer; /copy code copies a code block"),
    ("reasoning", "ctrl+o", "reasoning", "Reasoning", "open or fold the reasoning"),
    ("editor", "ctrl+g", "editor", "Editor", "write the question in $VISUAL or $EDITOR"),
    ("page-up", "pageup", "scroll_page(-1)", "Page up", "scroll up"),
    ("page-down", "pagedown", "scroll_page(1)", "Page down", "scroll down"),
    ("end", "ctrl+end", "follow", "End", "go to the end and follow the text"),
    ("palette", "ctrl+p", "command_palette", "Menu", "all commands, themes, screenshot"),
    ("quit", "ctrl+q", "quit", "Quit", "leave; every conversation is saved"),
)
_NOT_IN_FOOTER = ("copy", "reasoning", "editor", "page-up", "page-down", "end")
KEYS = tuple(
    # With priority, so that a key the user chose is not the text area's.
    Binding(
        key, action, label, id=name, tooltip=text, priority=True, show=name not in _NOT_IN_FOOTER
    )
    for name, key, action, label, text in _ROWS
)
KEYS_BY_NAME = {key.id or "": key.key for key in KEYS}
FIXED = ("enter", "ctrl+j", "ctrl+m", "shift+enter", "alt+enter", "up", "down", "left", "right")
"""Keys that type or move, which nobody may give another meaning."""
MODIFIERS = {"ctrl", "alt", "shift", "super", "hyper", "meta"}
NAMED = {key.value for key in Keys if not key.value.startswith("<")}


def read_keymap(said: Mapping[str, object], path: Path) -> dict[str, str]:
    """Return the keys of the table [keys] in the file at `path`, by id of what they do.

    Raises ConfigError.
    """
    keymap = dict(KEYS_BY_NAME)
    taken: dict[str, str] = {}
    for name, keys in said.items():
        if name not in keymap:
            raise ConfigError(
                f"{path}: [keys] has an unknown key {name!r}{nearest_hint(name, keymap)} "
                f"(known: {', '.join(keymap)})"
            )
        if not isinstance(keys, str):
            raise ConfigError(f"{path}: [keys] {name}: found {keys!r}, expected a text")
        keymap[name] = ",".join(part.strip().lower() for part in keys.split(","))
    for name, keys in keymap.items():
        for key in keys.split(","):
            if not _is_free(key):
                raise ConfigError(
                    f"{path}: [keys] {name}: found {key!r}, expected a key that types nothing, "
                    f"such as ctrl+x or f6{nearest_hint(key, NAMED)}"
                )
            if key in taken:
                raise ConfigError(
                    f"{path}: [keys] {name}: {key!r} is the key of {taken[key]}; "
                    "give one of the two another"
                )
            taken[key] = name
    return keymap


def key_name(keys: str) -> str:
    """Return keys as they are written on a keyboard."""
    short = {"escape": "Esc", "pageup": "PgUp", "pagedown": "PgDn"}
    names = (
        "+".join(short.get(part, part.capitalize()) for part in key.split("+"))
        for key in keys.split(",")
    )
    return ", ".join(names)


def _is_free(key: str) -> bool:
    """Tell whether it is a key, and none that is needed to type."""
    *modifiers, name = key.split("+")
    if key in FIXED or not MODIFIERS.issuperset(modifiers):
        return False
    is_known = name in NAMED or len(name) == 1 or key_to_character(name) is not None
    types = not {*modifiers} - {"shift"} and len(key_to_character(name) or "") == 1
    return is_known and (not types or name == "escape")
