"""What can be set in the chat, and how it is said there."""

from __future__ import annotations

import re

from metasd_local.options import OPTIONS

NAMES = (
    *("pool", "policy", "drafters", "temperature", "top-k", "top-p", "min-p", "repeat-penalty"),
    *("seed", "max-tokens", "window", "scheme", "think", "system", "stop"),
)
SETTINGS = {name: option for name in NAMES for option in OPTIONS if option.name == name}
"""Options that can hold from the next answer on, by name."""


def as_typed(value: object) -> str:
    """Return an option's value as it is typed."""
    if value is None or isinstance(value, bool):
        return "default" if value is None else str(value).lower()
    return ",".join(value) if isinstance(value, tuple) else str(value)


def in_chat(text: str) -> str:
    """Return a message that names options of the command line in the words of the chat."""

    def said(option: re.Match[str]) -> str:
        is_known = option[1] in SETTINGS
        return f"/set {option[1]}" if is_known else f"{option[0]} at the next start"

    return re.sub(r"(?<!\S)--([a-z][a-z-]+)", said, text)
