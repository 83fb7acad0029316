"""Text that grows at its end, painted so that what is final is never touched again."""

from __future__ import annotations

from textual.content import Content
from textual.strip import Strip

from tui.show import NOTHING, Painter, Piece, wrap


class Rows:
    """Painted text: its rows, and its lines, as they are copied, with their numbers from `line`."""

    def __init__(self, painter: Painter, line: int) -> None:
        self.rows: list[Strip] = []
        self.lines: list[str] = []
        self.line = line
        self._painter = painter

    def add(self, piece: Piece) -> None:
        """Paint a text below what there is."""
        self.rows += self._painter.paint(piece, self.line + len(self.lines))
        self.lines += piece.content.plain.split("\n")

    def cut(self, size: tuple[int, int]) -> None:
        """Remove what is below the first rows and lines."""
        del self.rows[size[0] :], self.lines[size[1] :]

    @property
    def size(self) -> tuple[int, int]:
        """Return how many rows and lines there are."""
        return len(self.rows), len(self.lines)


class SourceText(Rows):
    """Text as it is: only the last row, where a word may still grow, is painted again."""

    def __init__(self, painter: Painter, line: int, kind: str = "answer") -> None:
        super().__init__(painter, line)
        self._kind = kind
        self._tail = NOTHING
        """What the last row shows."""
        self._start = 0
        """Where in its line that begins."""
        self._num_final = 0

    def grow(self, content: Content) -> None:
        """Append text."""
        del self.rows[self._num_final :]
        self.lines = self.lines or [""]
        number = self.line + len(self.lines) - 1
        begun, *others = content.plain.split("\n")
        self.lines[-1] += begun
        self.lines += others
        parts = (self._tail + content).split(allow_blank=True)
        start = 0
        for index, part in enumerate(parts):
            offset = 0 if index else self._start
            for start, row in wrap(part, self._painter.width):
                self.rows.append(
                    self._painter.row(row, NOTHING, self._kind, offset + start, number + index)
                )
        self._start, self._tail = offset + start, parts[-1][start:]
        self._num_final = len(self.rows) - 1
        if not parts[-1]:
            # A last line break would be shown as an empty row.
            del self.rows[-1]
