"""From tokens to text: detokenising as tokens arrive, and what may reach a terminal.

Owns the end of a generation as far as text decides it (end tokens, stop strings) and the split
into answer and reasoning. Must not know models, rounds or terminals.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metasd_local.events import TextKind, TextPiece

if TYPE_CHECKING:  # numpy comes with it, and the first screen of the chat needs `printable` only
    from metasd_local.protocols import Vocabulary


@dataclass(frozen=True, slots=True)
class ReasoningMarks:
    """How a model family sets its reasoning apart from its answer."""

    opening: str
    closing: str
    is_open: bool
    """True if the prompt already ends with the opening mark."""


class TextStream:
    """Turn the tokens of one generation into text that never has to be taken back.

    Held back is what may still become a stop string, a reasoning mark, or a character whose bytes
    have not all arrived. How the tokens are spread over calls changes nothing.

    - Stop strings apply to the answer only: reasoning is not what the user wants to cut. The one
      whose end comes first ends the generation; of those ending together, the longest.
    - A mark that is a single control token counts wherever it stands. As text, the closing mark
      counts anywhere in the reasoning, the opening mark only before the first visible character
      of the answer, so that an answer may write about it.
    - Marks are no text, nor is white space around an opening mark or after a closing one.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        stop_strings: Sequence[str] = (),
        marks: ReasoningMarks | None = None,
    ) -> None:
        """Begin a generation; empty stop strings are ignored."""
        self._vocabulary = vocabulary
        self._stop_strings = [stop for stop in stop_strings if stop]
        self._marks = marks
        self._mark_tokens: dict[int, TextKind] = {}
        if marks is not None:
            kinds: tuple[tuple[str, TextKind], ...] = (
                (marks.opening, "reasoning"),
                (marks.closing, "answer"),
            )
            for mark, kind in kinds:
                tokens = vocabulary.encode(mark, special=True)
                if len(tokens) == 1 and not vocabulary.piece(tokens[0]):
                    self._mark_tokens[tokens[0]] = kind
        self._kind: TextKind = "reasoning" if marks is not None and marks.is_open else "answer"
        self._may_open = marks is not None and not marks.is_open
        self._skips_space = self._kind == "reasoning"
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""
        self._final: list[TextPiece] = []
        self.has_ended = False
        """Whether an end token or a stop string ended the generation; read-only to others."""

    def consume(self, tokens: Sequence[int]) -> int | None:
        """Read emitted tokens; return how many of them count if the generation ends in them.

        The end token, or the token that completes a stop string, counts as the last one. After
        such an end nothing is held back, and nothing may be consumed any more.
        """
        assert not self.has_ended, "the generation has ended"
        for index, token in enumerate(tokens):
            if self._vocabulary.is_end(token):
                self._flush()
                self.has_ended = True
            elif token in self._mark_tokens:
                if self._may_open:
                    self._pending = self._pending.lstrip()
                self._flush()
                self._switch(self._mark_tokens[token])
            else:
                self._pending += self._decoder.decode(self._vocabulary.piece(token))
                if self._stop_strings:  # only they ask which token completed what
                    self._scan()
            if self.has_ended:
                return index + 1
        self._scan()
        return None

    def take(self) -> list[TextPiece]:
        """Return what became final since the last call, neighbours of one kind joined."""
        pieces, self._final = self._final, []
        return pieces

    def finish(self) -> list[TextPiece]:
        """Return what is left, held back or not: the generation is over, whatever ended it."""
        self._flush()
        return self.take()

    def _flush(self) -> None:
        """Give up waiting: bytes of an unfinished character become U+FFFD."""
        if self.has_ended:
            return  # what follows a stop string is not text
        self._pending += self._decoder.decode(b"", final=True)
        self._scan()
        self._emit(len(self._pending))

    def _scan(self) -> None:
        """Move from pending to final what no later text can change."""
        is_open_text = self._kind == "answer" and not self._may_open and not self._skips_space
        if is_open_text and not self._stop_strings:
            self._emit(len(self._pending))
            return
        while not self.has_ended:
            if self._skips_space:
                self._pending = self._pending.lstrip()
                self._skips_space = not self._pending
            if self._kind == "answer":
                if not self._scan_answer():
                    return
            elif not self._scan_reasoning():
                return

    def _scan_answer(self) -> bool:
        """Handle answer text; return True if the kind changed."""
        matches = [
            (start + len(stop), start)
            for stop in self._stop_strings
            if (start := self._pending.find(stop)) >= 0
        ]
        opening = self._marks.opening if self._marks is not None and self._may_open else ""
        visible = self._pending.lstrip()
        mark_end = len(self._pending) - len(visible) + len(opening)
        if opening and visible.startswith(opening) and all(mark_end <= end for end, _ in matches):
            self._pending = self._pending[mark_end:]
            self._switch("reasoning")
            return True
        if matches:
            self._emit(min(matches)[1])
            self._pending = ""
            self.has_ended = True
        elif not (opening and opening.startswith(visible)):
            self._may_open = False
            self._emit(len(self._pending) - _overlap(self._pending, self._stop_strings))
        return False

    def _scan_reasoning(self) -> bool:
        """Handle reasoning text; return True if the kind changed."""
        assert self._marks is not None
        closing = self._marks.closing
        start = self._pending.find(closing)
        if start < 0:
            self._emit(len(self._pending) - _overlap(self._pending, [closing]))
            return False
        self._emit(start)
        self._pending = self._pending[len(closing) :]
        self._switch("answer")
        return True

    def _switch(self, kind: TextKind) -> None:
        self._kind = kind
        self._may_open = False
        self._skips_space = True

    def _emit(self, num_characters: int) -> None:
        """Make the first pending characters final."""
        text, self._pending = self._pending[:num_characters], self._pending[num_characters:]
        if not text:
            return
        if self._final and self._final[-1].kind == self._kind:
            text = self._final.pop().text + text
        self._final.append(TextPiece(text, self._kind))


def _overlap(text: str, wanted: Sequence[str]) -> int:
    """Return the length of the longest end of `text` that begins one of the wanted texts."""
    return max(
        (
            length
            for want in wanted
            for length in range(1, min(len(want), len(text)) + 1)
            if text.endswith(want[:length])
        ),
        default=0,
    )


_LINE_BREAKS = re.compile("[\u2028\u2029]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_INVISIBLE = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and newline
    "\u00ad\u034f\u115f\u1160\u3164\uffa0"  # soft hyphen, joiner, fillers: all print as nothing
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction marks, overrides, isolates
    "\u180e\u200b\u2060-\u2065\u206a-\u206f\ufeff"  # spaces without width, invisible operators
    "\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"  # annotation, shorthand, music
    "\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"  # tags: hidden text
    "]"
)


def printable(text: str) -> str:
    """Return what of a text may go to a terminal; twice gives the same as once.

    Removes control characters (carriage return and escape among them) but newline and tab, and
    characters that print nothing or turn the direction of their neighbours. Keeps the joiners
    U+200C and U+200D and the variation selectors, which emoji and several scripts need. Unicode's
    line and paragraph separators become newlines, lone surrogates U+FFFD.
    """
    text = _LINE_BREAKS.sub("\n", text)
    return _INVISIBLE.sub("", _SURROGATES.sub("\ufffd", text))


def size_text(num_bytes: float) -> str:
    """Return a size with three figures, in decimal units as disks are sold."""
    for unit in ("bytes", "kB", "MB"):
        if num_bytes < 999.5:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.{(num_bytes < 99.95) + (num_bytes < 9.995)}f} GB"
