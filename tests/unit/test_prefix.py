"""The common prefix is what a comparison token by token finds."""

from __future__ import annotations

import random

import pytest

from metasd_local.backend.prefix import common_prefix


@pytest.mark.parametrize("seed", range(5))
def test_bisection_finds_the_first_difference(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(300):
        mine = [rng.randrange(2) for _ in range(rng.randrange(12))]
        theirs = mine[: rng.randrange(12)] + [rng.randrange(2) for _ in range(rng.randrange(6))]
        expected = 0
        while expected < min(len(mine), len(theirs)) and mine[expected] == theirs[expected]:
            expected += 1
        assert common_prefix(mine, theirs) == expected
        assert common_prefix(mine, tuple(theirs)) == expected
