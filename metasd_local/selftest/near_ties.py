"""When a text may differ from plain decoding: a floating-point tie, shown and not assumed.

llama.cpp computes a row with other kernels in a wider batch, so its last digits differ, and the
choice can flip between two tokens that are almost equal. A divergence counts as such a tie only
if the gap between the two tokens is no larger than the change of that gap between the two batch
widths, measured there on a memory that never saw a draft: the text is read once token by token
and once in batches as wide as the rounds' were, other tokens in the drafts' places. Two different
fillings must agree, or what was rejected leaves traces.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from metasd_local.events import RoundDone
from metasd_local.protocols import Draft, Logits, Scheme, TokenModel

_NO_DRAFT = Draft(tokens=(), is_point_mass=True)
_FILLERS = (0, 1)
_SHARES = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0)
_NUM_BISECTIONS = 8
_LEAST_CHANGE = 1e-12


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first position at which a text differs from the plain one."""

    position: int
    """Counts from 0 at the first emitted token."""
    gap: float
    """By how much the logits of the two tokens would have to move apart for the other choice.

    Infinite if no such move along the measured change makes the scheme choose so.
    """
    gap_change: float
    """By how much they do move when the text is read in batches as wide as the rounds'."""

    @property
    def is_near_tie(self) -> bool:
        """Tell whether rounding explains the divergence."""
        return self.gap <= self.gap_change


def first_difference(plain: Sequence[int], other: Sequence[int]) -> int | None:
    """Return the first position where the texts differ, None if they are equal."""
    for position, (mine, theirs) in enumerate(zip(plain, other, strict=False)):
        if mine != theirs:
            return position
    return None if len(plain) == len(other) else min(len(plain), len(other))


def explain(
    model: TokenModel,
    scheme: Scheme,
    seed: int,
    prompt: Sequence[int],
    plain: Sequence[int],
    rounds: Sequence[RoundDone],
) -> Divergence:
    """Measure the first divergence of the rounds' text from the plain one; they must differ.

    `scheme` makes the target's choices again; `model` is emptied first.
    """
    other = [token for done in rounds for token in done.emitted]
    position = first_difference(plain, other)
    assert position is not None
    if position >= min(len(plain), len(other)):
        return Divergence(position, math.inf, 0.0)  # one of them ended without an end token
    said = plain[:position]
    rows = _read_singly(model, prompt, said)
    own, others = plain[position], other[position]

    def chosen(change: Logits, share: float) -> int:
        """Return what is chosen if the last row moves by a share of its change."""
        context = list(prompt)
        scheme.begin(seed, context)
        # A scheme may keep a state from draw to draw: all draws are made again.
        for row, token in zip(rows[:-1], said, strict=True):
            scheme.verify(row[None], _NO_DRAFT)
            context.append(token)
        moved = rows[-1] + np.float32(share) * change
        return scheme.verify(moved[None], _NO_DRAFT).next_token

    found = []
    for filler in _FILLERS:
        change = _read_as_in(rounds, filler, model, prompt, said) - rows[-1]
        gap_change = max(float(abs(change[own] - change[others])), _LEAST_CHANGE)
        shares = (_least_share(partial(chosen, change), token) for token in (own, others))
        found.append((max(shares), gap_change))
    needed_share, gap_change = max(found)
    return Divergence(position, gap=needed_share * gap_change, gap_change=gap_change)


def _least_share(chosen: Callable[[float], int], token: int) -> float:
    """Return the least share of the change, either way, at which `token` is chosen."""
    if chosen(0.0) == token:
        return 0.0
    shares = (share * way for share in _SHARES for way in (1, -1))
    far = next((share for share in shares if chosen(share) == token), None)
    if far is None:
        return math.inf
    near = 0.0
    for _ in range(_NUM_BISECTIONS):
        middle = (near + far) / 2
        if chosen(middle) == token:
            far = middle
        else:
            near = middle
    return abs(far)


def _read_singly(model: TokenModel, prompt: Sequence[int], said: Sequence[int]) -> list[Logits]:
    """Return the rows after the prompt and after every token said, as plain decoding does."""
    model.rewind(0)
    model.feed(prompt[:-1], 0)
    return [model.feed([token], 1)[0].copy() for token in (prompt[-1], *said)]


def _read_as_in(
    rounds: Sequence[RoundDone],
    filler: int,
    model: TokenModel,
    prompt: Sequence[int],
    said: Sequence[int],
) -> Logits:
    """Return the row after everything said, read in the rounds' batches.

    `filler` stands for every draft token that was rejected.
    """
    model.rewind(0)
    model.feed(prompt[:-1], 0)
    tokens = [prompt[-1], *said]
    start = 0
    for done in rounds:
        end = start + len(done.emitted)
        batch = [*tokens[start:end]]
        row = len(batch) - 1
        batch += [filler] * (done.drafted - row)
        rows = model.feed(batch, len(batch))
        if end >= len(tokens):
            found: Logits = rows[row].copy()
            return found
        model.rewind(len(prompt) - 1 + end)
        start = end
    raise AssertionError("a position behind the text")
