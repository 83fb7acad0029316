"""The screens above the conversation: help, and the list of conversations."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, OptionList, Static
from textual.widgets.option_list import Option

from metasd_local.errors import MetasdError
from tui.show import MUTED, plain
from tui.store import Entry, Store


class HelpScreen(ModalScreen[None]):
    """Shows a text that may be longer than the screen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,f1,enter", "dismiss", "Close", key_display="Esc")
    ]

    def __init__(self, content: Content) -> None:
        super().__init__()
        self._content = content

    def compose(self) -> ComposeResult:
        """Yield the text."""
        with VerticalScroll(classes="dialog"):
            yield Static(self._content)
        yield Footer(show_command_palette=False)


class ChatsScreen(ModalScreen[int | None]):
    """Lists conversations; returns the id of the one to go on with."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back", key_display="Esc"),
        Binding("enter", "open", "Go on", priority=True),
        Binding("ctrl+r,f2", "rename", "Rename", priority=True, key_display="^r"),
        Binding("delete,ctrl+d", "delete", "Delete", priority=True, key_display="Del"),
        Binding("up", "move(-1)", show=False, priority=True),
        Binding("down", "move(1)", show=False, priority=True),
    ]

    def __init__(self, store: Store, current: int | None) -> None:
        super().__init__()
        self._store = store
        self._current = current
        self._entries: list[Entry] = []
        self._renaming: int | None = None
        """The id of the conversation that gets a title."""
        self._doomed: int | None = None
        """The id of the conversation that another press of the key deletes."""

    def compose(self) -> ComposeResult:
        """Yield the search and the list."""
        with Vertical(classes="dialog"):
            yield Input(placeholder="search in titles and texts", id="search")
            yield Input(id="title")
            yield Static(id="notice")
            yield OptionList(id="chats", markup=False)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """List everything."""
        self.query_one("#title").display = False
        self.query_one("#chats").can_focus = False
        self._refresh()

    @on(Input.Changed, "#search")
    def _refresh(self) -> None:
        chats = self.query_one("#chats", OptionList)
        selected = chats.highlighted or 0
        try:
            self._entries = list(self._store.entries(self.query_one("#search", Input).value))
        except MetasdError as error:
            self._entries = []
            self.notify(str(error), severity="error", markup=False)
        chats.clear_options()
        chats.add_options([Option(self._row(entry)) for entry in self._entries])
        chats.highlighted = min(selected, len(self._entries) - 1) if self._entries else None
        self._doomed = None
        self._say("" if self._entries else "no conversation found")

    def action_back(self) -> None:
        """Leave the renaming, the question, or the list."""
        if self._renaming is not None:
            self._end_rename()
        elif self._doomed is not None:
            self._doomed = None
            self._say("")
        else:
            self.dismiss(None)

    def action_open(self) -> None:
        """Go on with the selected conversation, or take the new title."""
        if self._renaming is not None:
            title = self.query_one("#title", Input).value.strip()
            if title:
                self._change(lambda: self._store.rename(self._renaming or 0, title))
            self._end_rename()
        elif (entry := self._selected) is not None:
            self.dismiss(entry.id)

    def action_rename(self) -> None:
        """Ask for a title."""
        if (entry := self._selected) is None:
            return
        self._renaming = entry.id
        title = self.query_one("#title", Input)
        title.display = True
        title.border_title = "new title: Enter keeps it, Esc leaves the old one"
        title.value = entry.title
        title.focus()

    def action_delete(self) -> None:
        """Delete the selected conversation at the second press."""
        if (entry := self._selected) is None or self._renaming is not None:
            return
        if entry.id == self._current:
            self._say("this conversation is open; begin another one with /clear, then delete it")
            return
        if self._doomed != entry.id:
            self._doomed = entry.id
            self._say("press the key again to delete this conversation, Esc to keep it")
            return
        self._change(lambda: self._store.delete(entry.id))
        self._refresh()

    def action_move(self, rows: int) -> None:
        """Select another conversation."""
        chats = self.query_one("#chats", OptionList)
        if self._entries:
            chats.highlighted = ((chats.highlighted or 0) + rows) % len(self._entries)
        self._doomed = None
        self._say("")

    @on(OptionList.OptionSelected, "#chats")
    def _open_clicked(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._entries[event.option_index].id)

    @property
    def _selected(self) -> Entry | None:
        index = self.query_one("#chats", OptionList).highlighted
        return None if index is None else self._entries[index]

    def _end_rename(self) -> None:
        self._renaming = None
        self.query_one("#title").display = False
        self.query_one("#search").focus()
        self._refresh()

    def _row(self, entry: Entry) -> Content:
        when = datetime.fromtimestamp(entry.changed_s).strftime("%d %b %H:%M")
        sign = "▸" if entry.id == self._current else " "
        return plain(f"{sign} {when}  {entry.num_turns:>4} ", MUTED).append(
            plain(entry.title.replace("\n", " "))
        )

    def _say(self, text: str) -> None:
        self.query_one("#notice", Static).update(plain(text))

    def _change(self, change: Callable[[], None]) -> None:
        try:
            change()
        except MetasdError as error:
            self.notify(str(error), severity="error", markup=False)
