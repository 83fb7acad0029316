"""The help: commands and their keys, and what the panel shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from rich.console import Group
from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Footer, Static

from tui.commands import COMMANDS
from tui.keys import key_name

FIXED = (
    ("Enter", "send"),
    ("Ctrl+J", "new line (Shift+Enter or Alt+Enter where the terminal tells them apart)"),
    ("Tab", "complete a command; once more, the next one"),
    ("Up, Down", "earlier questions, from the first or last line"),
    ("Ctrl+C", "copy what is selected, else stop the answer; twice leaves"),
)
COLUMNS = (
    ("used", "share of the rounds in which this arm drafted"),
    ("acc.", "accepted ÷ drafted tokens"),
    ("len", "tokens emitted in a round: the accepted and one of the target's own"),
    ("tok/s", "tokens per second in this arm's rounds"),
    ("score", "what the policy thinks of it; `new` if not tried yet"),
    ("recent", "acceptance of its last rounds"),
    ("plain ~", "estimated tokens per second without drafts"),
    ("gain ~", "how much faster than that; below 0 is slower"),
)


class HelpScreen(ModalScreen[None]):
    """Shows everything in three tables; keymap: the keys in force by the name of the command."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,f1,enter", "dismiss", "Close", key_display="Esc")
    ]

    def __init__(self, keymap: Mapping[str, str]) -> None:
        super().__init__()
        self._keymap = keymap

    def compose(self) -> ComposeResult:
        """Yield the text, which may be longer than the screen."""
        with VerticalScroll(classes="dialog") as dialog:
            dialog.border_title = "Help"
            yield Static(_text(self._keymap))
        yield Footer(show_command_palette=False)


def _text(keymap: Mapping[str, str]) -> Group:
    keys = {name: key_name(key) for name, key in keymap.items()}
    return Group(
        _table("While typing", FIXED),
        _table(
            "Commands and their keys",
            ((f"/{each.name}", keys.get(each.name, ""), each.summary) for each in COMMANDS),
        ),
        _table("Panel", COLUMNS),
        Text("A question that begins with / is written with two of them."),
        Text("Keys change in config.toml: [keys] regen = 'f6'"),
    )


def _table(title: str, rows: Iterable[tuple[str, ...]]) -> Group:
    table = Table.grid(padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*(Text(cell, "" if cell is row[-1] else "bold") for cell in row))
    return Group(Text(title, "bold underline"), table, Text())
