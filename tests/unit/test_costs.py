"""The cost curve, and how it is measured."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path

import pytest

from metasd_local.costs import (
    CURVE_SIZES,
    CostCurve,
    RunningCosts,
    TokenCosts,
    measure_curve,
    measure_token,
    read_curve,
    write_curve,
)
from metasd_local.errors import ContextFull
from metasd_local.protocols import Logits
from tests.bench_runs import FakeClock


@pytest.mark.parametrize(
    ("num_tokens", "seconds"), [(1, 1.0), (2, 1.5), (3, 2.0), (4, 4.0), (5, 6.0), (9, 14.0)]
)
def test_between_and_beyond_the_points_the_curve_is_straight(
    num_tokens: int, seconds: float
) -> None:
    """Linear between neighbours, the last slope goes on."""
    assert CostCurve({1: 1.0, 3: 2.0, 4: 4.0}).seconds(num_tokens) == pytest.approx(seconds)


def test_a_single_point_is_a_constant() -> None:
    """Nothing better is known."""
    assert CostCurve({1: 0.5}).seconds(7) == 0.5


class SlowTarget:
    """A target whose time to verify n tokens is known, but for what disturbs its calls.

    A call with another number of tokens than the one before takes a second more.
    pace: how many times as long as undisturbed a call takes.
    """

    vocab_size = 50

    def __init__(
        self, clock: FakeClock, context_size: int, pace: Callable[[], float] = lambda: 1.0
    ) -> None:
        self.context_size = context_size
        self.length = 0
        self.rewinds: list[int] = []
        self._clock = clock
        self._pace = pace
        self._last_size = 0

    def feed(self, tokens: Sequence[int], num_rows: int) -> Logits:
        """Take 1 + n / 10 milliseconds at the pace of now."""
        assert self.length + len(tokens) <= self.context_size
        assert num_rows in (0, len(tokens))
        assert max(tokens) < self.vocab_size
        self.length += len(tokens)
        self._clock.now_s += milliseconds(len(tokens)) / 1000 * self._pace()
        self._clock.now_s += len(tokens) != self._last_size
        self._last_size = len(tokens)
        return None  # type: ignore[return-value]

    def rewind(self, length: int) -> None:
        """Forget."""
        self.length = length
        self.rewinds.append(length)

    def keep_prefix(self, tokens: object) -> int:
        raise AssertionError

    def close(self) -> None:
        raise AssertionError


def milliseconds(num_tokens: int) -> float:
    return 1 + num_tokens / 10


def test_calls_that_are_mostly_disturbed_do_not_show() -> None:
    """Two of three take up to fifty times as long; the memory is left empty."""
    clock, rng = FakeClock(), random.Random(0)
    target = SlowTarget(clock, 512, lambda: rng.choice((1.0, 3.0, 50.0)))
    curve = measure_curve(target, depth=64, budget_s=1e6, clock=clock)
    assert tuple(curve.points) == CURVE_SIZES
    for size, seconds in curve.points.items():
        assert 1000 * seconds == pytest.approx(milliseconds(size))
    assert target.length == 0
    assert not curve.is_doubtful


@pytest.mark.parametrize("seed", range(5))
def test_a_curve_never_falls_and_says_if_it_was_measured_on_a_busy_machine(seed: int) -> None:
    """Verifying more tokens cannot cost less, nor several more than as many single ones."""
    clock, rng = FakeClock(), random.Random(seed)
    target = SlowTarget(clock, 512, lambda: 40 ** rng.random())
    curve = measure_curve(target, depth=64, budget_s=15.0, clock=clock)
    seconds = list(curve.points.values())
    assert seconds == sorted(seconds)
    assert curve.is_doubtful


@pytest.mark.parametrize(
    ("single_ms", "larger_ms", "is_doubtful"),
    [(1.0, 1.0, False), (1.0, 8.9, False), (1.2, 1.0, False), (1.6, 1.0, True), (1.0, 14.0, True)],
)
def test_a_curve_is_doubtful_if_no_idle_machine_has_it(
    single_ms: float, larger_ms: float, is_doubtful: bool
) -> None:
    clock = FakeClock()
    target = SlowTarget(clock, 512)
    target._pace = lambda: (
        single_ms / milliseconds(1) if target.length == 1 else larger_ms / milliseconds(9)
    )
    curve = measure_curve(target, depth=0, budget_s=0.0, clock=clock, sizes=(1, 9))
    assert curve.is_doubtful is is_doubtful
    assert curve.points[1] <= curve.points[9] == pytest.approx(larger_ms / 1000)
    seen = measure_curve(target, depth=0, budget_s=0.0, clock=clock, is_busy=lambda: True)
    assert seen.is_doubtful


@pytest.mark.parametrize("budget_s", [0.0, 1.0, 5.0, 30.0])
def test_slow_calls_cost_sizes_and_not_time(budget_s: float) -> None:
    """A call takes seconds: the budget is exceeded by a few calls, the ends come first."""
    clock = FakeClock()
    target = SlowTarget(clock, 512, lambda: 1000.0)
    curve = measure_curve(target, depth=128, budget_s=budget_s, clock=clock)
    slowest_s = milliseconds(33) + 1
    assert clock.now_s <= budget_s + 5 * slowest_s
    assert {1, 9} <= set(curve.points)
    assert not curve.is_doubtful


def test_sizes_beyond_the_context_are_left_out() -> None:
    """A small context has a short curve."""
    clock = FakeClock()
    curve = measure_curve(SlowTarget(clock, 20), depth=10, budget_s=0.0, clock=clock)
    assert max(curve.points) == 9


def test_a_token_is_measured_where_the_context_ends() -> None:
    """The first call, which builds a graph, does not count; the memory is left as it was."""
    clock = FakeClock()
    target = SlowTarget(clock, 512)
    target.feed([11, 12, 13], 0)
    assert measure_token(target, budget_s=0.0, clock=clock) == pytest.approx(1e-3 * 1.1)
    # What holds up some calls holds up answers as well.
    target._pace = cycle((1.0, 3.0)).__next__
    assert measure_token(target, budget_s=1.0, clock=clock) == pytest.approx(2.2e-3, rel=0.01)
    assert target.length == 3
    assert set(target.rewinds) == {3}


def test_a_target_that_fails_is_not_measured() -> None:
    """Its error reaches the caller."""

    class FullTarget(SlowTarget):
        def feed(self, tokens: Sequence[int], num_rows: int) -> Logits:
            raise ContextFull("full")

    clock = FakeClock()
    with pytest.raises(ContextFull):
        measure_curve(FullTarget(clock, 512), depth=8, budget_s=0.0, clock=clock)


def test_a_kept_curve_is_found_again(tmp_path: Path) -> None:
    """By its key alone, beside others, readable by its owner only; a doubtful one is not kept."""
    path = tmp_path / "metasd" / "costs.json"
    first, second = CostCurve({1: 0.5, 2: 0.75}), CostCurve({1: 0.25})
    write_curve(path, "one", first)
    write_curve(path, "two", second)
    write_curve(path, "one", CostCurve({1: 9.0}, is_doubtful=True))
    assert read_curve(path, "one") == first
    assert read_curve(path, "two") == second
    assert read_curve(path, "three") is None
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["costs.json"]


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", '{"one": 3}', '{"one": {}}', '{"one": {"1": "x"}}', '{"one": {"0": 1}}'),
        f'{{"one": {{"1": 1, "1{"0" * 400}": 1}}}}',
    ],
)
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    """It only saves time, and the next measurement mends it."""
    path = tmp_path / "costs.json"
    path.write_text(content, encoding="utf-8")
    assert read_curve(path, "one") is None
    write_curve(path, "one", CostCurve({1: 0.5}))
    assert read_curve(path, "one") == CostCurve({1: 0.5})
    assert json.loads(path.read_text(encoding="utf-8"))


def test_a_curve_that_cannot_be_kept_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The measurement it comes from is worth more."""
    (tmp_path / "file").touch()
    write_curve(tmp_path / "file" / "costs.json", "one", CostCurve({1: 0.5}))
    assert "not kept" in caplog.text


