"""Drawing takes its share of a core: dear drawings are rare, cheap ones not too frequent."""

from __future__ import annotations

import pytest

from tui import pace

FASTEST_S = pace.FASTEST_S


@pytest.fixture(autouse=True)
def _no_faster_than_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FASTEST_S", FASTEST_S)


@pytest.mark.parametrize(
    ("cost_s", "pause_s"), [(0.0001, 1 / 15), (0.006, 0.1), (0.012, 0.2), (0.1, 1.0)]
)
def test_the_pause_follows_from_what_drawing_costs(cost_s: float, pause_s: float) -> None:
    """At most 15 drawings a second, however cheap."""
    ticks = iter(range(1000))
    meter = pace.Pace(clock=lambda: (next(ticks) + 1) // 2 * cost_s)
    pauses = [meter.pause_s() for _ in range(100)]
    assert pauses[-1] == pytest.approx(pause_s, rel=1e-3)
    assert all(1 / 15 <= pause <= pace.SLOWEST_S for pause in pauses)
    assert meter.begin() == 1 / 15


def test_a_single_dear_drawing_does_not_slow_all_down() -> None:
    now_s = 0.0
    meter = pace.Pace(clock=lambda: now_s)
    pauses = []
    for cost_s in (*[0.006] * 50, 0.05, *[0.006] * 10):
        now_s += cost_s
        pauses.append(meter.pause_s())
    assert max(pauses) < 0.3
    assert pauses[-1] < 0.12
