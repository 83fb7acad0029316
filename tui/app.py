"""The chat application: what is where, and drawing what happened."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from textual import getters, on
from textual.app import App, ComposeResult, SystemCommand
from textual.binding import BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.css.query import NoMatches
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Footer, Static, TextArea

from metasd_local.errors import MetasdError, UsageError
from tui.board import Board
from tui.chats import ChatsScreen
from tui.choices import in_chat
from tui.commands import (
    BINDINGS,
    BY_NAME,
    COMMANDS,
    KEYS,
    Command,
    complete,
    find_command,
    hints,
    is_command,
)
from tui.conversation import Conversation
from tui.desk import Changes, Desk
from tui.help import HelpScreen
from tui.keys import key_name
from tui.marks import Legend
from tui.memory import read_memory, write_memory
from tui.outside import obey_shell
from tui.pace import Pace
from tui.panel import panel
from tui.prompt import Prompt
from tui.settings import SettingsScreen
from tui.show import redraw
from tui.transcript import Transcript
from tui.welcome import welcome

REFRESH_S = 0.25
"""How often figures change that are read, not followed."""
ALWAYS = (("exit",), ("palette",))
"""Commands whose keys work below another screen."""
LEAVE = "nothing is selected that could be copied; Ctrl+C once more leaves"
WIDE = 120
"""Columns from which the panel has room."""


class ChatApp(App[None]):
    """A chat on the screen.

    policies: names to complete after `/policy`. keymap: keys by the name of the command, as
    `keys.read_keymap` returns them.
    """

    TITLE = "metasd"
    CSS_PATH = "chat.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [*BINDINGS]

    prompt = getters.query_one(Prompt)
    transcript: getters.query_one[Transcript] = getters.query_one(Transcript)
    board = getters.query_one(Board)

    def __init__(
        self,
        desk: Desk,
        state_path: Path,
        policies: Sequence[str] = (),
        keymap: Mapping[str, str] = KEYS,
    ) -> None:
        super().__init__()
        self.keymap = dict(keymap)
        self.set_keymap(self.keymap)
        self.desk: Desk = desk
        self.policies = policies
        self.legend = Legend()
        self._state_path = state_path
        self._memory = read_memory(state_path)
        self.is_drawing = False
        """Whether the screen is behind what happened."""
        self._refreshed_s = 0.0
        self._pace = Pace()
        self._timer: Timer | None = None
        """Until the next drawing."""

    def compose(self) -> ComposeResult:
        """Yield the conversation and the panel, and below them what is one line each."""
        with Horizontal(id="middle"):
            yield Transcript(self.legend, self.key_of("reasoning"))
            with VerticalScroll(id="side", can_focus=False):
                yield Static(id="panel")
        yield Board()
        yield Prompt()
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        """Show the empty conversation and begin to load."""
        if self._memory.theme in self.available_themes:
            self.theme = self._memory.theme
        self.theme_changed_signal.subscribe(self, lambda _: self._remember())
        obey_shell(self)
        self.transcript.shows_tokens = self._memory.shows_tokens
        self.transcript.show(self.desk.chat)
        self.prompt.candidates = partial(complete, self)
        try:
            self.prompt.past = self.desk.store.questions()
        except MetasdError as error:
            self.desk.store_error = str(error)
        self.prompt.focus()
        self.desk.open()
        self._refresh()
        self._begin_drawing()

    def on_unmount(self) -> None:
        """Free the models."""
        self.desk.close()

    # What is typed

    @on(Prompt.Sent)
    def _send(self, event: Prompt.Sent) -> None:
        if is_command(event.text):
            self.prompt.remember(event.text)
            self._complaining(lambda: self._run(*find_command(event.text)))
            return
        typed = event.text[event.text.startswith("//") :]
        if self._complaining(self.ask, self.prompt.with_files(typed), self.prompt.editing):
            self.prompt.end(event.text)
        else:
            self.prompt.put(event.text + self.prompt.text)

    def _run(self, command: Command, rest: str) -> None:
        command.run(self, rest)
        self.call_after_refresh(self._refresh)

    @on(TextArea.Changed, "Prompt")
    def _hint(self) -> None:
        if self.board.told == LEAVE:
            self.board.tell("")
        line = self.prompt.text
        is_command = line.startswith("/") and "\n" not in line
        self.board.hint(hints(self, line) if is_command else [])

    def action_command(self, name: str) -> None:
        """Run a command without its text, or let the user type it if it needs one."""
        command = BY_NAME[name]
        if command.usage and not command.usage.startswith("["):
            self.prompt.offer(f"/{name} ")
        else:
            self._complaining(self._run, command, "")

    def _complaining(self, work: Callable[..., None], *arguments: object) -> bool:
        """Do something, or say why it cannot be done and return False."""
        self.board.tell("")
        try:
            work(*arguments)
        except MetasdError as error:
            self.board.tell(str(error), is_error=True)
            return False
        finally:
            self._begin_drawing()
        return True

    # What happens

    def _begin_drawing(self) -> None:
        if not self.is_drawing and self.desk.is_busy:
            self.is_drawing = True
            self._draw_in(self._pace.begin())

    def _draw_in(self, pause_s: float) -> None:
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_timer(pause_s, self._draw)

    def _draw(self) -> None:
        """Show what happened; then wait so long that the screen takes its share of a core."""
        try:
            self._show(self.desk.poll())
        except NoMatches:  # the user leaves, and the widgets go before the timer
            return
        if self.desk.is_busy:
            self._draw_in(self._pace.pause_s())
            return
        self.is_drawing = False
        recorded = self.desk.next_recorded() if self.desk.setup else None
        if recorded is not None:
            self.prompt.post_message(Prompt.Sent(recorded))

    def _show(self, changes: Changes) -> None:
        desk = self.desk
        if changes.is_ready and desk.setup is not None:
            for arm in desk.setup.drafters:
                self.legend.sign(arm)
            self.transcript.greet(welcome(desk.setup))
        if changes.taken_back and not self.prompt.text:
            self.prompt.take_back()
        if changes.errors or changes.ended:
            self.board.tell("")  # it may no longer be true
        changes.notices = [in_chat(text) for text in changes.notices]
        changes.errors = [MetasdError(in_chat(str(error))) for error in changes.errors]
        self.transcript.draw(changes, desk)
        if not desk.is_answering or time.monotonic() - self._refreshed_s >= REFRESH_S:
            self._refresh()

    def _refresh(self) -> None:
        """Draw everything that is not the conversation."""
        if not self.query("#panel"):  # the user leaves
            return
        self._refreshed_s = time.monotonic()
        desk, memory = self.desk, self._memory
        has_panel = memory.shows_panel and self.size.width >= WIDE
        self.query_one("#side").display = has_panel
        if has_panel and desk.setup is not None:
            shown = panel(desk.live, desk.setup, self.legend, is_busy=desk.is_answering)
            redraw(self.query_one("#panel", Static), shown)
        self.board.draw(
            desk,
            self.legend,
            has_panel=has_panel,
            has_legend=memory.shows_tokens,
            end_key="" if self.transcript.follows else self.key_of("end"),
        )

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer nothing below another screen but to leave, and no panel that has no room."""
        if len(self.screen_stack) > 1 and self.screen.is_modal:
            return action != "command" or parameters in ALWAYS
        return parameters != ("panel",) or self.size.width >= WIDE

    def on_resize(self) -> None:
        """Fold or unfold the panel, once the new size is known."""
        self.call_later(self._refresh)
        self.call_later(self.refresh_bindings)

    def key_of(self, name: str) -> str:
        """Return the keys of a command as they are written on a keyboard."""
        return key_name(self.keymap[name])

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Yield Textual's commands and ours."""
        for command in COMMANDS:
            run = partial(self.action_command, command.name)
            title = f"/{command.name} · {command.summary}"
            yield SystemCommand(title, key_name(self.keymap.get(command.name, "")), run)
        yield from super().get_system_commands(screen)

    def _remember(self) -> None:
        self._memory.theme = self.theme
        write_memory(self._state_path, self._memory)

    # What commands ask for

    def ask(self, question: str, first: int | None = None, *, new_seed: bool = False) -> None:
        """Ask, in the place of the turns from `first` on if it is given. Raises MetasdError."""
        self.desk.ask(question, first=first, new_seed=new_seed)
        self.transcript.show(self.desk.chat)
        if self.desk.setup is None:
            self.board.tell("it is answered as soon as the models are loaded")

    def show_chat(self, chat: Conversation) -> None:
        """Go on with a conversation, which may be a new one. Raises UsageError."""
        self.desk.go_on_with(chat)
        self.prompt.reset()
        self.transcript.show(chat)

    def change_options(self, **changes: Any) -> None:
        """Use other options from the next answer on. Raises MetasdError."""
        try:
            self.board.tell(f"from the next answer on: {self.desk.change(**changes)}")
        except MetasdError as error:
            raise UsageError(in_chat(str(error))) from error
        self._begin_drawing()

    def copy(self, what: str, text: str) -> None:
        """Put a text where the terminal pastes from."""
        self.copy_to_clipboard(text)
        self.board.tell(
            f"{what}, {len(text):,} characters, sent to the terminal's clipboard; a terminal that "
            "takes none ignores it: then /export"
        )

    def show_help(self) -> None:
        """Show keys and commands."""
        self.push_screen(HelpScreen(self.keymap))

    def show_settings(self, first: str) -> None:
        """Show the settings, beginning with the one that is named."""
        policies = [line.removeprefix("/policy ") for line in complete(self, "/policy ")]
        self.push_screen(SettingsScreen(self.desk, policies, self.change_options, first))

    def show_chats(self, search: str) -> None:
        """Show the list of conversations."""

        def go_on(chat_id: int | None) -> None:
            if chat_id is not None:
                self._complaining(lambda: self.show_chat(self.desk.store.load(chat_id)))
            self._refresh()

        self.push_screen(ChatsScreen(self.desk, search), go_on)

    def stop(self) -> None:
        """Stop the answer, else put away what is being typed."""
        if self.desk.is_answering:
            self.desk.stop()
            self._draw_in(self._pace.begin())
        else:
            self.prompt.put_away()

    def action_help_quit(self) -> None:
        """Ctrl+C with nothing selected: stop the answer, else leave at the second press."""
        if self.desk.is_answering:
            self.stop()
        elif self.board.told == LEAVE:
            self.exit()
        else:
            self.board.tell(LEAVE)

    def switch_view(self) -> None:
        """Show answers as tokens or as Markdown."""
        self._memory.shows_tokens = not self._memory.shows_tokens
        self.transcript.choose_view(shows_tokens=self._memory.shows_tokens)
        self._remember()

    def switch_panel(self) -> None:
        """Show or fold the panel. Raises UsageError."""
        if self.size.width < WIDE:
            raise UsageError(
                f"/panel: the terminal has {self.size.width} columns, the panel needs {WIDE}; "
                "what it shows stands in one line here"
            )
        self._memory.shows_panel = not self._memory.shows_panel
        self._remember()
