"""The help screen's text: keys and commands."""

from __future__ import annotations

from collections.abc import Mapping

from textual.content import Content

from tui.commands import COMMANDS
from tui.keys import KEYS, key_name
from tui.show import plain

FIXED = (
    ("Enter", "send"),
    ("Ctrl+J", "new line (Shift+Enter or Alt+Enter where the terminal tells them apart)"),
    ("Tab", "complete a command"),
    ("Up, Down", "earlier questions, from the first or last line"),
    ("Ctrl+C", "copy what is selected, else stop the answer"),
)
COLUMNS = (
    ("rounds", "share of the rounds in which this arm drafted"),
    ("acc.", "accepted ÷ drafted tokens"),
    ("len", "tokens emitted in a round: the accepted and one of the target's own"),
    ("tok/s", "tokens per second in this arm's rounds"),
    ("score", "what the policy thinks of it; `new` if not tried yet"),
    ("recent", "acceptance of its last rounds"),
    ("plain ~", "estimated tokens per second without drafts"),
    ("gain ~", "how much faster than that; below 0 is slower"),
)


def help_text(keymap: Mapping[str, str]) -> Content:
    """Return everything, in three tables; keymap: the user's keys by the id of what they do."""
    keys = [(key_name(keymap.get(key.id or "", key.key)), key.tooltip) for key in KEYS]
    commands = [(f"/{each.name} {each.usage}".rstrip(), each.summary) for each in COMMANDS]
    tables = (("Keys", [*FIXED, *keys]), ("Commands", commands), ("Panel", COLUMNS))
    parts = []
    for title, rows in tables:
        width = max(len(name) for name, _ in rows) + 2
        parts.append(plain(title, "bold underline"))
        parts += [plain(f"{name:{width}}", "bold").append(plain(summary)) for name, summary in rows]
        parts.append(plain(""))
    parts.append(plain("A question that begins with / is written with two of them."))
    parts.append(plain("Keys change in config.toml: [keys] regenerate = 'f6'"))
    return Content("\n").join(parts)
