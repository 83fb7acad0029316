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
from textual.widgets import Checkbox, Footer, Input, Label, Static, TextArea

from metasd_local.errors import MetasdError, UsageError
from metasd_local.options import OPTIONS, SCHEMES
from tui.desk import Desk
from tui.show import MUTED, plain

NAMES = (
    *("pool", "policy", "drafters", "temperature", "top-k", "top-p", "min-p", "repeat-penalty"),
    *("seed", "max-tokens", "window", "scheme", "think", "system", "stop"),
)
SETTINGS = tuple(option for name in NAMES for option in OPTIONS if option.name == name)
"""Options that can hold from the next answer on."""
SHOWN = {option.name: option for option in SETTINGS if not option.is_repeatable}
"""Those that one line of text can hold."""


class DrafterBox(Checkbox):
    """Shows by more than a colour whether a drafter is used."""

    def watch_value(self) -> None:
        """Draw the mark."""
        self.BUTTON_INNER = "X" if self.value else " "
        super().watch_value()


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
        self._first = first
        self._suggestions = {
            "policy": policies,
            "scheme": SCHEMES,
            "think": ("true", "false"),
        }

    def compose(self) -> ComposeResult:
        """Yield a line for every setting, and one for what is to be said."""
        with Vertical(classes="dialog"):
            with VerticalScroll(id="settings", can_focus=False):
                for name in SHOWN:
                    yield Label(name)
                    yield self._field(name)
            yield Static(id="said")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Begin where it was asked to."""
        self._before = {name: self._value(name) for name in SHOWN}
        first = self.query_one(f"#{self._first if self._first in SHOWN else NAMES[0]}")
        (first if first.can_focus else first.query(Checkbox).first()).focus()

    def _field(self, name: str) -> Widget:
        desk, option = self._desk, SHOWN[name]
        if name == "drafters":
            chosen = desk.chosen_drafters
            boxes = (
                DrafterBox(plain(each), each in chosen, name=each, compact=True)
                for each in desk.drafters
            )
            return Vertical(*boxes, id=name)
        if name == "system":
            return TextArea(
                desk.chat.system or "",
                tab_behavior="focus",
                highlight_cursor_line=False,
                id=name,
                compact=True,
            )
        value = getattr(desk.options, option.field)
        default = option.defaults.get("chat", option.default)
        for holder in (desk.setup, desk.setup and desk.setup.sampling):
            default = getattr(holder, option.field, default)
        return Input(
            "" if value is None else str(value).lower() if option.is_switch else str(value),
            str(default),
            suggester=SuggestFromList(self._suggestions.get(name, ())),
            id=name,
            compact=True,
        )

    def _value(self, name: str) -> object:
        """Return what is chosen, None for the default; raise UsageError."""
        if name == "drafters":
            boxes = self.query(Checkbox)
            chosen = tuple(box.name or "" for box in boxes if box.value)
            if boxes and not chosen:
                raise UsageError("drafters: choose at least one; the policy `plain` uses none")
            return None if len(chosen) == len(boxes) else chosen
        field = self.query_one(f"#{name}")
        assert isinstance(field, Input | TextArea)
        text = (field.value if isinstance(field, Input) else field.text).strip()
        return SHOWN[name].parse_text(name, text) if text else None

    @on(DescendantFocus)
    @on(Input.Changed)
    @on(Checkbox.Changed)
    def _explain(self, event: DescendantFocus | Input.Changed | Checkbox.Changed) -> None:
        """Say what the setting is about, or what is wrong with it."""
        field = event.control
        option = SHOWN["drafters" if isinstance(field, Checkbox) else (field and field.id) or ""]
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
            if name and name != "drafters":
                self.query_one(f"#{name}").focus()
            self._say(error)
        else:
            self.dismiss()

    def _say(self, what: str | MetasdError) -> None:
        style = "$text-error" if isinstance(what, MetasdError) else MUTED
        self.query_one("#said", Static).update(plain(str(what), style))
