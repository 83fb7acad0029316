"""When a text may differ from plain decoding: a floating-point tie, shown and not assumed.

llama.cpp computes a row with other kernels in a wider batch, so its last digits differ, and the
choice can flip between two tokens that are almost equal. A divergence counts as such a tie only
if the gap between the two tokens is no larger than the change of that gap between the two batch
widths, measured there on memories that never saw a draft.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from metasd_local.events import RoundDone
from metasd_local.protocols import Logits, TokenModel

Scores = Callable[[Logits, Sequence[int]], Sequence[float]]
"""Return what the scheme takes the argmax of, per token, from a logits row after a context."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first position at which a text differs from the plain one."""

    position: int
    """Counts from 0 at the first emitted token."""
    gap: float
    """Score of the plain text's token minus that of the other, both in a batch of one token."""
    gap_change: float
    """By how much the gap differs in a batch as wide as the round's."""

    @property
    def is_near_tie(self) -> bool:
        """Tell whether rounding explains the divergence."""
        return abs(self.gap) <= self.gap_change


def first_difference(plain: Sequence[int], other: Sequence[int]) -> int | None:
    """Return the first position where the texts differ, None if they are equal."""
    for position, (mine, theirs) in enumerate(zip(plain, other, strict=False)):
        if mine != theirs:
            return position
    return None if len(plain) == len(other) else min(len(plain), len(other))


def explain(
    model: TokenModel,
    scores: Scores,
    prompt: Sequence[int],
    plain: Sequence[int],
    rounds: Sequence[RoundDone],
) -> Divergence | None:
    """Measure the first divergence of the rounds' text from the plain one, None if equal.

    A text that ends where the other goes on differs in the end token.
    """
    other = [token for done in rounds for token in done.emitted]
    position = first_difference(plain, other)
    if position is None:
        return None
    starts = [0]
    for done in rounds:
        starts.append(starts[-1] + len(done.emitted))
    index, (start, _) = next(
        (index, bounds) for index, bounds in enumerate(pairwise(starts)) if position < bounds[1]
    )
    context = [*prompt, *other[:position]]
    row = position - start
    width = rounds[index].drafted + 1
    # What follows the row in its batch cannot reach it: any tokens of the same number will do.
    wide = [*context[-row - 1 :], *[context[-1]] * (width - row - 1)]
    gaps = []
    for batch, wanted in ((context[-1:], 0), (wide, row)):
        model.rewind(0)
        model.feed(context[: len(context) - wanted - 1], 0)
        values = scores(model.feed(batch, len(batch))[wanted], context)
        gaps.append(values[plain[position]] - values[other[position]])
    return Divergence(position, gaps[0], abs(gaps[1] - gaps[0]))
