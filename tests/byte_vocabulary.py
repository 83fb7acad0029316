"""A vocabulary of single bytes and a few control tokens, to test texts without a model."""

from __future__ import annotations

import re
from collections.abc import Sequence


class ByteVocabulary:
    """Token ids 0..255 are bytes, then come control tokens, then named tokens that are text.

    `named` are like llama.cpp's user-defined tokens: found in any text, and spelled as text.
    """

    def __init__(
        self, control: Sequence[str] = (), ends: Sequence[str] = (), named: Sequence[str] = ()
    ) -> None:
        self._control = {text: 256 + index for index, text in enumerate(control)}
        self._named = {text: 256 + len(control) + index for index, text in enumerate(named)}
        self._texts = {token: text for text, token in (self._control | self._named).items()}
        self._ends = {self._control[text] for text in ends}

    def encode(self, text: str, *, special: bool, continues: bool = False) -> list[int]:
        """Tokenise `text`; texts of control tokens become those tokens only if `special`."""
        known = self._named | (self._control if special else {})
        longest_first = sorted(known, key=len, reverse=True)
        pattern = "(" + ("|".join(map(re.escape, longest_first)) or "(?!)") + ")"
        tokens: list[int] = []
        for index, part in enumerate(re.split(pattern, text)):
            tokens += [known[part]] if index % 2 else part.encode()
        return tokens

    def piece(self, token: int) -> bytes:
        """Return the bytes a token adds to the text; empty for control tokens."""
        if token < 256:
            return bytes([token])
        text = self._texts[token]
        return b"" if text in self._control else text.encode()

    def is_end(self, token: int) -> bool:
        """Tell whether the token ends a generation."""
        return token in self._ends

    def is_control(self, token: int) -> bool:
        """Tell whether the token is a control token."""
        return token in self._control.values()

    def spell(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, control tokens included."""
        return b"".join(
            self._texts[token].encode() if token > 255 else bytes([token]) for token in tokens
        ).decode()
