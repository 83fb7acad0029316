"""What a bench says about the machine, and whether it was idle."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from metasd_local.bench.machine import (
    describe_build,
    describe_machine,
    judge_idleness,
)


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


def test_the_commit_is_that_of_the_repository_the_file_belongs_to(tmp_path: Path) -> None:
    """A package that lies untracked in somebody else's repository has none."""
    source = tmp_path / "package/machine.py"
    source.parent.mkdir()
    source.touch()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run([*git, *command], check=True)
    assert describe_build(source)["commit"] is None
    subprocess.run([*git, "add", "."], check=True)
    assert describe_build(source)["commit"]


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
