"""What drafting can gain: as a simulation of rounds finds, and nothing where it cannot."""

from __future__ import annotations

import random

import pytest

from metasd_local.costs import CostCurve
from metasd_local.doctor.payoff import ASSUMED_ACCEPTANCE, payoff, speedup

FLAT = CostCurve({1: 1.0, 33: 1.0})
STEEP = CostCurve({1: 1.0, 33: 33.0})
USUAL = CostCurve({1: 1.0, 2: 1.2, 4: 1.5, 8: 2.4, 16: 5.0, 33: 11.0})


@pytest.mark.parametrize(("acceptance", "window"), [(0.3, 2), (0.7, 5), (0.9, 12), (1.0, 4)])
def test_the_gain_is_that_of_simulated_rounds(acceptance: float, window: int) -> None:
    rng = random.Random(0)
    emitted, seconds = 0, 0.0
    for _ in range(40_000):
        drafted = 0
        while drafted < window and rng.random() < acceptance:
            drafted += 1
        emitted += drafted + 1
        seconds += USUAL.seconds(window + 1) + window * 0.1
    assert speedup(USUAL, 0.1, window, acceptance) == pytest.approx(emitted / seconds, rel=0.02)


def test_verification_for_nothing_pays_always() -> None:
    found = payoff(FLAT, 0.0, 16)
    assert (found.best_window, found.largest_window) == (16, 16)
    assert found.ceiling == pytest.approx(17)
    assert found.least_acceptance == pytest.approx(0.01)


def test_nothing_pays_where_verifying_takes_as_long_as_decoding() -> None:
    found = payoff(STEEP, 0.0, 16)
    assert found.least_acceptance is None
    assert (found.best_window, found.largest_window, found.best_speedup) == (0, 0, 1.0)


@pytest.mark.parametrize("draft_s", [0.0, 0.05, 0.2, 0.4])
def test_the_windows_named_are_the_limits(draft_s: float) -> None:
    """The best has no better, the largest is the last that pays, below the least nothing does."""
    found = payoff(USUAL, draft_s, 16)
    gains = {n: speedup(USUAL, draft_s, n, ASSUMED_ACCEPTANCE) for n in range(1, 17)}
    assert found.best_speedup == pytest.approx(max(1.0, *gains.values()))
    assert found.largest_window == max((n for n in gains if gains[n] > 1), default=0)
    assert found.least_acceptance is not None
    for acceptance, pays in (
        (found.least_acceptance, True),
        (found.least_acceptance - 0.01, False),
    ):
        assert any(speedup(USUAL, draft_s, n, acceptance) > 1 for n in range(1, 17)) is pays


def test_a_dearer_drafter_gains_less() -> None:
    gains = [payoff(USUAL, draft_s, 16).best_speedup for draft_s in (0.0, 0.1, 0.3, 1.0)]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] > 1.3
    assert gains[-1] == 1.0
