"""What llama.cpp finds on this machine, and what it could but was not built to use."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from metasd_local.backend.library import Device, devices, features
from metasd_local.backend.threads import ThreadBudget, thread_budget

LIBRARY = "llama-cpp-python"
WHEELS = "https://abetlen.github.io/llama-cpp-python/whl"
CUDA_TAGS = ("118", "121", "122", "123", "124", "125", "130", "132")
"""CUDA versions there are wheels for, without the dot, ascending."""
_CUDA_VERSION = re.compile(r"CUDA Version: (\d+)\.(\d)")


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine as llama.cpp sees it."""

    llama_cpp: str
    """Version of llama-cpp-python."""
    features: dict[str, tuple[str, ...]]
    """What each backend of the build was compiled with or for."""
    devices: tuple[Device, ...]
    threads: ThreadBudget
    unused_gpu: str
    """A GPU that this build cannot use, empty if there is none."""
    install_line: str
    """What makes it usable, empty if nothing is missing."""

    @property
    def gpu_offload(self) -> bool:
        """Tell whether layers can be put on a GPU."""
        return any(device.kind == "gpu" for device in self.devices)


def examine_machine() -> Machine:
    """Ask llama.cpp and the operating system."""
    found = devices()
    installed = version(LIBRARY)
    unused, line = "", ""
    if not any(device.kind == "gpu" for device in found):
        unused, line = missing_gpu(installed)
    return Machine(installed, features(), found, thread_budget(), unused, line)


def missing_gpu(
    installed: str,
    *,
    root: Path = Path("/"),
    system: str = platform.system(),
    machine: str = platform.machine(),
    which: Callable[[str], str | None] = shutil.which,
    run: Callable[[Sequence[str]], str] | None = None,
) -> tuple[str, str]:
    """Return the GPU a build for the CPU leaves unused, and the line that installs another build.

    root: where `proc` lies; run: returns what a command prints.
    """
    pip = f"{sys.executable} -m pip install --force-reinstall --no-deps --no-cache-dir"
    pinned = f"{LIBRARY}=={installed}"
    if system == "Darwin" and machine == "arm64":
        source = f'CMAKE_ARGS="-DGGML_METAL=on" {pip} --no-binary {LIBRARY} {pinned}'
        return "Apple GPU", source
    tool = which("nvidia-smi")
    if not tool and not (root / "proc/driver/nvidia/version").exists():
        return "", ""
    match = _CUDA_VERSION.search((run or _output)([tool])) if tool else None
    supported = "".join(match.groups()) if match else ""
    tags = [tag for tag in CUDA_TAGS if tag[:2] == supported[:2] and tag <= supported]
    if tags and not which("nvcc"):
        wheel = f"{pip} --only-binary {LIBRARY} --extra-index-url {WHEELS}/cu{tags[-1]} {pinned}"
        return "NVIDIA GPU", wheel
    # It needs the CUDA toolkit, and is tuned for this machine.
    return "NVIDIA GPU", f'CMAKE_ARGS="-DGGML_CUDA=on" {pip} --no-binary {LIBRARY} {pinned}'


def _output(command: Sequence[str]) -> str:
    try:
        finished = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=10, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return finished.stdout
