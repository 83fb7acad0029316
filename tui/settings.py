"""The screen of settings: one line for each, typed as on the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.events import DescendantFocus
from textual.screen import ModalScreen
from textual.suggester import SuggestFromList
from textual.widget import Widget
from textual.widgets import Footer, Input, Label, Static

from metasd_local.errors import MetasdError, UsageError
from metasd_local.options import SCHEMES
from metasd_local.text import printable
from tui.choices import NAMES, SETTINGS, as_typed
from tui.desk import Desk
from tui.fields import LineField, TextField
from tui.show import MUTED, plain

SHOWN = {name: option for name, option in SETTINGS.items() if not option.is_repeatable}
"""Those that one line of text can hold."""


class SettingsScreen(ModalScreen[None]):
    """Shows what is set and, dimmed, what holds where nothing is.

    apply: takes the options that were changed; raises MetasdError.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "save", "Use from the next answer on", priority=True),
        Binding("escape", "dismiss", "Leave all as it was", key_display="Esc"),
        Binding("up", "app.focus_previous", show=False, priority=True),
        Binding("down", "app.focus_next", show=False, priority=True),
    ]

    def __init__(
        self, desk: Desk, policies: Sequence[str], apply: Callable[..., None], first: str
    ) -> None:
        super().__init__()
        self._desk = desk
        self._apply = apply
        self._first = first or NAMES[0]
        self._suggestions = {
            "policy": [printable(policy) for policy in policies],
            "scheme": SCHEMES,
            "think": ("true", "false"),
        }

    def compose(self) -> ComposeResult:
        """Yield a line for every setting, and one for what is to be said."""
        with Vertical(classes="dialog") as dialog:
            dialog.border_title = "Settings"
            with VerticalScroll(id="settings", can_focus=False):
                for name in SHOWN:
                    yield Label(name)
                    yield self._field(name)
            yield Static(id="said")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Begin where it was asked to."""
        self._before = {name: self._value(name) for name in SHOWN}
        self.query_one(f"#{self._first}").focus()

    def _field(self, name: str) -> Widget:
        desk, option = self._desk, SHOWN[name]
        if name == "system":
            return TextField(desk.chat.system or "", id=name, compact=True)
        value: object = getattr(desk.options, option.field)
        default: object = option.defaults.get("chat", option.default)
        for holder in (desk.setup, desk.setup and desk.setup.sampling):
            default = getattr(holder, option.field, default)
        if name == "drafters":
            default = desk.drafters
        return LineField(
            "" if value is None else as_typed(value),
            printable(as_typed(default)),
            suggester=SuggestFromList(self._suggestions.get(name, ())),
            id=name,
            compact=True,
        )

    def _value(self, name: str) -> object:
        """Return what is chosen, None for the default; raise UsageError."""
        field = self.query_one(f"#{name}")
        assert isinstance(field, LineField | TextField)
        text = (field.value if isinstance(field, LineField) else field.text).strip()
        return SHOWN[name].parse_text(name, text) if text else None

    @on(DescendantFocus)
    @on(Input.Changed)
    def _explain(self, event: DescendantFocus | Input.Changed) -> None:
        """Say what the setting is about, or what is wrong with it."""
        field = event.control
        option = SHOWN[(field and field.id) or ""]
        try:
            self._value(option.name)
        except UsageError as error:
            self._say(error)
        else:
            self._say(f"{option.help}; {option.kind.expected}")

    @on(Input.Submitted)
    def action_save(self) -> None:
        """Use what was changed and leave, or say what is wrong."""
        changes: dict[str, object] = {}
        name = ""
        try:
            for name in SHOWN:
                value = self._value(name)
                if value != self._before[name]:
                    changes[SHOWN[name].field] = value
            name = ""
            if changes:
                self._apply(**changes)
        except MetasdError as error:
            if name:
                self.query_one(f"#{name}").focus()
            self._say(error)
        else:
            self.dismiss()

    def _say(self, what: str | MetasdError) -> None:
        style = "$text-error" if isinstance(what, MetasdError) else MUTED
        self.query_one("#said", Static).update(plain(str(what), style))
