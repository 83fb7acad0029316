"""The gain shown is the one that a plain rerun of the same prompt would find."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from metasd_local.costs import TokenCosts
from metasd_local.events import GenerationDone, PromptRead, RoundDone
from metasd_local.stats import gain
from tui.live import Live
from tui.worker import Step

DRAFT_S, OWN_S = 0.001, 0.0005
NOISE, MEASURED = (0.95, 1.05), (0.98, 1.02)
"""Of one call, and of the median of several."""


def target_s(size: int, depth: int) -> float:
    """Return what a call costs the target of a small laptop: twice as much 3,000 tokens later."""
    return (0.008 + 0.004 * size) * (1 + depth / 3000)


def always_drafting(_: random.Random) -> Iterator[int]:
    """Yield windows as the policies for study choose them."""
    while True:
        yield 5


def adapting(rng: random.Random) -> Iterator[int]:
    """Yield windows as `auto` does: plain now and then, and seldom twice in a row."""
    while True:
        yield 0
        yield from (rng.randint(2, 8) for _ in range(rng.randint(1, 30)))


def half_plain(rng: random.Random) -> Iterator[int]:
    """Yield stretches of both."""
    while True:
        yield from [0] * rng.randint(5, 40)
        yield from [4] * rng.randint(5, 40)


@pytest.mark.parametrize("windows", [always_drafting, adapting, half_plain])
@pytest.mark.parametrize("seed", range(4))
def test_the_gain_shown_is_within_5_points_of_a_plain_rerun(
    windows: Callable[[random.Random], Iterator[int]], seed: int
) -> None:
    """However the context grows; a token is measured after loading and after every answer.

    The first answer is short: how fast a token becomes dearer is not known before its end.
    """
    rng = random.Random(seed)
    chosen, live, costs, depth = windows(rng), Live(), TokenCosts(), 60
    costs.add(0, target_s(1, 0) * rng.uniform(*MEASURED))
    for answer in range(6):
        live.begin()
        live.observe(Step(PromptRead(depth, 0, 0.1), prompt_tokens=(1,)))
        spent_s = plain_s = 0.0
        for index in range(60 if answer else 20):
            window = next(chosen)
            accepted = rng.randint(0, window)
            verify_s = target_s(window + 1, depth) * rng.uniform(*NOISE)
            emitted = tuple(range(accepted + 1))
            played = RoundDone(
                *(index, "a" if window else "plain", window, window, accepted, emitted),
                next_kind="recovered",
                catch_up_s=0.0,
                draft_s=DRAFT_S * window,
                verify_s=verify_s,
                own_s=OWN_S * (window + 1),
                reward=0.0,
            )
            live.observe(Step(played, plain_s=costs.at(depth)))
            spent_s += played.seconds + played.own_s
            plain_s += sum(OWN_S + target_s(1, depth + number) for number in range(len(emitted)))
            depth += len(emitted)
        live.observe(Step(GenerationDone("stop", 0.1, spent_s, spent_s)))
        shown = gain(live.snapshot.tokens_per_second, live.plain_s)
        assert shown == pytest.approx(plain_s / spent_s - 1, abs=0.05), f"answer {answer}"
        costs.add(depth, target_s(1, depth) * rng.uniform(*MEASURED))