def test_running_costs_know_nothing_before_the_first_call() -> None:
    """Unless they were measured before."""
    assert RunningCosts().seconds(1) is None
    assert RunningCosts(CostCurve({1: 0.5, 2: 0.6})).seconds(2) == 0.6


def test_running_costs_converge_and_scale_what_was_not_seen() -> None:
    """Calls half as fast as the curve said: all of the curve doubles."""
    costs = RunningCosts(CostCurve({1: 0.1, 2: 0.2, 4: 0.3}))
    rng = random.Random(0)
    for _ in range(200):
        costs.observe(1, 0.2 * rng.uniform(0.9, 1.1))
    assert costs.seconds(1) == pytest.approx(0.2, rel=0.05)
    assert costs.seconds(4) == pytest.approx(0.6, rel=0.05)


def test_one_slow_call_hardly_changes_an_estimate() -> None:
    """A hiccup of a thousand times the usual counts as one of twice."""
    costs = RunningCosts(CostCurve({1: 0.1}))
    costs.observe(1, 0.1)
    costs.observe(1, 100.0)
    assert costs.seconds(1) == pytest.approx(0.1, rel=0.025)
    assert not costs.is_slow


def test_slowness_that_lasts_is_noticed_and_growth_is_not() -> None:
    """Two of three calls at ten times the cost, against a context that grows slowly."""
    collapsed = RunningCosts(CostCurve({1: 0.1}))
    was_slow = []
    for number in range(24):
        collapsed.observe(1, 0.1 if number % 3 == 2 else 1.0)
        was_slow.append(collapsed.is_slow)
    assert was_slow.index(True) == 19
    collapsed.begin_anew()
    assert not collapsed.is_slow
    growing = RunningCosts(CostCurve({1: 0.1}))
    for number in range(1000):
        growing.observe(1, 0.1 * (1 + number / 100))
        assert not growing.is_slow


