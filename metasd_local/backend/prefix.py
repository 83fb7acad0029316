"""How much of a token memory the next prompt can use again."""

from __future__ import annotations

from collections.abc import Sequence


def common_prefix(mine: list[int], theirs: Sequence[int]) -> int:
    """Return how many leading tokens agree, by bisection: comparing slices is quick."""
    theirs = list(theirs)
    low, high = 0, min(len(mine), len(theirs))
    if mine[:high] == theirs[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if mine[low:middle] == theirs[low:middle]:
            low = middle
        else:
            high = middle
    return low
