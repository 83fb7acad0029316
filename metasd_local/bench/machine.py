"""What a bench ran on, and whether it was idle beside it."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

MOST_OTHER_CORES = 0.1
"""Other processes' use of the CPU, in cores, beyond which a machine is not idle."""
MOST_SPREAD = 0.10
"""Median difference between repeated plain runs beyond which a machine is not idle."""


def describe_machine(root: Path = Path("/")) -> dict[str, Any]:
    """Return the CPU's name, the cores, the memory and the operating system.

    root: where `proc` lies.
    """
    cpu = platform.processor() or platform.machine()
    for line in _read(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            cpu = value.strip()
            break
    memory_bytes = None
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            memory_bytes = int(line.split()[1]) * 1024
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_bytes": memory_bytes,
        "system": f"{platform.system()} {platform.release()}",
    }


def describe_build(source: Path = Path(__file__)) -> dict[str, str | None]:
    """Return the version of llama-cpp-python and the commit of this checkout, if it is one.

    source: a file of it; a package may lie in somebody else's.
    """
    try:
        llama_cpp = version("llama-cpp-python")
    except PackageNotFoundError:
        llama_cpp = None
    commit = None
    with suppress(OSError):
        if _git(source, "ls-files", "--error-unmatch", source.name):
            commit = _git(source, "describe", "--always", "--dirty") or None
    return {"llama_cpp": llama_cpp, "commit": commit}


def judge_idleness(other_cores: float | None, spread: float | None) -> tuple[bool, str]:
    """Tell whether the machine was idle, and what was seen.

    spread: how much two plain runs of a prompt differ, median over prompts.
    """
    seen = []
    if other_cores is not None:
        seen.append(f"other processes used {other_cores:.2f} cores")
    if spread is not None:
        seen.append(f"repeated plain runs differ by {spread:.0%}")
    is_idle = (other_cores or 0.0) <= MOST_OTHER_CORES and (spread or 0.0) <= MOST_SPREAD
    return is_idle and bool(seen), ", ".join(seen) or "nothing is known of other load"


def _git(source: Path, *arguments: str) -> str:
    """Return what git says in the folder of a file, nothing if it fails."""
    command = ["git", "-C", str(source.parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
