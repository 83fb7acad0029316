"""What schemes keep of the laws they compare, and the arithmetic on them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from metasd_local.protocols import Draft, Logits, Probabilities
from metasd_local.sampling import Survivors, TokenIds

# Single precision reaches exp(88): most rows need not be shifted first, which saves a pass.
_LARGEST_PLAIN_EXPONENT = 40.0

_NOTHING = Survivors(np.empty(0, np.int64), np.empty(0))


class Said:
    """What the target said: the tokens of the answer, and some noted at the end of the prompt."""

    def __init__(self, context: Sequence[int]) -> None:
        self._context = context
        self._num_prompt_tokens = len(context)
        self._expected: dict[int, int] = {}

    def expect(self, tokens: Sequence[int], first: int) -> None:
        """Note tokens inside the prompt, from position `first` on."""
        self._expected = dict(enumerate(tokens, first))

    def compare(self, first: int, tokens: Sequence[int]) -> Sequence[float]:
        """Tell which of `tokens`, from position `first` on, the target said too: 1, 0 or NaN."""
        return [self._agree(position, token) for position, token in enumerate(tokens, first)]

    def _agree(self, position: int, token: int) -> float:
        if position >= self._num_prompt_tokens:
            return float(self._context[position] == token)
        expected = self._expected.get(position)
        return math.nan if expected is None else float(expected == token)


class Laws:
    """The laws of target and drafter in one round, position by position, until the next one."""

    def __init__(self, vocab_size: int, max_window: int) -> None:
        self._drafters: list[Survivors] = [_NOTHING] * max_window
        # The target also has a law after the last draft token.
        self._targets = [_NOTHING] * (max_window + 1)
        self._by_id = np.zeros(vocab_size)  # (vocab_size,) float64, zero between calls

    def store_target(self, position: int, law: Survivors) -> None:
        """Remember the target's law at a position."""
        self._targets[position] = law

    def store_drafter(self, position: int, law: Survivors) -> None:
        """Remember the law the draft token at a position is drawn from."""
        check_position(position, len(self._drafters))
        self._drafters[position] = law

    def drafter(self, position: int, draft: Draft) -> Survivors:
        """Return the law the draft token at a position was drawn from."""
        if draft.is_point_mass:
            return Survivors(np.array([draft.tokens[position]]), np.ones(1))
        return self._drafters[position]

    def align(self, law: Survivors, token_ids: TokenIds) -> Probabilities:
        """Return the probabilities of `token_ids` under `law`."""
        self._by_id[law.token_ids] = law.probabilities
        aligned = self._by_id[token_ids]
        self._by_id[law.token_ids] = 0.0
        return aligned

    def overlaps(self, draft: Draft, num_positions: int) -> Probabilities:
        """Return 1 - TV at the first positions; the target's law must have been stored there."""
        overlaps = np.empty(num_positions)  # (num_positions,)
        for i in range(num_positions):
            target = self._targets[i]
            aligned = self.align(self.drafter(i, draft), target.token_ids)
            overlaps[i] = np.add.reduce(np.minimum(target.probabilities, aligned))
        return overlaps


def margins_of(rows: Logits) -> Sequence[float]:
    """Return highest less second highest of every row; `rows` is changed for a moment."""
    if len(rows) == 1:
        row = rows[0]
        best = row.argmax()
        highest = row[best]
        row[best] = -np.inf
        margin = float(highest - row[row.argmax()])
        row[best] = highest
        return [margin]
    index = np.arange(len(rows))
    best = rows.argmax(axis=1)
    highest = rows[index, best]
    rows[index, best] = -np.inf
    margins: list[float] = (highest - rows.max(axis=1)).tolist()
    rows[index, best] = highest
    return margins


def margin_of_shares(shares: Probabilities) -> float:
    """Return by how much the logarithm of the highest share exceeds that of the second."""
    if len(shares) == 1:
        return math.inf
    second, highest = np.partition(shares, -2)[-2:].tolist()
    return math.log(highest / second) if second > 0.0 else math.inf


def check_position(position: int, max_window: int) -> None:
    """Check that a draft position lies within the window a scheme was made for."""
    assert position < max_window, f"draft longer than the window of {max_window}"


def probability_of(law: Survivors, token: int) -> float:
    """Return the probability of a token, 0 if it did not survive."""
    return float(law.probabilities[law.token_ids == token].sum())


def weigh(logits: Logits, out: Logits) -> tuple[Logits, np.float32]:
    """Write what is proportional to the softmax to `out`; return it and its sum."""
    peak = logits[logits.argmax()]
    if abs(peak) < _LARGEST_PLAIN_EXPONENT:
        np.exp(logits, out=out)
    else:
        np.subtract(logits, peak, out=out)
        np.exp(out, out=out)
    return out, np.add.reduce(out)
