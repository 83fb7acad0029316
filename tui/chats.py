"""The list of conversations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import ClassVar

from textual import getters, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, OptionList, Static
from textual.widgets.option_list import Option

from metasd_local.errors import MetasdError
from tui.desk import Desk
from tui.fields import LineField
from tui.show import MUTED, plain
from tui.store import Entry


class ChatsScreen(ModalScreen[int | None]):
    """Lists conversations; returns the id of the one to go on with."""

    _line = getters.query_one(LineField)
    _chats = getters.query_one(OptionList)

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back", key_display="Esc"),
        Binding("enter", "open", "Go on", priority=True),
        Binding("ctrl+r,f2", "rename", "Rename", priority=True, key_display="^r"),
        Binding("delete,ctrl+d", "delete", "Delete", priority=True, key_display="Del"),
        Binding("up", "move(-1)", show=False, priority=True),
        Binding("down", "move(1)", show=False, priority=True),
    ]

    def __init__(self, desk: Desk, search: str) -> None:
        super().__init__()
        self._desk = desk
        self._search = search
        self._entries: Sequence[Entry] = ()
        self._renaming: int | None = None
        """The id of the conversation whose title is typed in the place of the search."""
        self._doomed: int | None = None
        """The id of the conversation that another press of the key deletes."""

    def compose(self) -> ComposeResult:
        """Yield the search and the list."""
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = "Conversations"
            yield LineField(self._search, "search in titles and texts")
            yield Static(id="said")
            yield OptionList(markup=False)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """List everything."""
        self._chats.can_focus = False
        self._line.action_end()
        self._list()

    @on(Input.Changed)
    def _list(self) -> None:
        if self._renaming is not None:
            return
        selected, self._entries = self._chats.highlighted or 0, ()
        try:
            self._entries = self._desk.store.entries(self._line.value)
        except MetasdError as error:
            self._say(str(error))
        else:
            self._say("" if self._entries else "no conversation found")
        self._chats.clear_options()
        self._chats.add_options([Option(self._row(entry)) for entry in self._entries])
        self._chats.highlighted = min(selected, len(self._entries) - 1) if self._entries else None

    def action_back(self) -> None:
        """Leave the renaming, the question, or the list."""
        if self._renaming is not None:
            self._end_rename()
        elif self._doomed is not None:
            self._say("")
        else:
            self.dismiss(None)

    def action_open(self) -> None:
        """Go on with the selected conversation, or take the new title."""
        title, renamed = self._line.value.strip(), self._renaming
        if renamed is not None:
            if not title or self._can(lambda: self._desk.rename(renamed, title)):
                self._end_rename()
        elif (entry := self._selected) is not None:
            self.dismiss(entry.id)

    def action_rename(self) -> None:
        """Ask for a title."""
        if (entry := self._selected) is not None:
            self._renaming, self._search = entry.id, self._line.value
            self._line.value = entry.title
            self._line.action_end()
            self._say("new title: Enter keeps it, Esc leaves the old one")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Leave the keys of a text to who types a title."""
        return self._renaming is None or action not in ("delete", "rename", "move")

    def action_delete(self) -> None:
        """Delete the selected conversation at the second press."""
        if (entry := self._selected) is None:
            return
        if entry.id == self._desk.chat.id:
            self._say("this conversation is open; begin another one with /clear, then delete it")
        elif self._doomed != entry.id:
            self._say("press the key again to delete this conversation, Esc to keep it")
            self._doomed = entry.id
        elif self._can(lambda: self._desk.store.delete(entry.id, entry.changed_s)):
            self._list()

    def action_move(self, rows: int) -> None:
        """Select another conversation."""
        if self._entries:
            self._chats.highlighted = ((self._chats.highlighted or 0) + rows) % len(self._entries)
            self._say("")

    @on(OptionList.OptionSelected)
    def _open_clicked(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._entries[event.option_index].id)

    @property
    def _selected(self) -> Entry | None:
        index = self._chats.highlighted
        return None if index is None else self._entries[index]

    def _end_rename(self) -> None:
        self._renaming = None
        self._line.value = self._search
        self._list()

    def _row(self, entry: Entry) -> Content:
        when = datetime.fromtimestamp(entry.changed_s).strftime("%d %b %H:%M")
        sign = "▸" if entry.id == self._desk.chat.id else " "
        return plain(f"{sign} {when}  {entry.num_turns:>4} ", MUTED).append(
            plain(entry.title.replace("\n", " "))
        )

    def _say(self, text: str) -> None:
        self._doomed = None
        self.query_one("#said", Static).update(plain(text))

    def _can(self, work: Callable[[], object]) -> bool:
        """Do something with the file, or say why it cannot be done and return False."""
        try:
            work()
        except MetasdError as error:
            self._say(str(error))
            return False
        return True
