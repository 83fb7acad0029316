"""A small language model as a drafter."""

from __future__ import annotations

import math
from collections.abc import Sequence

from metasd_local.protocols import (
    LONGEST_EVALUATION,
    NO_EVIDENCE,
    Draft,
    Evidence,
    Keeps,
    Offer,
    Scheme,
    TokenModel,
)

EVALUATED_ROWS = 32
"""Most tokens that one evaluation looks at; the model needs as many logits rows."""
LEAST_ROOM = 16
"""Tokens of a draft for which there shall be room."""
_NOTHING = Draft(tokens=(), is_point_mass=True)


class ModelDrafter:
    """Draft with a token model that shares the target's vocabulary.

    Between rounds the model's memory holds a prefix of the context, or a prefix of its end: once it
    was evaluated after much that it had not read, or once the context had outgrown the model's own,
    of which half is then read again. There are no drafts for a context with a token the model does
    not know (the sizes of compatible vocabularies may differ).
    """

    def __init__(
        self, name: str, model: TokenModel, *, target_vocab_size: int, max_rows: int = 1
    ) -> None:
        """`max_rows`: most tokens that one evaluation looks at, as many as `model` has rows for."""
        self.name = name
        self._model = model
        self._max_rows = max_rows
        # Padding may give a drafter ids the target does not have: they must never be drawn.
        self._num_usable = min(model.vocab_size, target_vocab_size)
        self._knows_all = model.vocab_size >= target_vocab_size
        self._proposed: Sequence[int] = ()
        self._num_skipped = 0
        """Tokens of the context before those in the memory."""
        self._num_read_before = 0
        """Tokens of the context in the memory when the last draft began."""
        self._can_read = True

    def begin(self, context: Sequence[int]) -> None:
        """Keep the part of the memory that is a prefix of `context`."""
        self._proposed = ()
        self._can_read = self._knows_all or self._knows(context)
        if not self._model.keep_prefix(context[self._num_skipped : -1]):
            self._num_skipped = 0

    def catch_up(self, context: Sequence[int]) -> None:
        """Read all but the last token of `context`.

        A single unread token before the last is left to `propose`, which reads both in one call:
        that is the state after a fully accepted draft, not after idleness.
        """
        self._make_room(context)
        num_unread = self._num_unread(context)
        if num_unread > 2 and self._can_read:
            self._model.feed(context[-num_unread:-1], 0)

    def offer(self, context: Sequence[int]) -> Offer:
        """Tell how much there is to read."""
        num_unread = min(self._num_unread(context), LONGEST_EVALUATION + 1)
        return Offer(unread=num_unread - 1 if num_unread > 2 else 0, match_length=None)

    def evaluate(self, context: Sequence[int], scheme: Scheme) -> Evidence:
        """Read all but the last token of `context` and compare what would have been drafted."""
        if self._num_unread(context) > LONGEST_EVALUATION + 1:
            self._begin_anew(context, LONGEST_EVALUATION)
        self._make_room(context)
        num_unread = self._num_unread(context) - 1
        num_rows = min(num_unread, self._max_rows)
        if num_rows < 1 or not self._can_read:
            return NO_EVIDENCE
        rows = self._model.feed(context[-num_unread - 1 : -1], num_rows)[:, : self._num_usable]
        matches = scheme.matches(rows, len(context) - num_rows)
        return Evidence(matches, margins=scheme.margins())

    def propose(
        self, context: Sequence[int], window: int, scheme: Scheme, keeps: Keeps | None = None
    ) -> Draft:
        """Draw up to `window` tokens one by one, as long as they are to be kept.

        A token that must not be dropped is the last one instead.
        """
        model, num_usable = self._model, self._num_usable
        num_unread = self._num_unread(context)
        window = min(window, model.context_size - model.length - num_unread + 1)
        if window < 1 or not self._can_read:
            return _NOTHING
        tokens: list[int] = []
        margins: list[float] = []
        unread = context[len(context) - num_unread :]
        self._num_read_before = model.length + num_unread
        while True:
            logits = model.feed(unread, 1)[0]
            if len(logits) != num_usable:
                logits = logits[:num_usable]
            token = scheme.draft(logits, tokens)
            is_last = False
            if keeps is not None:
                margins += scheme.margins()
                is_last = not keeps(margins[-1])
                if is_last and margins[-1] < math.inf:
                    break
            tokens.append(token)
            if is_last or len(tokens) == window:
                break
            unread = (token,)
        self._proposed = tokens
        return Draft(tokens=tokens, is_point_mass=False, margins=margins)

    def observe(self, emitted: Sequence[int]) -> None:
        """Forget the draft tokens that were not emitted."""
        if not self._knows_all:
            self._can_read = self._can_read and self._knows(emitted)
        proposed = self._proposed
        if not proposed:
            return
        self._proposed = ()
        num_agreed = 0
        for mine, theirs in zip(proposed, emitted, strict=False):
            if mine != theirs:
                break
            num_agreed += 1
        # A token drawn last was never read.
        num_read = self._model.length - self._num_read_before
        if num_agreed < num_read:
            self._model.rewind(self._num_read_before + num_agreed)

    def _num_unread(self, context: Sequence[int]) -> int:
        return len(context) - self._num_skipped - self._model.length

    def _make_room(self, context: Sequence[int]) -> None:
        """Forget the older half of what the model can hold, if the context leaves little room."""
        room = self._model.context_size - (len(context) - self._num_skipped)
        if room < min(LEAST_ROOM, self._model.context_size // 4):
            self._begin_anew(context, self._model.context_size // 2)

    def _begin_anew(self, context: Sequence[int], num_kept: int) -> None:
        """Forget everything; the last `num_kept` tokens before the last one are to be read."""
        self._model.rewind(0)
        self._num_skipped = max(len(context) - 1 - num_kept, 0)

    def _knows(self, tokens: Sequence[int]) -> bool:
        return max(tokens, default=0) < self._model.vocab_size
