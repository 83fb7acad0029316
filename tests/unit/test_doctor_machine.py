"""A GPU that the build cannot use is noticed, and the line that mends it names the right build."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from metasd_local.doctor.machine import missing_gpu

SMI = "| NVIDIA-SMI 550.54   Driver Version: 550.54   CUDA Version: {} |"


def which(*present: str) -> Callable[[str], str | None]:
    return lambda name: f"/usr/bin/{name}" if name in present else None


def examine(
    root: Path,
    *tools: str,
    prints: str = "",
    system: str = "Linux",
    machine: str = "x86_64",
) -> tuple[str, str]:
    return missing_gpu(
        "0.3.36",
        root=root,
        system=system,
        machine=machine,
        which=which(*tools),
        run=lambda _: prints,
    )


def test_nothing_is_said_where_there_is_no_gpu(tmp_path: Path) -> None:
    assert examine(tmp_path) == ("", "")
    assert examine(tmp_path, system="Darwin") == ("", "")


def test_apple_silicon_gets_metal(tmp_path: Path) -> None:
    found, line = examine(tmp_path, system="Darwin", machine="arm64")
    assert found == "Apple GPU"
    assert line.startswith('CMAKE_ARGS="-DGGML_METAL=on" ')
    assert line.endswith("--no-binary llama-cpp-python llama-cpp-python==0.3.36")


@pytest.mark.parametrize(
    ("cuda", "tag"),
    [("11.8", "cu118"), ("12.0", None), ("12.4", "cu124"), ("12.9", "cu125"), ("13.1", "cu130")],
)
def test_the_newest_wheel_the_driver_supports(tmp_path: Path, cuda: str, tag: str | None) -> None:
    """Of the same major version; where there is none, llama.cpp is compiled."""
    found, line = examine(tmp_path, "nvidia-smi", prints=SMI.format(cuda))
    assert found == "NVIDIA GPU"
    if tag is None:
        assert '-DGGML_CUDA=on"' in line
    else:
        assert f"/whl/{tag} llama-cpp-python==0.3.36" in line
        assert "--only-binary" in line


def test_with_the_toolkit_llama_cpp_is_compiled(tmp_path: Path) -> None:
    _, line = examine(tmp_path, "nvidia-smi", "nvcc", prints=SMI.format("12.4"))
    assert line.startswith('CMAKE_ARGS="-DGGML_CUDA=on" ')


def test_the_driver_is_seen_without_its_tools(tmp_path: Path) -> None:
    driver = tmp_path / "proc/driver/nvidia/version"
    driver.parent.mkdir(parents=True)
    driver.write_text("NVRM version: 550.54", encoding="ascii")
    found, line = examine(tmp_path)
    assert found == "NVIDIA GPU"
    assert "-DGGML_CUDA=on" in line
