"""How much of the CPU is used by others, and whether that leaves enough."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from metasd_local.busy import BusyMeter
from tests.bench_runs import FakeClock


def write_stat(root: Path, busy_s: float) -> None:
    """Write /proc/stat of a machine that was busy for so long."""
    ticks = round(busy_s * os.sysconf("SC_CLK_TCK"))
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/stat").write_text(f"cpu  {ticks} 0 0 99999 5 0 0 0 0 0\ncpu0 1 2\n")


def test_other_processes_use_is_what_is_not_ours(tmp_path: Path) -> None:
    """Eight busy seconds in ten that this process did not use are 0.8 cores."""
    clock = FakeClock()
    write_stat(tmp_path, 100.0)
    meter = BusyMeter(clock, tmp_path)
    clock.now_s = 10.0
    write_stat(tmp_path, 108.0)
    assert meter.other_cores() == pytest.approx(0.8, abs=0.05)


def test_own_use_is_subtracted(tmp_path: Path) -> None:
    """What this process computes is the measurement."""
    clock = FakeClock()
    write_stat(tmp_path, 100.0)
    meter = BusyMeter(clock, tmp_path)
    used = os.times().user
    while os.times().user < used + 0.2:
        sum(range(10_000))
    clock.now_s = 1.0
    write_stat(tmp_path, 100.0 + 0.2)
    assert meter.other_cores() == pytest.approx(0.0, abs=0.05)


def test_without_proc_other_use_is_unknown(tmp_path: Path) -> None:
    """As on macOS and Windows."""
    clock = FakeClock()
    meter = BusyMeter(clock, tmp_path)
    clock.now_s = 1.0
    assert meter.other_cores() is None


@pytest.mark.parametrize(("other_cores", "is_enough"), [(0.1, True), (1.9, True), (3.0, False)])
def test_threads_are_short_of_cores_only_if_others_use_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_cores: float, is_enough: bool
) -> None:
    """Two threads on four cores; more threads than cores need no more than those."""
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    clock = FakeClock()
    write_stat(tmp_path, 0.0)
    meter = BusyMeter(clock, tmp_path)
    clock.now_s = 100.0
    write_stat(tmp_path, 100 * other_cores)
    assert meter.leaves(2) is is_enough
    assert meter.leaves(9) is (other_cores < 1)
