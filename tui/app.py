"""The chat application: what is where, which keys do what, and drawing what happened."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual import getters, on
from textual.app import App, ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.css.query import NoMatches
from textual.screen import Screen
from textual.widgets import Footer, Static, TextArea

from metasd_local.errors import MetasdError, UsageError
from metasd_local.options import Options
from tui.board import Board
from tui.commands import COMMANDS, Command, complete, find_command, hints, is_command
from tui.complaints import complaining
from tui.conversation import Conversation
from tui.desk import Changes, Desk
from tui.editor import edit_outside
from tui.help import help_text
from tui.marks import Legend
from tui.memory import read_memory, write_memory
from tui.panel import panel
from tui.prompt import Prompt
from tui.screens import ChatsScreen, HelpScreen
from tui.show import plain, redraw
from tui.transcript import Transcript
from tui.welcome import Welcome

if TYPE_CHECKING:
    from textual.widgets import Markdown

    from metasd_local.compose import OpenPool

FASTEST_DRAW_S = 1 / 15
SLOWEST_DRAW_S = 1.0
DRAWING_SHARE = 0.1
"""The share of a core that the screen may take while an answer grows."""
WIDE = 120
"""Columns from which the panel has room."""


class ChatApp(App[None]):
    """A chat with one pool of models.

    open_pool: as `compose.open_pool`, with `on_progress` its only keyword; called in the thread
    that holds the models. policies: names to complete after `/policy`.
    """

    TITLE = "metasd"
    CSS_PATH = "chat.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop", id="stop", key_display="Esc"),
        Binding("f1", "help", "Help", id="help", priority=True),
        Binding("f2", "switch_view", "Tokens", id="view", priority=True),
        Binding("f3", "switch_panel", "Panel", id="panel", priority=True),
        Binding("f4", "chats", "Chats", id="chats", priority=True),
        Binding("ctrl+n", "new", "New", id="new", priority=True),
        Binding("ctrl+r", "regenerate", "Again", id="regenerate"),
        Binding("ctrl+y", "copy", "Copy", id="copy", show=False, priority=True),
        Binding("ctrl+o", "reasoning", "Reasoning", id="reasoning", show=False, priority=True),
        Binding("ctrl+g", "editor", "Editor", id="editor", show=False, priority=True),
        Binding("ctrl+q", "quit", "Quit", id="quit", priority=True),
    ]

    prompt = getters.query_one(Prompt)
    transcript = getters.query_one(Transcript)
    board = getters.query_one(Board)

    def __init__(
        self,
        open_pool: Callable[..., OpenPool],
        options: Options,
        pool: str | None,
        *,
        chats_path: Path,
        state_path: Path,
        policies: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.desk = Desk(open_pool, options, chats_path)
        self.policies = policies
        self.legend = Legend()
        self._pool = pool
        self._state_path = state_path
        self._memory = read_memory(state_path)
        self.is_drawing = False
        """Whether the screen is behind what happened."""
        self._could_stop = False
        self._drawn_s = 0.0
        """CPU seconds of this thread at the last drawing."""
        self._change = ""
        """The change of options that the worker was asked for, in words."""

    def compose(self) -> ComposeResult:
        """Yield the conversation and the panel, and below them what is one line each."""
        with Horizontal(id="middle"):
            yield Transcript(self.legend)
            with VerticalScroll(id="side", can_focus=False):
                yield Static(id="panel")
        yield Board()
        yield Prompt()
        yield Footer(compact=True)

    async def on_mount(self) -> None:
        """Show the empty conversation and begin to load."""
        if self._memory.theme in self.available_themes:
            self.theme = self._memory.theme
        self.theme_changed_signal.subscribe(self, lambda _: self._remember())
        self.transcript.shows_tokens = self._memory.shows_tokens
        self.prompt.candidates = partial(complete, self)
        try:
            self.prompt.past = self.desk.store.questions()
        except MetasdError as error:
            self.desk.store_error = str(error)
        self.prompt.focus()
        self.desk.open(self._pool)
        self._refresh()
        self._begin_drawing()

    async def on_unmount(self) -> None:
        """Free the models."""
        self.desk.close()

    # What is typed

    @on(Prompt.Sent)
    async def _send(self, event: Prompt.Sent) -> None:
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

    async def _ask(self, typed: str) -> None:
        prompt, first = self.prompt, self.prompt.editing
        turn = self.desk.ask(prompt.with_files(typed), first=first)
        prompt.was_sent(typed)
        if first is not None:
            await self.transcript.show(self.desk.chat.turns[:-1])
        await self.transcript.add(turn)
        self._begin_drawing()

    @on(Welcome.Chosen)
    def _offer(self, event: Welcome.Chosen) -> None:
        self.prompt.focus().put(event.text)

    @on(TextArea.Changed)
    def _hint(self) -> None:
        line = self.prompt.text
        is_command = line.startswith("/") and "\n" not in line
        self.board.hint(hints(self, line) if is_command else [])

    # What happens

    def _begin_drawing(self) -> None:
        if not self.is_drawing and self.desk.is_busy:
            self.is_drawing = True
            self._drawn_s = time.thread_time()
            self.set_timer(FASTEST_DRAW_S, self._draw)

    async def _draw(self) -> None:
        """Show what happened; then wait so long that the screen takes its share of a core."""
        try:
            await self._show(self.desk.poll())
        except NoMatches:  # the user leaves, and the widgets go before the timer
            return
        now_s = time.thread_time()
        cost_s, self._drawn_s = now_s - self._drawn_s, now_s
        if self.desk.is_busy:
            pause_s = min(max(cost_s / DRAWING_SHARE, FASTEST_DRAW_S), SLOWEST_DRAW_S)
            self.set_timer(pause_s, self._draw)
        else:
            self.is_drawing = False

    async def _show(self, changes: Changes) -> None:
        desk = self.desk
        if changes.is_ready and desk.setup is not None:
            for arm in desk.setup.drafters:
                self.legend.sign(arm)
            if self._change:
                self.notify(f"changed for the next answer: {self._change}", markup=False)
                self._change = ""
            if not desk.chat.turns:
                await self._show_welcome()
        if changes.was_taken_back:
            self.prompt.take_back()
        self._change = "" if changes.errors else self._change
        await self.transcript.draw(changes, desk)
        self._refresh()

    def _refresh(self) -> None:
        """Draw everything that is not the conversation."""
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
            follows=self.transcript.follows,
        )
        if self._can_stop != self._could_stop:
            self._could_stop = self._can_stop
            self.refresh_bindings()

    @property
    def _can_stop(self) -> bool:
        return self.desk.is_answering or self.prompt.editing is not None

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer to stop only what can be stopped, and below another screen nothing but to leave."""
        if len(self.screen_stack) > 1 and self.screen.is_modal:
            return action in ("quit", "help_quit", "command_palette")
        return action != "stop" or self._can_stop

    def on_resize(self) -> None:
        """Fold or unfold the panel, once the new size is known."""
        self.call_later(self._refresh)

    async def _show_welcome(self) -> None:
        setup = self.desk.setup
        await self.transcript.show([], *([Welcome(setup)] if setup else ()))

    def complain(self, text: str) -> None:
        """Say what was wrong."""
        self.notify(text, severity="error", markup=False)

    def on_markdown_link_clicked(self, event: Markdown.LinkClicked) -> None:
        """Show where a link goes and copy it; nothing is opened that a model said."""
        self.copy_to_clipboard(event.href)
        self.notify(plain(event.href).plain, title="link copied", markup=False)

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
        said = (
            f"{name} = {'default' if value in (None, ()) else value}"
            for name, value in changes.items()
        )
        self._change = ", ".join(said)
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

    def action_stop(self) -> None:
        """Stop the answer, or leave a question as it was."""
        if self.desk.is_answering:
            self.desk.stop()
        elif self.prompt.editing is not None:
            self.prompt.editing = None
            self.prompt.put("")
        self._refresh()

    def action_help_quit(self) -> None:
        """Ctrl+C with nothing selected: stop the answer, else say how to leave."""
        if self.desk.is_answering:
            self.action_stop()
        else:
            self.notify("Ctrl+Q leaves; selected text would have been copied", markup=False)

    @complaining
    async def action_new(self) -> None:
        """Begin a new conversation."""
        await self.show_chat(Conversation(system=self.desk.options.system))

    def action_help(self) -> None:
        """Show keys and commands."""
        self.push_screen(HelpScreen(help_text()))

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
        if self.size.width < WIDE:
            self.notify(f"the panel needs {WIDE} columns; below, it is one line", markup=False)
            return
        self._memory.shows_panel = not self._memory.shows_panel
        self._remember()
        self._refresh()

    def action_reasoning(self) -> None:
        """Open or fold the reasoning of all answers."""
        for view in self.transcript.views:
            view.toggle_reasoning()

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
        yield SystemCommand("View", "answers as Markdown or tokens (F2)", self.action_switch_view)
        yield SystemCommand("Panel", "show or fold it (F3)", self.action_switch_panel)
        yield SystemCommand("Reasoning", "open or fold it (Ctrl+O)", self.action_reasoning)
        yield SystemCommand("Editor", "write the question in $EDITOR", self.action_editor)
        yield from super().get_system_commands(screen)

    @complaining
    async def run_command(self, command: Command) -> None:
        """Run a command without its text, or let the user type it if nothing happens without."""
        if command.usage and not command.usage.startswith(("[N", "[FILE")):
            self.prompt.put(f"/{command.name} ")
            self.prompt.focus()
            return
        await command(self)

    def _remember(self) -> None:
        self._memory.theme = self.theme
        write_memory(self._state_path, self._memory)
