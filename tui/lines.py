"""`metasd chat --lines`: the chat as lines of text, for pipes and screen readers.

Answers go to stdout as they come, all else to stderr. Conversations are saved as on the screen.
"""

from __future__ import annotations

import io
import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from metasd_local.cli.surroundings import DONE, FAILED, INTERRUPTED, WRONG_USAGE, Surroundings
from metasd_local.errors import MetasdError, UsageError
from metasd_local.events import TextPiece
from tui.choices import SETTINGS, as_typed, in_chat
from tui.conversation import Conversation
from tui.desk import Desk
from tui.prompt import with_name

if TYPE_CHECKING:
    from tui.app import ChatApp

LOOK_S = 0.02
"""How often what was said is looked for."""
MOST_LISTED = 20
NAMES = (
    *("help", "chats", "set", "clear", "regen", "undo", "system", "policy", "drafters", "stats"),
    *("read", "edit", "copy", "export", "exit"),
)
"""Commands that need no screen."""
LEAVE = "Ctrl-C once more, /exit or the end of the input leaves"


class Lines:
    """What `tui.app.ChatApp` is to a screen; commands take the one for the other.

    is_live: whether to answer the lines of stdin, not what the desk has recorded.
    """

    def __init__(self, desk: Desk, around: Surroundings, *, is_live: bool) -> None:
        self.output = around.output
        self.desk = desk
        self.transcript = self.prompt = self.board = self
        self._around = around
        self._stdin = None if around.stdin is None or around.stdin.closed else around.stdin
        self._is_live = is_live
        self._is_awaited = bool(self._stdin and self._stdin.isatty() and self._is_live)
        """Whether somebody types."""
        self._attached = ""
        self._editing: int | None = None
        """The index of the turn that the next question replaces."""
        self._change = ""
        """What the models were asked to change, in words."""
        self._num_interrupts = 0
        self._status = DONE
        self._is_leaving = False

    def run(self) -> int:
        """Answer line by line until the input ends, and return the exit status."""
        # A process in the background was told to ignore Ctrl-C, and goes on doing so.
        previous = signal.getsignal(signal.SIGINT)
        if previous != signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._interrupt)
        try:
            return self._run()
        except KeyboardInterrupt:
            return INTERRUPTED
        finally:
            self.desk.close()
            self.output.end()
            signal.signal(signal.SIGINT, previous)

    def _run(self) -> int:
        self.desk.open()
        self._wait()
        if self.desk.setup is None:
            return self._status
        if isinstance(self._stdin, io.TextIOWrapper) and not self._is_awaited:
            self._stdin.reconfigure(encoding="utf-8", errors="strict")
        while not self._is_leaving:
            try:
                text = self._read() if self._is_live else self.desk.next_recorded()
                if text is None:
                    break
                self._do(text)
            except MetasdError as error:
                self._complain(error)
            except KeyboardInterrupt:
                if not self._is_awaited or self._num_interrupts > 1:
                    raise
                self.output.line(f"\n{LEAVE}")
        return DONE if self._is_awaited else self._status

    def _interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        """Stop the answer at the first Ctrl-C, leave at the second."""
        self._num_interrupts += 1
        if self._num_interrupts > 1 or not self.desk.is_answering:
            raise KeyboardInterrupt
        self.desk.stop()

    def _read(self) -> str | None:
        """Return the next question; a backslash at the end of a line continues it."""
        text = ""
        while (line := self._read_line("… " if text else "> ")) is not None:
            text += line
            if not text.endswith("\\"):
                return text
            text = text[:-1] + "\n"
        return text or None

    def _read_line(self, mark: str) -> str | None:
        stdin = self._stdin
        if stdin is None:
            return None
        try:
            if stdin is sys.stdin and self._is_awaited and self._around.stdout.isatty():
                # For `input`: lines of any length, a history, pastes of several lines.
                import readline  # noqa: F401

                line = input(mark) + "\n"
            else:
                if self._is_awaited:
                    self._around.stderr.write(mark)
                    self._around.stderr.flush()
                line = stdin.readline()
        except EOFError:
            return None
        except UnicodeDecodeError as error:
            self._is_leaving = True
            self._status = WRONG_USAGE
            raise UsageError(f"stdin is no UTF-8 text: {error}") from error
        if self._is_awaited:
            self._num_interrupts = 0
        return line.removesuffix("\n") if line else None

    def _do(self, text: str) -> None:
        if not text.strip():
            return
        if text.startswith("/"):
            # Imported when needed: it loads what draws the screen.
            from tui.commands import find_command, is_command

            if is_command(text):
                command, rest = find_command(text)
                if command.name not in NAMES:
                    raise UsageError(f"/{command.name} needs the screen (see /help)")
                command.run(cast("ChatApp", self), rest)
                self._wait()
                return
            text = text[text.startswith("//") :]
        self.ask(self._attached + text, self._editing)
        self._attached, self._editing = "", None
        self._wait()

    def _wait(self) -> None:
        """Show what happens until nothing does."""
        while True:
            is_busy = self.desk.is_busy
            changes = self.desk.poll()
            if self.desk.setup is None:
                self.output.progress("loading", self.desk.loaded)
            for text in changes.notices:
                self.output.message(in_chat(text))
            self.output.show(TextPiece(changes.answer))
            for error in changes.errors:
                self._complain(error)
            if changes.is_ready and self._change:
                self.say(f"from the next answer on: {self._change}")
                self._change = ""
            if changes.ended is not None:
                thought = len(changes.ended.reasoning)
                hidden = f" · reasoning, {thought:,} characters, not shown" if thought else ""
                self.output.line(changes.ended.figures + hidden)
            if not is_busy:
                self.output.end()
                return
            time.sleep(LOOK_S)

    def _complain(self, error: MetasdError) -> None:
        is_wrong = self.desk.setup is None and isinstance(error, UsageError)
        self._status = self._status or (WRONG_USAGE if is_wrong else FAILED)
        self.output.message(str(error) if self.desk.setup is None else in_chat(str(error)))

    # What commands ask for, as of the application

    def say(self, text: str) -> None:
        """Show what a command has to say."""
        self.output.line(text)

    tell = say

    def ask(self, question: str, first: int | None = None, *, new_seed: bool = False) -> None:
        """Ask, in the place of the turns from `first` on if it is given. Raises MetasdError."""
        self.desk.ask(question, first=first, new_seed=new_seed)

    def offer(self, text: str) -> None:
        """Show a question that is no longer part of the conversation."""
        self.say(f"taken back: {text}")

    def change_turn(self, index: int, question: str) -> None:
        """Let the next question replace the turn with this index."""
        self._editing = index
        self.say(f"the next line takes the place of question {index + 1}: {question}")

    def copy(self, _what: str, text: str) -> None:
        """Show what would be copied."""
        self.output.show(TextPiece(text))
        self.output.end()

    def attach(self, name: str, text: str) -> None:
        """Send a text with the next question."""
        self._attached += with_name(name, text)
        self.say(f"{name}, {len(text):,} characters, goes with the next question")

    def show_chat(self, chat: Conversation) -> None:
        """Go on with a conversation, which may be a new one."""
        self.desk.go_on_with(chat)
        self._editing, number = None, len(chat.turns)
        name = f"conversation {chat.title}" if chat.turns else "a new conversation"
        self.say(f"{name}, {number} {'question' if number == 1 else 'questions'}")

    def change_options(self, **changes: Any) -> None:
        """Use other options from the next answer on. Raises MetasdError."""
        self._change = self.desk.change(**changes)

    def show_settings(self, _first: str) -> None:
        """Show the settings."""
        for option in SETTINGS.values():
            value = getattr(self.desk.options, option.field)
            if option.name == "system":
                value = self.desk.chat.system
            said = f"default ({option.default or 'none'})" if value is None else as_typed(value)
            self.say(f"{option.name:15} {said}")

    def show_help(self) -> None:
        """Show the commands."""
        from tui.commands import BY_NAME

        for name in NAMES:
            usage = "[N | SEARCH]" if name == "chats" else BY_NAME[name].usage
            self.say(f"{f'/{name} {usage}':32} {BY_NAME[name].summary}")
        self.say(f"A backslash at the end of a line continues it; {LEAVE}.")

    def show_chats(self, search: str) -> None:
        """Show a list of conversations, or go on with the one whose number is given."""
        if search.isdecimal():
            self.show_chat(self.desk.store.load(int(search)))
            return
        for entry in self.desk.store.entries(search)[:MOST_LISTED]:
            self.say(f"/chats {entry.id}  {entry.title} ({entry.num_turns})")

    def exit(self) -> None:
        """Read no more lines."""
        self._is_leaving = True
