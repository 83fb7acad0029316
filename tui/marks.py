"""Which arm drafted which part of an answer, and the signs arms are shown with."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence

from tui.conversation import Mark

OWN = ""
"""Marks what the target said itself."""
PLAIN = "plain"
"""The arm that drafts nothing, so that nothing is marked with it."""

COLOURS = (
    *("$text-primary", "$text-success", "$text-warning", "$text-accent", "$text-error"),
    "$text-secondary",
)
SIGNS = "¹²³⁴⁵⁶⁷⁸⁹"


class MarkFinder:
    """Tell what drafted the text of one generation.

    Text comes later than its tokens, and some tokens never become text (reasoning marks, white
    space around them, what follows a stop string), so every text is looked for in what the tokens
    spell. Text that cannot be found counts as the target's own.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._queue: deque[Mark] = deque()
        self._spelled = ""
        """What the marks in the queue spell."""

    def add_round(self, arm: str, accepted: int, pieces: Sequence[bytes]) -> None:
        """Remember a round: the bytes of its tokens, of which the first `accepted` were drafted."""
        drafted = "".join(self._decoder.decode(piece) for piece in pieces[:accepted])
        own = "".join(self._decoder.decode(piece) for piece in pieces[accepted:])
        self._queue += [(arm, len(drafted))] * bool(drafted) + [(OWN, len(own))] * bool(own)
        self._spelled += drafted + own

    def find(self, text: str) -> list[Mark]:
        """Return the marks of a text that became final; it comes after all found before."""
        start = self._spelled.find(text)
        if start < 0:
            return [(OWN, len(text))]
        self._take(start)
        return self._take(len(text))

    def _take(self, length: int) -> list[Mark]:
        """Remove so many characters from the front and return their marks."""
        self._spelled = self._spelled[length:]
        taken: list[Mark] = []
        while length:
            arm, available = self._queue.popleft()
            used = min(available, length)
            taken.append((arm, used))
            if used < available:
                self._queue.appendleft((arm, available - used))
            length -= used
        return taken


class Legend:
    """The sign and the colour of every arm: the colour alone would not tell them apart."""

    def __init__(self) -> None:
        self._arms: list[str] = []

    @property
    def arms(self) -> Sequence[str]:
        """Return the arms that have a sign, in the order of their signs."""
        return self._arms

    def sign(self, arm: str) -> str:
        """Return the superscript digit of an arm, `⁺` once they are used up."""
        index = self._index(arm)
        return SIGNS[index] if index < len(SIGNS) else "⁺"

    def colour(self, arm: str) -> str:
        """Return a variable of the theme."""
        return COLOURS[self._index(arm) % len(COLOURS)]

    def _index(self, arm: str) -> int:
        if arm not in self._arms:
            self._arms.append(arm)
        return self._arms.index(arm)
