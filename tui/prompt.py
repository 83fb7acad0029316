"""Where the user types: several lines, history, completion of commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from textual import events
from textual.message import Message

from tui.fields import TextField
from tui.show import plain


class Prompt(TextField):
    """Enter sends, Ctrl+J (Shift+Enter where the terminal tells them apart) begins a line."""

    @dataclass
    class Sent(Message):
        """The user pressed Enter."""

        text: str

    def __init__(self) -> None:
        super().__init__(placeholder="Ask something · Enter sends, Ctrl+J begins a line, /help")
        # A cursor that blinks draws the screen twice a second, also when nothing happens.
        self.cursor_blink = False
        self.past: list[str] = []
        """What was sent before, the newest last."""
        self.candidates: Callable[[str], Sequence[str]] = lambda _: ()
        """What a line with a command may become."""
        self.editing: int | None = None
        """The index of the turn that the question replaces."""
        self._attached: list[tuple[str, str]] = []
        """Names and texts of the files that go with the question."""
        self._sent: tuple[str, int | None, list[tuple[str, str]]] = "", None, []
        """What was sent last: the text, the turn it replaced, the files."""
        self._offered: Sequence[str] = ()
        """What Tab offered, one after the other."""
        self._place = 0
        """How far back in the history the text is; 0 is what is being typed."""
        self._draft = ""

    def put(self, text: str) -> None:
        """Replace the text, the cursor at its end."""
        self._offered = ()
        self.load_text(text)
        self.move_cursor(self.document.end)

    def offer(self, text: str) -> None:
        """Put a text in the place of what is being typed, which the history keeps."""
        if self.text.strip():
            self.remember(self.text)
        self.put(text)

    def put_away(self) -> None:
        """Leave everything as it was before something was typed; the history keeps the text."""
        self.offer("")
        self.reset()

    def end(self, typed: str) -> None:
        """Attach nothing and replace nothing: it was sent."""
        self.remember(typed)
        self._sent = typed, self.editing, self._attached
        self.reset()

    def take_back(self) -> None:
        """Offer again what was sent last, with its files and in the same place."""
        typed, self.editing, self._attached = self._sent
        self.put(typed)
        self._label()

    def reset(self) -> None:
        """Attach nothing, replace nothing."""
        self.editing, self._attached = None, []
        self._label()

    def change_turn(self, index: int, question: str) -> None:
        """Offer a question again, to replace the turn with this index."""
        self.offer(question)
        self.editing = index
        self._label()

    def attach(self, name: str, text: str) -> None:
        """Send a text with the question."""
        self._attached.append((name, text))
        self._label()

    def with_files(self, typed: str) -> str:
        """Return a question with what is attached to it."""
        return "".join(with_name(*each) for each in self._attached) + typed

    def _label(self) -> None:
        replaced = "" if self.editing is None else f"instead of question {self.editing + 1}"
        self.border_title = replaced and f"{replaced} · Esc leaves it as it is"
        sizes = "; ".join(f"{name}, {len(text):,} characters" for name, text in self._attached)
        # A string would be read as markup.
        self.border_subtitle = plain(sizes)

    def remember(self, text: str) -> None:
        """Add what was sent to the history."""
        self.past = [*(each for each in self.past if each != text), text]
        self._place = 0

    def on_key(self, event: events.Key) -> None:
        """Send, begin a line, complete.

        Not by bindings: with priority they would overtake the letters typed just before, and
        without it the text area would take the keys first.
        """
        if event.key == "enter":
            self._send()
        elif event.key in ("ctrl+j", "shift+enter", "alt+enter"):
            self.put_in("\n")
        elif event.key == "tab":
            self._complete()
        else:
            self._offered = ()
            return
        event.stop()
        event.prevent_default()

    def _send(self) -> None:
        if self.text.strip():
            text = self.text.strip("\n")
            self.put("")
            self.post_message(self.Sent(text))

    def _complete(self) -> None:
        """Complete a line as far as it is clear, then offer one candidate after the other."""
        offered, index = self._offered, 0
        if self.text in offered:
            index = (offered.index(self.text) + 1) % len(offered)
        else:
            offered = self.candidates(self.text)
            common = offered[0] if offered else ""
            while not all(each.startswith(common) for each in offered):
                common = common[:-1]
            if len(common) > len(self.text):
                self.put(common)
                return
        if offered:
            self.put(offered[index])
            self._offered = offered

    def action_cursor_up(self, select: bool = False) -> None:
        """Go up; from the first line, back in the history."""
        is_first = self.navigator.is_first_wrapped_line(self.cursor_location)
        if select or not is_first or self._place >= len(self.past):
            super().action_cursor_up(select)
            return
        self._recall(self._place + 1)

    def action_cursor_down(self, select: bool = False) -> None:
        """Go down; from the last line, forward in the history."""
        is_last = self.navigator.is_last_wrapped_line(self.cursor_location)
        if select or not is_last or self._place == 0:
            super().action_cursor_down(select)
            return
        self._recall(self._place - 1)

    def _recall(self, place: int) -> None:
        if self._place == 0:
            self._draft = self.text
        self._place = place
        self.put(self.past[-place] if place else self._draft)


def with_name(name: str, text: str) -> str:
    """Return a file as it stands before a question."""
    return f"{name}:\n```\n{text}\n```\n\n"
