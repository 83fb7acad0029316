"""What is said of the machine: what the build can use, and the line that mends what it cannot."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from metasd_local.backend import library
from metasd_local.backend.library import Device
from metasd_local.backend.threads import ThreadBudget
from metasd_local.doctor import machine
from metasd_local.doctor.machine import missing_gpu
from metasd_local.doctor.report import machine_checks

SMI = "| NVIDIA-SMI 550.54   Driver Version: 550.54   CUDA Version: {} |"


def which(*present: str) -> Callable[[str], str | None]:
    return lambda name: f"/usr/bin/{name}" if name in present else None


def examine(
    root: Path,
    *tools: str,
    prints: str = "",
    system: str = "Linux",
    processor: str = "x86_64",
) -> tuple[str, str]:
    return missing_gpu(
        "0.3.36",
        root=root,
        system=system,
        machine=processor,
        which=which(*tools),
        run=lambda _: prints,
    )


def test_nothing_is_said_where_there_is_no_gpu(tmp_path: Path) -> None:
    assert examine(tmp_path) == ("", "")
    assert examine(tmp_path, system="Darwin") == ("", "")


def test_apple_silicon_gets_metal(tmp_path: Path) -> None:
    found, line = examine(tmp_path, system="Darwin", processor="arm64")
    assert found == "Apple GPU"
    assert line.endswith("=-DGGML_METAL=on --no-binary llama-cpp-python llama-cpp-python==0.3.36")


@pytest.mark.parametrize(
    ("cuda", "tag"),
    [("11.8", "cu118"), ("12.0", None), ("12.4", "cu124"), ("12.9", "cu125"), ("13.1", "cu130")],
)
def test_the_newest_wheel_the_driver_supports(tmp_path: Path, cuda: str, tag: str | None) -> None:
    """Of the same major version; where there is none, llama.cpp is compiled."""
    found, line = examine(tmp_path, "nvidia-smi", prints=SMI.format(cuda))
    assert found == "NVIDIA GPU"
    if tag is None:
        assert "cmake.args=-DGGML_CUDA=on" in line
    else:
        assert f"/whl/{tag} llama-cpp-python==0.3.36" in line
        assert "--only-binary" in line


def test_with_the_toolkit_llama_cpp_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a line that the shell of the system takes, wherever Python lies."""
    for system, python, word in (
        ("Linux", "/opt/my python/bin/python", "'/opt/my python/bin/python' -m pip "),
        ("Windows", r"C:\my python\python.exe", r'"C:\my python\python.exe" -m pip '),
    ):
        monkeypatch.setattr(sys, "executable", python)
        _, line = examine(tmp_path, "nvidia-smi", "nvcc", prints=SMI.format("12.4"), system=system)
        assert line.startswith(word)
        assert " --config-settings=cmake.args=-DGGML_CUDA=on " in line


@pytest.mark.parametrize(
    ("vendor", "name"),
    [("0x1002", "AMD GPU"), ("0x8086", "Intel GPU"), ("0x1a03", ""), ("\ufffd", "")],
)
def test_other_gpus_are_known_by_their_vendor(tmp_path: Path, vendor: str, name: str) -> None:
    """A server's screen adapter is none; Vulkan is compiled where its compiler is."""
    file = tmp_path / "sys/class/drm/card1/device/vendor"
    file.parent.mkdir(parents=True)
    file.write_text(vendor + "\n", encoding="utf-8")
    found, line = examine(tmp_path)
    assert found == name
    assert line.endswith("/whl/vulkan llama-cpp-python==0.3.36") is bool(name)
    assert ("-DGGML_VULKAN=on" in examine(tmp_path, "glslc")[1]) is bool(name)


def test_the_driver_is_seen_without_its_tools(tmp_path: Path) -> None:
    driver = tmp_path / "proc/driver/nvidia/version"
    driver.parent.mkdir(parents=True)
    driver.write_text("NVRM version: 550.54", encoding="ascii")
    found, line = examine(tmp_path)
    assert found == "NVIDIA GPU"
    assert "-DGGML_CUDA=on" in line


CPU = Device("CPU", "cpu", 16 * 10**9, 16 * 10**9)
GPU = Device("CUDA0", "gpu", 24 * 10**9, 20 * 10**9)
ACCELERATOR = Device("BLAS", "accelerator", 0, 0)


@pytest.mark.parametrize(
    ("found", "unused", "expected"),
    [
        ([CPU], ("", ""), ("ok", "no GPU, all layers on the CPU", "")),
        ([CPU, GPU], ("NVIDIA GPU", "x"), ("ok", "layers go to the GPU", "")),
        ([CPU, ACCELERATOR], ("", ""), ("ok", "no GPU, all layers on the CPU", "")),
        ([CPU], ("NVIDIA GPU", "pip"), ("warn", "NVIDIA GPU not used, this llama.cpp was ", "pip")),
        ([CPU], ("Intel GPU", "pip"), ("hint", "Intel GPU not used, this llama.cpp was ", "pip")),
    ],
)
def test_the_machine_is_told_as_llama_cpp_sees_it(
    monkeypatch: pytest.MonkeyPatch,
    found: list[Device],
    unused: tuple[str, str],
    expected: tuple[str, str, str],
) -> None:
    """Version, features, devices, threads, and whether layers go to a GPU."""
    made_up = {"CUDA": ("ARCHS=800", "USE_GRAPHS"), "CPU": ("AVX2", "FMA"), "RPC": ()}
    for name, value in {
        "devices": tuple(found),
        "features": made_up,
        "version": "0.3.36",
        "thread_budget": ThreadBudget(num_processors=16, num_cores=8, quota=3.5),
        "missing_gpu": unused,
    }.items():
        monkeypatch.setattr(machine, name, lambda *_, value=value: value)
    checks = [*machine_checks(machine.examine_machine())]
    told = {(check.what, check.found) for check in checks}
    assert {
        ("llama.cpp", "llama-cpp-python 0.3.36, built for CUDA, CPU, RPC"),
        ("built with", "CUDA: ARCHS=800 USE_GRAPHS"),
        ("built with", "CPU: AVX2 FMA"),
        ("device", "CPU (cpu): 16.0 GB"),
        ("threads", "3: 8 cores with 16 processors allowed, a quota of 3.5"),
    } <= told
    assert (("device", "CUDA0 (gpu): 24.0 GB, 20.0 GB free") in told) is (GPU in found)
    assert (("device", "BLAS (accelerator): memory unknown") in told) is (ACCELERATOR in found)
    (offloading,) = (check for check in checks if check.what == "offloading")
    state, text, advice = expected
    assert (offloading.state, offloading.advice) == (state, advice)
    assert offloading.found.startswith(text)


def test_the_features_are_those_llama_cpp_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the switches that are off."""
    info = b"CUDA : ARCHS = 800,900 | FORCE_MMQ = 0 | CPU : AVX2 = 1 | AVX512 = 0 | "
    monkeypatch.setattr("llama_cpp.llama_cpp.llama_print_system_info", lambda: info)
    assert library.features() == {"CPU": ("AVX2",), "CUDA": ("ARCHS=800,900",)}
