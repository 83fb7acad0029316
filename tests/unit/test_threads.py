"""The default thread count: physical cores, bounded by affinity and by every cgroup's quota."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from metasd_local.backend.threads import memory_limit, thread_budget

EIGHT_PROCESSORS = set(range(8))


@pytest.fixture(autouse=True)
def _eight_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: EIGHT_PROCESSORS, raising=False)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="ascii")
    return root


def topology(name: str = "core_cpus_list") -> dict[str, str]:
    """Four cores of two processors: n and n + 4 share one."""
    return {
        f"sys/devices/system/cpu/cpu{n}/topology/{name}": f"{n % 4},{n % 4 + 4}" for n in range(8)
    }


@pytest.mark.parametrize("name", ["core_cpus_list", "thread_siblings_list"])
def test_processors_of_one_core_count_once(tmp_path: Path, name: str) -> None:
    assert thread_budget(write(tmp_path, topology(name))).num_threads == 4


def test_without_topology_logical_processors_count(tmp_path: Path) -> None:
    assert thread_budget(tmp_path).num_threads == 8


def test_cores_outside_the_affinity_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 4, 1}, raising=False)
    assert thread_budget(write(tmp_path, topology())).num_threads == 2


def test_without_affinity_all_processors_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert thread_budget(tmp_path).num_threads == 1


VERSION_1 = {"proc/self/cgroup": "5:memory:/a\n3:cpu,cpuacct:/docker/abc"}
VERSION_2 = {"proc/self/cgroup": "0::/user.slice/app.scope"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({"sys/fs/cgroup/cpu.max": "200000 100000"}, 2, id="v2 top"),
        pytest.param(
            {"sys/fs/cgroup/user.slice/app.scope/cpu.max": "350000 100000"}, 3, id="v2 rounded down"
        ),
        pytest.param(
            {
                "sys/fs/cgroup/user.slice/cpu.max": "100000 100000",
                "sys/fs/cgroup/user.slice/app.scope/cpu.max": "max 100000",
            },
            1,
            id="v2 parent binds",
        ),
        pytest.param({"sys/fs/cgroup/cpu.max": "50000 100000"}, 1, id="v2 at least one"),
        pytest.param({"sys/fs/cgroup/cpu.max": "max 100000"}, 4, id="v2 unlimited"),
        pytest.param({"sys/fs/cgroup/cpu.max": "nonsense"}, 4, id="v2 unreadable"),
        pytest.param({"sys/fs/cgroup/cpu.max": "100000 0"}, 4, id="v2 no period"),
        pytest.param({"sys/fs/cgroup/unified/cpu.max": "200000 100000"}, 2, id="v2 beside v1"),
        pytest.param({"sys/fs/cgroup/elsewhere/cpu.max": "100000 100000"}, 4, id="v2 not ours"),
    ],
)
def test_quota_of_version_2(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    root = write(tmp_path, {**topology(), **VERSION_2, **files})
    assert thread_budget(root).num_threads == expected


@pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpu"])
@pytest.mark.parametrize(
    ("directory", "quota", "expected"),
    [
        ("docker/abc", "250000", 2),
        ("docker", "100000", 1),
        ("", "300000", 3),
        ("docker/abc", "-1", 4),
        ("docker/other", "100000", 4),
    ],
)
def test_quota_of_version_1(
    tmp_path: Path, mount: str, directory: str, quota: str, expected: int
) -> None:
    group = f"sys/fs/cgroup/{mount}/{directory}"
    files = {f"{group}/cpu.cfs_quota_us": quota, f"{group}/cpu.cfs_period_us": "100000"}
    root = write(tmp_path, {**topology(), **VERSION_1, **files})
    assert thread_budget(root).num_threads == expected


def test_a_quota_above_the_cores_changes_nothing(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/cpu.max": "6400000 100000"}
    assert thread_budget(write(tmp_path, {**topology(), **VERSION_2, **files})).num_threads == 4


@pytest.mark.parametrize(
    "files",
    [
        {
            "proc/self/cgroup": "0::/a/b",
            "sys/fs/cgroup/a/memory.max": "4000",
            "sys/fs/cgroup/a/b/memory.max": "max",
        },
        {
            **VERSION_1,
            "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "4000",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/cpu/docker/memory.limit_in_bytes": "1",
        },
    ],
    ids=["v2", "v1"],
)
def test_the_tightest_memory_limit_counts(tmp_path: Path, files: dict[str, str]) -> None:
    """Of the group and of all that contain it."""
    assert memory_limit(tmp_path) is None
    assert memory_limit(write(tmp_path, files)) == 4000
