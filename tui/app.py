"""The chat application: what is where, which keys do what, and drawing what happened."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual import getters, on
from textual.app import App, ComposeResult, SystemCommand
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.css.query import NoMatches
from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Footer, Static, TextArea

from metasd_local.errors import MetasdError, UsageError
from metasd_local.options import Options
from tui.board import Board
from tui.commands import COMMANDS, Command, complete, find_command, hints, is_command
from tui.complaints import complaining
from tui.conversation import Conversation
from tui.desk import Changes, Desk
from tui.help import help_text
from tui.jobs import obey_shell, suspend
from tui.keys import KEYS, KEYS_BY_NAME, key_name
from tui.marks import Legend
from tui.memory import read_memory, write_memory
from tui.outside import edit_outside
from tui.pace import Pace
from tui.panel import panel
from tui.prompt import Prompt
from tui.screens import ChatsScreen, HelpScreen
from tui.settings import SettingsScreen
from tui.show import redraw
from tui.transcript import Transcript
from tui.welcome import Welcome

if TYPE_CHECKING:
    from metasd_local.compose import OpenPool

REFRESH_S = 0.25
"""How often figures change that are read, not followed."""
ACTIONS = {key.action.partition("(")[0] for key in KEYS}
ALWAYS = ("quit", "command_palette")
COMPLAINT_S = 10.0
"""How long a complaint stays on the screen."""
WIDE = 120
"""Columns from which the panel has room."""


class ChatApp(App[None]):
    """A chat with one pool of models.

    open_pool: as `compose.open_pool`, with `on_progress` its only keyword; called in the thread
    that holds the models. policies: names to complete after `/policy`. keymap: keys by the id of
    what they do, as `keys.read_keymap` returns them.
    """

    TITLE = "metasd"
    CSS_PATH = "chat.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [*KEYS]

    prompt = getters.query_one(Prompt)
    transcript = getters.query_one(Transcript)
    board = getters.query_one(Board)

    def __init__(
        self,
        open_pool: Callable[..., OpenPool],
        options: Options,
        *,
        chats_path: Path | None,
        state_path: Path,
        policies: Sequence[str] = (),
        keymap: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.keymap = dict(keymap or {})
        self.set_keymap(self.keymap)
        self.desk = Desk(open_pool, options, chats_path)
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
            with Vertical(id="conversation"):
                yield Transcript(self.legend, self.key_of("reasoning"))
            with VerticalScroll(id="side", can_focus=False):
                yield Static(id="panel")
        yield Board()
        yield Prompt()
        yield Footer(compact=True, show_command_palette=False)

    async def on_mount(self) -> None:
        """Show the empty conversation and begin to load."""
        if self._memory.theme in self.available_themes:
            self.theme = self._memory.theme
        self.theme_changed_signal.subscribe(self, lambda _: self._remember())
        obey_shell(self)
        self.transcript.shows_tokens = self._memory.shows_tokens
        self.prompt.candidates = partial(complete, self)
        try:
            self.prompt.past = self.desk.store.questions()
        except MetasdError as error:
            self.desk.store_error = str(error)
        self.prompt.focus()
        self.desk.open()
        self._refresh()
        self._begin_drawing()

    async def on_unmount(self) -> None:
        """Free the models."""
        self.desk.close()

    # What is typed

    @on(Prompt.Sent)
    async def _send(self, event: Prompt.Sent) -> None:
        self.clear_notifications()
        try:
            if is_command(event.text):
                self.prompt.remember(event.text)
                command, rest = find_command(event.text)
                await command(self, rest)
            else:
                await self._ask(event.text[event.text.startswith("//") :])
        except MetasdError as error:
            self.prompt.put(event.text + self.prompt.text)
            self.complain(str(error))
        self._begin_drawing()

    async def _ask(self, typed: str) -> None:
        prompt, first = self.prompt, self.prompt.editing
        turn = self.desk.ask(prompt.with_files(typed), first=first)
        prompt.was_sent(typed)
        if first is not None:
            await self.transcript.show(self.desk.chat.turns[:-1])
        await self.transcript.add(turn)

    @on(Welcome.Chosen)
    def _offer(self, event: Welcome.Chosen) -> None:
        self.prompt.focus().put(event.text)

    @on(TextArea.Changed, "Prompt")
    def _hint(self) -> None:
        line = self.prompt.text
        is_command = line.startswith("/") and "\n" not in line
        self.board.hint(hints(self, line) if is_command else [])

    # What happens

    def _begin_drawing(self) -> None:
        if not self.is_drawing and self.desk.is_busy:
            self.is_drawing = True
            self._draw_in(self._pace.begin())

    def _draw_in(self, pause_s: float) -> None:
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_timer(pause_s, self._draw)

    async def _draw(self) -> None:
        """Show what happened; then wait so long that the screen takes its share of a core."""
        try:
            await self._show(self.desk.poll())
        except NoMatches:  # the user leaves, and the widgets go before the timer
            return
        if self.desk.is_busy:
            self._draw_in(self._pace.pause_s())
        else:
            self.is_drawing = False

    async def _show(self, changes: Changes) -> None:
        desk = self.desk
        if changes.is_ready and desk.setup is not None:
            for arm in desk.setup.drafters:
                self.legend.sign(arm)
            if not desk.chat.turns:
                await self._show_welcome()
        if changes.was_taken_back:
            self.prompt.take_back()
        await self.transcript.draw(changes, desk)
        if not desk.is_answering or time.monotonic() - self._refreshed_s >= REFRESH_S:
            self._refresh()

    def _refresh(self) -> None:
        """Draw everything that is not the conversation."""
        self._refreshed_s = time.monotonic()
        desk, memory = self.desk, self._memory
        has_panel = memory.shows_panel and self.size.width >= WIDE
        self.query_one("#side").display = has_panel
        if has_panel and desk.setup is not None:
            redraw(self.query_one("#panel", Static), panel(desk.live, desk.setup, self.legend))
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
            return action in ALWAYS or action not in ACTIONS
        return action != "switch_panel" or self.size.width >= WIDE

    def on_resize(self) -> None:
        """Fold or unfold the panel, once the new size is known."""
        self.call_later(self._refresh)

    def key_of(self, name: str) -> str:
        """Return the keys of an action, given its id, as they are written on a keyboard."""
        return key_name(self.keymap.get(name, KEYS_BY_NAME[name]))

    async def _show_welcome(self) -> None:
        setup = self.desk.setup
        await self.transcript.show([], *([Welcome(setup)] if setup else ()))

    def complain(self, text: str) -> None:
        """Say what was wrong."""
        self.clear_notifications()
        self.notify(text, severity="error", timeout=COMPLAINT_S, markup=False)

    # What the user can do, by key, palette or command

    async def show_chat(self, chat: Conversation) -> None:
        """Go on with another conversation."""
        self.desk.check_idle()
        self.desk.chat = chat
        self.desk.live.begin()
        self.prompt.editing = None
        if chat.turns:
            await self.transcript.show(chat.turns)
        else:
            await self._show_welcome()
        self._refresh()

    def change_options(self, **changes: Any) -> None:
        """Use other options from the next answer on. Raises MetasdError."""
        self.desk.change(**changes)
        said = []
        for name, value in changes.items():
            values = value if isinstance(value, tuple) else ["default" if value is None else value]
            said.append(f"{name} = {', '.join(map(str, values))}")
        self.clear_notifications()
        self.notify(f"from the next answer on: {'; '.join(said)}", markup=False)
        self._begin_drawing()

    @complaining
    async def action_regenerate(self) -> None:
        """Answer the last question again."""
        turns = self.desk.chat.turns
        if not turns:
            raise UsageError("there is no question yet")
        turn = self.desk.ask(turns[-1].question, first=len(turns) - 1, new_seed=True)
        self.prompt.nothing_sent()
        await self.transcript.show(turns[:-1])
        await self.transcript.add(turn)
        self._begin_drawing()

    @complaining
    async def action_undo(self) -> None:
        """Take the last question back into the prompt."""
        turn = self.desk.undo()
        await self.transcript.show(self.desk.chat.turns)
        self.prompt.put(turn.question)
        self._begin_drawing()

    def action_stop(self) -> None:
        """Stop the answer, else put away what is being typed."""
        if self.desk.is_answering:
            self.desk.stop()
            self._draw_in(self._pace.begin())
        else:
            self.prompt.put_away()
        self._refresh()

    def action_help_quit(self) -> None:
        """Ctrl+C with nothing selected: stop the answer, else say how to leave."""
        if self.desk.is_answering:
            self.action_stop()
        else:
            self.notify(
                f"{self.key_of('quit')} leaves; selected text would have been copied", markup=False
            )

    @complaining
    async def action_new(self) -> None:
        """Begin a new conversation."""
        await self.show_chat(Conversation(system=self.desk.options.system))

    def action_help(self) -> None:
        """Show keys and commands."""
        self.push_screen(HelpScreen(help_text(self.keymap)))

    def action_settings(self, first: str = "") -> None:
        """Show the settings, beginning with the one that is named."""
        policies = [line.removeprefix("/policy ") for line in complete(self, "/policy ")]
        self.push_screen(SettingsScreen(self.desk, policies, self.change_options, first))

    def action_chats(self) -> None:
        """Show the list of conversations."""
        self.push_screen(ChatsScreen(self.desk.store, self.desk.chat.id), self._go_on)

    @complaining
    async def _go_on(self, chat_id: int | None) -> None:
        if chat_id is not None:
            await self.show_chat(self.desk.store.load(chat_id))

    async def action_switch_view(self) -> None:
        """Show answers as tokens or as Markdown."""
        self._memory.shows_tokens = not self._memory.shows_tokens
        await self.transcript.choose_view(shows_tokens=self._memory.shows_tokens)
        self._remember()
        self._refresh()

    def action_switch_panel(self) -> None:
        """Show or fold the panel."""
        self._memory.shows_panel = not self._memory.shows_panel
        self._remember()
        self._refresh()

    def action_reasoning(self) -> None:
        """Open or fold the reasoning of all answers."""
        self.transcript.toggle_reasoning()

    async def action_copy(self) -> None:
        """Copy the last code block, else the last answer."""
        await self.run_command(find_command("/copy")[0])

    @complaining
    async def action_editor(self) -> None:
        """Write the question in $VISUAL or $EDITOR."""
        self.prompt.put(edit_outside(self, self.prompt.text))

    def action_scroll_page(self, direction: int) -> None:
        """Scroll the conversation by a page."""
        self.transcript.turn_page(direction)
        self._refresh()

    def action_follow(self) -> None:
        """Go to the end of the conversation and stay there."""
        self.transcript.follow()
        self._refresh()

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Yield Textual's commands and ours."""
        for command in COMMANDS:
            title = f"/{command.name} {command.usage}".rstrip()
            yield SystemCommand(title, command.summary, partial(self.run_command, command))
        with_command = {command.action for command in COMMANDS} | {"quit", "command_palette"}
        for key in KEYS:
            if key.action not in with_command:
                run = partial(self.run_action, f"app.{key.action}")
                yield SystemCommand(key.description, key.tooltip, run)
        if os.name != "nt":
            yield SystemCommand("Suspend", "go back to the shell, where `fg` goes on", suspend)
        yield from super().get_system_commands(screen)

    @complaining
    async def run_command(self, command: Command) -> None:
        """Run a command without its text, or let the user type it if it needs one."""
        if command.usage and not command.usage.startswith("["):
            self.prompt.put(f"/{command.name} ")
            self.prompt.focus()
            return
        await command(self)

    def _remember(self) -> None:
        self._memory.theme = self.theme
        write_memory(self._state_path, self._memory)
