"""What can be typed into: it holds nothing that a terminal would obey, wherever it comes from."""

from __future__ import annotations

from textual import events
from textual.widgets import Input, TextArea

from metasd_local.text import printable


class LineField(Input):
    """One line."""

    def validate_value(self, value: str) -> str:
        """Return what may be shown of a text."""
        return printable(value).replace("\n", " ")


class TextField(TextArea):
    """Several lines."""

    def __init__(self, text: str = "", **keywords: object) -> None:
        super().__init__(
            printable(text),
            tab_behavior="focus",
            highlight_cursor_line=False,
            **keywords,  # type: ignore[arg-type]
        )

    def load_text(self, text: str) -> None:
        """Replace the text."""
        super().load_text(printable(text))

    def put_in(self, text: str) -> None:
        """Replace what is selected, or insert where the cursor is."""
        self.replace(printable(text), *self.selection, maintain_selection_offset=False)

    def action_paste(self) -> None:
        """Take what was copied here, from an answer for instance."""
        self.put_in(self.app.clipboard)

    def on_paste(self, event: events.Paste) -> None:
        """Take pasted text as it is, but for what a terminal would obey."""
        event.prevent_default()
        event.stop()
        self.put_in(event.text.replace("\r\n", "\n").replace("\r", "\n"))