def test_a_curve_measured_later_replaces_what_was_learned() -> None:
    costs = RunningCosts()
    costs.observe(4, 1.0)
    assert not costs.is_measured
    costs.use(CostCurve({1: 0.25, 4: 0.5}))
    assert costs.is_measured
    assert (costs.seconds(1), costs.seconds(4)) == (0.25, 0.5)
    for _ in range(40):
        costs.observe(4, 1.0)
    assert costs.seconds(4) == pytest.approx(1.0, rel=0.05)


def test_a_machine_that_is_slow_for_a_while_does_not_make_the_sizes_in_use_look_dear() -> None:
    """All sizes are dearer then, and cheaper afterwards."""
    costs = RunningCosts(CostCurve({1: 0.01, 5: 0.02, 6: 0.024}))
    rng = random.Random(1)
    for pace in (1.0, 3.0, 1.0):
        for number in range(100):
            size = (1, 5)[number // 10 % 2]
            costs.observe(size, pace * {1: 0.01, 5: 0.02}[size] * rng.uniform(0.9, 1.1))
        seconds = [costs.seconds(size) or 0.0 for size in (1, 5, 6)]
        assert seconds[0] == pytest.approx(pace * 0.01, rel=0.1)
        assert seconds[1] / seconds[0] == pytest.approx(2.0, rel=0.08)
        assert seconds[2] / seconds[1] == pytest.approx(1.2, rel=0.08)


def test_the_first_calls_of_a_size_that_nobody_measured_tell_what_it_costs() -> None:
    """The prior's shape is a guess."""
    costs = RunningCosts()
    for _ in range(10):
        costs.observe(1, 0.01)
    for _ in range(6):
        costs.observe(4, 0.03)
    assert costs.seconds(4) == pytest.approx(0.03, rel=0.05)
    assert costs.seconds(1) == pytest.approx(0.01, rel=0.25)


def test_what_a_change_of_size_costs_is_told_apart_from_what_the_sizes_cost() -> None:
    """A call of another size than the last has to build its graph first."""
    costs = RunningCosts(CostCurve({1: 0.01, 4: 0.02}))
    rng = random.Random(2)
    last = 1
    for _ in range(600):
        size = rng.choice((1, 1, 1, 4, 4))
        seconds = {1: 0.01, 4: 0.02}[size] + (0.002 if size != last else 0.0)
        costs.observe(size, seconds * rng.uniform(0.97, 1.03))
        last = size
    assert costs.seconds(1) == pytest.approx(0.01, rel=0.06)
    assert costs.seconds(4) == pytest.approx(0.02, rel=0.06)
    assert costs.change_s == pytest.approx(0.002, rel=0.4)


def test_a_token_costs_more_in_a_longer_context() -> None:
    """As far as what was measured tells; never less, and nothing follows from close places."""
    costs = TokenCosts()
    assert costs.at(100) is None
    costs.add(50, 0.010)
    costs.add(55, 0.012)
    assert costs.at(1050) == pytest.approx(0.011, rel=0.1)
    costs.add(1050, 0.021)
    costs.add(2050, 0.031)
    assert costs.at(3050) == pytest.approx(0.041, rel=0.03)
    falling = TokenCosts()
    falling.add(0, 0.02)
    falling.add(1000, 0.01)
    assert falling.at(2000) == pytest.approx(0.01)


@pytest.mark.parametrize("factor", [0.3, 2.0, 33.0])
@pytest.mark.parametrize("which", range(8))
def test_a_disturbed_measurement_does_not_spoil_what_a_token_costs(
    which: int, factor: float
) -> None:
    """Not once there are three, wherever it is among them."""
    costs = TokenCosts()
    for number, depth in enumerate(range(60, 1500, 180)):
        seconds = 0.01 * (1 + depth / 3000)
        costs.add(depth, seconds * (factor if number == which else 1.0))
        if number >= 2:
            for place in (60, depth, depth + 200):
                assert costs.at(place) == pytest.approx(0.01 * (1 + place / 3000), rel=0.15)


def test_what_a_token_costs_follows_a_machine_that_became_slower() -> None:
    costs = TokenCosts()
    for seconds in [0.01] * 20 + [0.02] * 5:
        costs.add(500, seconds)
    assert costs.at(500) == 0.02
