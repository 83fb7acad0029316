"""Text that grows at its end, painted so that what is final is never touched again."""

from __future__ import annotations

from textual.content import Content
from textual.strip import Strip

from tui.show import NOTHING, Painter, Piece


class Rows:
    """Painted text: its rows, and its lines, as they are copied, with their numbers from `line`."""

    is_provisional = False
    """Whether it would look otherwise if it had been there at once."""

    def __init__(self, painter: Painter, line: int) -> None:
        self.rows: list[Strip] = []
        self.lines: list[str] = []
        self.line = line
        self._painter = painter
        self._final = (0, 0)
        """How many rows and lines are final."""

    def add(self, *pieces: Piece) -> None:
        """Paint texts below what there is."""
        for piece in pieces:
            self.rows += self._painter.paint(piece, self.line + len(self.lines))
            self.lines += piece.content.plain.split("\n")

    def keep(self) -> None:
        """Declare all there is final."""
        self._final = len(self.rows), len(self.lines)

    def cut(self) -> None:
        """Remove what is not final."""
        del self.rows[self._final[0] :], self.lines[self._final[1] :]


class SourceText(Rows):
    """Text as it is: only its last line is painted again."""

    def __init__(self, painter: Painter, line: int, kind: str = "answer") -> None:
        super().__init__(painter, line)
        self._kind = kind
        self._tail = NOTHING
        """The last line."""

    def grow(self, content: Content) -> None:
        """Append text."""
        self.cut()
        *lines, self._tail = (self._tail + content).split(allow_blank=True)
        self.add(*(Piece(line, kind=self._kind) for line in lines))
        self.keep()
        if self._tail:
            self.add(Piece(self._tail, kind=self._kind))
