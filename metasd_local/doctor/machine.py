"""What llama.cpp finds on this machine, and what it could but was not built to use."""

from __future__ import annotations

import platform
import re
import shlex
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
VENDORS = {"0x1002": "AMD GPU", "0x8086": "Intel GPU"}
"""By the number of the PCI bus; both work with Vulkan. Neither was tested with this package."""
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

    root: where `proc` and `sys` lie; run: returns what a command prints.
    """
    pip = ("-m", "pip", "install", "--force-reinstall", "--no-deps", "--no-cache-dir")
    pinned = f"{LIBRARY}=={installed}"

    def line(*arguments: str) -> str:
        is_windows = system == "Windows"
        return (subprocess.list2cmdline if is_windows else shlex.join)(
            [sys.executable, *pip, *arguments]
        )

    def source(option: str) -> str:
        # Not by CMAKE_ARGS, which every shell sets in another way.
        setting = f"--config-settings=cmake.args=-D{option}=on"
        return line(setting, "--no-binary", LIBRARY, pinned)

    def wheel(tag: str) -> str:
        return line("--only-binary", LIBRARY, "--extra-index-url", f"{WHEELS}/{tag}", pinned)

    if system == "Darwin" and machine == "arm64":
        return "Apple GPU", source("GGML_METAL")
    tool = which("nvidia-smi")
    if tool or (root / "proc/driver/nvidia/version").exists():
        match = _CUDA_VERSION.search((run or _output)([tool])) if tool else None
        supported = "".join(match.groups()) if match else ""
        tags = [tag for tag in CUDA_TAGS if tag[:2] == supported[:2] and tag <= supported]
        # Compiling needs the CUDA toolkit, and is tuned for this machine.
        is_compiled = not tags or which("nvcc")
        return "NVIDIA GPU", source("GGML_CUDA") if is_compiled else wheel(f"cu{tags[-1]}")
    for card in sorted(root.glob("sys/class/drm/card*/device/vendor")):
        name = VENDORS.get(card.read_text(encoding="ascii", errors="replace").strip())
        if name is not None:
            return name, source("GGML_VULKAN") if which("glslc") else wheel("vulkan")
    return "", ""


def _output(command: Sequence[str]) -> str:
    try:
        finished = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=10, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return finished.stdout
