"""A token model without weights: its logits are a function of the tokens it has read.

Shipped, because tests, demonstrations and users of the protocols need the same fake.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from metasd_local.backend.prefix import common_prefix
from metasd_local.errors import BackendError, Cancelled, ContextFull
from metasd_local.interrupt import Interrupt
from metasd_local.protocols import Logits

LogitsRule = Callable[[tuple[int, ...]], NDArray[np.float32]]


class ScriptedModel:
    """Answer with `rule(tokens read so far)` as the logits after each token.

    Counts what it is fed, and fails on purpose where `fails_at` names a memory length.
    """

    def __init__(
        self,
        rule: LogitsRule,
        *,
        vocab_size: int,
        context_size: int = 4096,
        interrupt: Interrupt | None = None,
        fails_at: int | None = None,
    ) -> None:
        self._rule = rule
        self.vocab_size = vocab_size
        self.context_size = context_size
        self._interrupt = interrupt or Interrupt()
        self._fails_at = fails_at
        self._tokens: list[int] = []
        self.fed_tokens = 0

    @property
    def length(self) -> int:
        """Number of tokens in the memory."""
        return len(self._tokens)

    def keep_prefix(self, tokens: Sequence[int]) -> int:
        """Rewind to the longest common prefix with `tokens` and return its length."""
        length = common_prefix(self._tokens, tokens)
        del self._tokens[length:]
        return length

    def feed(self, tokens: Sequence[int], num_rows: int) -> Logits:
        """Append `tokens` and return the logits after the last `num_rows` of them."""
        if self._interrupt.is_set:
            raise Cancelled("the generation was stopped")
        if len(self._tokens) + len(tokens) > self.context_size:
            raise ContextFull(f"{len(tokens)} more tokens do not fit into {self.context_size}")
        rows = np.empty((num_rows, self.vocab_size), np.float32)
        first_row = len(tokens) - num_rows
        for index, token in enumerate(tokens):
            if not 0 <= token < self.vocab_size:
                raise BackendError(f"token {token} is not in 0..{self.vocab_size - 1}")
            self._tokens.append(token)
            if self._fails_at is not None and len(self._tokens) >= self._fails_at:
                raise BackendError(f"scripted failure at {self._fails_at} tokens")
            if index >= first_row:
                rows[index - first_row] = self._rule(tuple(self._tokens))
        self.fed_tokens += len(tokens)
        return rows

    def rewind(self, length: int) -> None:
        """Forget everything after the first `length` tokens."""
        if not 0 <= length <= len(self._tokens):
            raise BackendError(f"cannot rewind {len(self._tokens)} tokens to {length}")
        del self._tokens[length:]


class ScriptedVocabulary:
    """A vocabulary of single UTF-8 bytes, followed by named control tokens.

    Token ids 0 to 255 are the bytes; `controls` get the ids after them. The first control token
    ends a generation.
    """

    def __init__(self, controls: Sequence[str] = ("<|end|>",)) -> None:
        self._controls = {text: 256 + index for index, text in enumerate(controls)}

    @property
    def size(self) -> int:
        """Number of token ids."""
        return 256 + len(self._controls)

    def encode(self, text: str, *, special: bool, continues: bool = False) -> list[int]:
        """Tokenise `text`; texts of control tokens become those tokens only if `special`."""
        tokens: list[int] = []
        while special and text:
            found = [(text.find(mark), mark) for mark in self._controls if mark in text]
            if not found:
                break
            start, mark = min(found)
            tokens += text[:start].encode()
            tokens.append(self._controls[mark])
            text = text[start + len(mark) :]
        return tokens + list(text.encode())

    def piece(self, token: int) -> bytes:
        """Return the byte of a token; empty for control tokens."""
        return bytes([token]) if token < 256 else b""

    def is_end(self, token: int) -> bool:
        """Tell whether the token is the first control token."""
        return token == 256
