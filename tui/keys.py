"""The keys as config.toml may choose them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from textual.keys import Keys, key_to_character

from metasd_local.errors import ConfigError
from metasd_local.options import nearest_hint
from tui.commands import ALIASES, KEYS

FIXED = ("enter", "ctrl+j", "ctrl+m", "shift+enter", "alt+enter", "up", "down", "left", "right")
"""Keys that type or move, which nobody may give another meaning."""
MODIFIERS = {"ctrl", "alt", "shift", "super", "hyper", "meta"}
NAMED = {key.value for key in Keys if not key.value.startswith("<")}


def read_keymap(said: Mapping[str, object], path: Path) -> dict[str, str]:
    """Return the key of every command that has one, given the table [keys] in the file at `path`.

    Raises ConfigError.
    """
    keymap, taken = dict(KEYS), dict[str, str]()
    for word, keys in said.items():
        name = ALIASES.get(word, word)
        if name not in keymap:
            raise ConfigError(
                f"{path}: [keys] has an unknown key {word!r}"
                f"{nearest_hint(word, (*keymap, *ALIASES))} (known: {', '.join(keymap)})"
            )
        if not isinstance(keys, str):
            raise ConfigError(f"{path}: [keys] {word}: found {keys!r}, expected a text")
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
