"""What is shown and where: results on stdout, everything else on stderr, never mixed in a line."""

from __future__ import annotations

from typing import TextIO

from metasd_local.cli.surroundings import Surroundings
from metasd_local.events import Event, Notice, TextPiece


class Output:
    """Shows one answer: text as it comes on stdout, all else on stderr, never mixed in a line."""

    def __init__(self, around: Surroundings, *, streams: bool) -> None:
        from metasd_local.text import printable

        self.answer = ""
        self.reasoning = ""
        self._printable = printable
        self._stdout = around.stdout
        self._stderr = around.stderr
        self._streams = streams
        self._out_is_terminal = around.stdout.isatty()
        self._err_is_terminal = around.stderr.isatty()
        self._dims = not around.environment.get("NO_COLOR")
        self._num_columns = 0
        """Of the progress that is shown."""
        self._open: TextIO | None = None
        """The stream whose last line is not finished."""

    def progress(self, what: str, share: float | None = None) -> None:
        """Show how much of something is done, if somebody is looking."""
        if self._err_is_terminal:
            text = self._printable(what) + ("" if share is None else f" {share:4.0%}")
            self._stderr.write(f"\r{text.ljust(self._num_columns)}")
            self._stderr.flush()
            self._num_columns = len(text)

    def show(self, event: Event) -> None:
        """Show what an event has to say to a reader."""
        if isinstance(event, Notice):
            self.message(event.text)
        elif isinstance(event, TextPiece) and event.kind == "reasoning":
            self.reasoning += event.text
            self._show_reasoning(event.text)
        elif isinstance(event, TextPiece):
            self.answer += event.text
            if self._streams:
                text = self._printable(event.text) if self._out_is_terminal else event.text
                self._write(self._stdout, text, text)

    def _show_reasoning(self, text: str) -> None:
        if self._streams and self._err_is_terminal:
            text = self._printable(text)
            self._write(self._stderr, text, f"\x1b[2m{text}\x1b[22m" if self._dims else text)

    def _write(self, stream: TextIO, text: str, dressed: str) -> None:
        if not text:
            return
        if self._open is not stream:
            self.end()
        stream.write(dressed)
        stream.flush()
        self._open = None if text.endswith("\n") else stream

    def message(self, text: str) -> None:
        """Say something to the user, on a line of its own."""
        self.line(f"metasd: {text}")

    def line(self, text: str) -> None:
        """Write a line to stderr."""
        self.end()
        self._stderr.write(self._printable(text) + "\n")
        self._stderr.flush()

    def end(self) -> None:
        """Finish the line that is open and erase the progress."""
        if self._num_columns:
            self._stderr.write("\r\x1b[2K")
            self._stderr.flush()
            self._num_columns = 0
        if self._open is not None:
            stream, self._open = self._open, None
            stream.write("\n")
            stream.flush()
