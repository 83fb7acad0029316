"""What this process may use of the machine: threads and memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_CPU_DIRECTORY = "sys/devices/system/cpu"


@dataclass(frozen=True, slots=True)
class ThreadBudget:
    """What bounds the number of threads."""

    num_processors: int
    """Logical ones this process may use."""
    num_cores: int
    """Physical ones they belong to, as far as the kernel tells."""
    quota: float | None
    """Processors' worth of time its cgroups grant, None if unlimited or unknown."""

    @property
    def num_threads(self) -> int:
        """Return the number to use, at least 1."""
        return max(int(min(self.num_cores, self.quota or self.num_cores)), 1)


def thread_budget(root: Path = Path("/")) -> ThreadBudget:
    """Return what this machine, the affinity of this process and its cgroups allow.

    root: where `sys` and `proc` lie.
    """
    processors = _allowed_processors()
    groups = _cgroup_directories(root, "cpu")
    quotas = (_quota(directory, version) for directory, version in groups)
    return ThreadBudget(
        num_processors=len(processors),
        num_cores=len({_core_of(root, processor) for processor in processors}),
        quota=min((quota for quota in quotas if quota is not None), default=None),
    )


def memory_limit(root: Path = Path("/")) -> int | None:
    """Return the bytes of main memory its cgroups grant, None if unlimited.

    Version 1 says so by a number larger than any memory.
    """
    names = {1: "memory.limit_in_bytes", 2: "memory.max"}
    groups = _cgroup_directories(root, "memory")
    texts = [_read(directory / names[version]) for directory, version in groups]
    return min((int(text) for text in texts if text.isdecimal()), default=None)


def _allowed_processors() -> set[int]:
    # Affinity is known on Linux only.
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _core_of(root: Path, processor: int) -> str:
    """Return what the processors of one physical core have in common: their list."""
    topology = root / _CPU_DIRECTORY / f"cpu{processor}" / "topology"
    # The second name is that of older kernels.
    for name in ("core_cpus_list", "thread_siblings_list"):
        siblings = _read(topology / name)
        if siblings:
            return siblings
    return str(processor)


def _cgroup_directories(root: Path, controller: str) -> list[tuple[Path, int]]:
    """Return the cgroups of this process with their version, and all that contain them.

    Inside a container the path in /proc/self/cgroup may be the host's: then only the mount's
    top, which is always included, exists.
    """
    mount = root / "sys/fs/cgroup"
    directories: list[tuple[Path, int]] = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            tops, version = [mount, mount / "unified"], 2
        elif controller in controllers.split(","):
            tops, version = [mount / controllers, mount / controller], 1
        else:
            continue
        relative = Path(path.lstrip("/"))
        for top in tops:
            directories += [(top / part, version) for part in (relative, *relative.parents)]
    return directories


def _quota(directory: Path, version: int) -> float | None:
    """Return the processors' worth of time a cgroup may use; None if unlimited or unknown."""
    if version == 2:
        words = _read(directory / "cpu.max").split()
    else:
        words = [
            _read(directory / "cpu.cfs_quota_us"),
            _read(directory / "cpu.cfs_period_us"),
        ]
    try:
        quota_us, period_us = (int(word) for word in words)
    except ValueError:
        return None
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
