"""What a bench says about the machine, and whether it was idle."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from metasd_local.bench.machine import (
    BusyMeter,
    describe_build,
    describe_machine,
    judge_idleness,
)
from tests.bench_runs import FakeClock


def write_stat(root: Path, busy_s: float) -> None:
    """Write /proc/stat of a machine that was busy for so long."""
    ticks = round(busy_s * os.sysconf("SC_CLK_TCK"))
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/stat").write_text(f"cpu  {ticks} 0 0 99999 5 0 0 0 0 0\ncpu0 1 2\n")


def test_the_machine_is_described_by_the_kernel(tmp_path: Path) -> None:
    """CPU and memory as /proc names them."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor : 0\nmodel name : Fast One 9000\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal:  1024 kB\nMemFree: 1 kB\n")
    found = describe_machine(tmp_path)
    assert found["cpu"] == "Fast One 9000"
    assert found["memory_bytes"] == 1024 * 1024
    assert found["cores"] == os.cpu_count()


def test_without_proc_the_machine_still_has_a_description(tmp_path: Path) -> None:
    """What is unknown is null."""
    found = describe_machine(tmp_path)
    assert found["memory_bytes"] is None
    assert set(found) == {"cpu", "cores", "memory_bytes", "system"}


def test_the_build_names_llama_cpp_python() -> None:
    """Figures without a version cannot be compared."""
    assert describe_build()["llama_cpp"]


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


@pytest.mark.parametrize(
    ("other_cores", "spread", "is_idle"),
    [
        (0.02, 0.03, True),
        (0.5, 0.03, False),
        (0.02, 0.5, False),
        (None, 0.03, True),
        (0.02, None, True),
        (None, None, False),
    ],
)
def test_idle_means_nothing_else_ran_and_repeats_agree(
    other_cores: float | None, spread: float | None, is_idle: bool
) -> None:
    """If nothing is known, a machine does not count as idle."""
    found, seen = judge_idleness(other_cores, spread)
    assert found is is_idle
    assert seen
