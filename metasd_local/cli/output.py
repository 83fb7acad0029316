"""What is shown and where: results on stdout, everything else on stderr, never mixed in a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from metasd_local.events import Event, Notice, TextPiece
from metasd_local.text import printable

if TYPE_CHECKING:
    from metasd_local.cli.surroundings import Surroundings


class Output:
    """Knows which line is open on which stream; a process has one, see `Surroundings.output`."""

    def __init__(self, around: Surroundings) -> None:
        self._stdout = around.stdout
        self._stderr = around.stderr
        self._out_is_terminal = around.stdout.isatty()
        self._err_is_terminal = around.stderr.isatty()
        self._dims = not around.environment.get("NO_COLOR")
        self._progress = ""
        """What is shown of it."""
        self._open: TextIO | None = None
        """The stream whose last line is not finished."""

    def report(
        self, document: Mapping[str, Any], lines: Iterable[str], *, as_json: bool | None
    ) -> None:
        """Write a result: the one or the other."""
        if as_json:
            text = json.dumps(document, indent=1, allow_nan=False)
        else:
            text = "\n".join(map(printable, lines))
        self.end()
        self._stdout.write(text + "\n")

    def progress(self, what: str, share: float | None = None) -> None:
        """Show how much of something is done, if somebody is looking."""
        if self._err_is_terminal:
            text = printable(what) + ("" if share is None else f" {share:4.0%}")
            if text == self._progress:
                return
            self._stderr.write(f"\r{text.ljust(len(self._progress))}")
            self._stderr.flush()
            self._progress = text

    def show(self, event: Event) -> None:
        """Show what an event has to say to a reader: of an answer every piece as it comes."""
        if isinstance(event, Notice):
            self.message(event.text)
        elif isinstance(event, TextPiece) and event.kind == "answer":
            text = printable(event.text) if self._out_is_terminal else event.text
            self._write(self._stdout, text, text)
        elif isinstance(event, TextPiece) and self._err_is_terminal:
            text = printable(event.text)
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
        self._stderr.write(printable(text) + "\n")
        self._stderr.flush()

    def end(self) -> None:
        """Finish the line that is open and erase the progress."""
        if self._progress:
            self._stderr.write("\r\x1b[2K")
            self._stderr.flush()
            self._progress = ""
        if self._open is not None:
            stream, self._open = self._open, None
            stream.write("\n")
            stream.flush()
