"""A machine that becomes busy costs one thread, not the answer's speed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from metasd_local.busy import BusyMeter
from metasd_local.compose import open_pool
from metasd_local.costs import CostCurve
from metasd_local.events import Notice, RoundDone
from metasd_local.options import Options
from tests.tiny_gguf import write_tiny_gguf


def test_slow_calls_cost_a_thread_and_a_notice_and_no_token(tmp_path: Path) -> None:
    """A curve kept from a machine ten thousand times as fast makes every call look slow."""
    path, target = tmp_path, str(write_tiny_gguf(tmp_path / "target.gguf"))
    options = Options(policy="plain", temperature=0.0, threads=2)
    pool = open_pool(options, target, state_path=path)
    reference = pool.session(options)
    expected = list(reference.send("Count to ten.", seed=0, max_tokens=40))
    assert not [event for event in expected if isinstance(event, Notice)]
    assert pool.plain_s() is None  # nothing was measured
    pool.kept.use_curve(CostCurve({1: 1e-7}))
    pool.close()
    pool = open_pool(options, target, state_path=path)
    pool.kept.token_costs.add(0, 1e-7)
    assert pool.plain_s() == 1e-7
    session = pool.session(options)
    events = list(session.send("Count to ten.", seed=0, max_tokens=40))
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert len(notices) == 1
    assert "1 of 2 threads" in notices[0]
    assert pool.session(options).setup.threads == 1
    assert pool.kept.token_costs.at(0) is None  # with so many threads
    assert emitted(events) == emitted(expected)
    pool.close()


def test_a_curve_belongs_to_models_and_threads(tmp_path: Path) -> None:
    """Opened with another number of threads, nothing is known."""
    path = tmp_path / "costs.json"
    for threads, keeps, known in ((2, True, None), (1, False, None), (2, False, 0.5)):
        pool = open_pool(Options(policy="plain", threads=threads), state_path=path)
        assert pool.kept.costs.seconds(1) == known
        if keeps:
            pool.kept.use_curve(CostCurve({1: 0.5}))
            assert pool.kept.costs.seconds(1) == 0.5
        pool.close()


def test_what_is_measured_on_a_busy_machine_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls of the session tell more."""
    monkeypatch.setattr(BusyMeter, "leaves", lambda *_: False)
    pool = open_pool(Options(policy="plain", threads=1), state_path=tmp_path)
    pool.measure_costs()
    assert not pool.kept.costs.is_measured
    assert not (tmp_path / "costs.json").exists()
    pool.close()


def emitted(events: Sequence[object]) -> list[int]:
    """Return all tokens of a generation."""
    rounds = [event for event in events if isinstance(event, RoundDone)]
    return [token for each in rounds for token in each.emitted]
