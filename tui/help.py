"""The help screen's text: keys and commands."""

from __future__ import annotations

from textual.content import Content

from tui.commands import COMMANDS
from tui.show import plain

KEYS = (
    ("Enter", "send"),
    ("Ctrl+J", "new line (Shift+Enter or Alt+Enter where the terminal tells them apart)"),
    ("Up, Down", "earlier questions, from the first or last line"),
    ("Esc, Ctrl+C", "stop the answer; what was said stays"),
    ("PgUp, PgDn, wheel", "scroll; Ctrl+End goes to the end and follows the text"),
    ("F2", "answers as Markdown or as tokens: underlined is what a drafter proposed"),
    ("F3", "show or fold the panel"),
    ("F4", "list of conversations"),
    ("Ctrl+N", "new conversation"),
    ("Ctrl+R", "answer the last question again"),
    ("Ctrl+Y", "copy the last answer (/copy code copies its last code block)"),
    ("Ctrl+O", "open or fold the reasoning"),
    ("Ctrl+G", "write the question in $EDITOR"),
    ("Ctrl+P", "palette: all commands, themes, screenshot"),
    ("Ctrl+Q", "leave; every conversation is saved"),
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


def help_text() -> Content:
    """Return everything, in three tables."""
    commands = [(f"/{each.name} {each.usage}".rstrip(), each.summary) for each in COMMANDS]
    parts = []
    for title, rows in (("Keys", KEYS), ("Commands", commands), ("Panel", COLUMNS)):
        width = max(len(name) for name, _ in rows) + 2
        parts.append(plain(title, "bold underline"))
        parts += [plain(f"{name:{width}}", "bold").append(plain(summary)) for name, summary in rows]
        parts.append(plain(""))
    parts.append(plain("A question that begins with / is written with two of them."))
    return Content("\n").join(parts)
