"""Placing a pool: by what the models take and what their calls were measured to cost."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from metasd_local import fit
from metasd_local.backend import loader as loading
from metasd_local.backend.library import Device
from metasd_local.backend.loader import Loader, costs_key
from metasd_local.backend.placement import Placement
from metasd_local.compose import open_pool
from metasd_local.costs import CostCurve, write_curve
from metasd_local.options import Options
from metasd_local.pools.local import LocalDrafter, LocalPool
from tests.command import metasd_here
from tests.tiny_gguf import write_tiny_gguf

GPU_BYTES = 10**9
PLACES = ((0, False), (1, False), (2, False), (None, False), (0, True), (None, True))
DOUBTFUL = CostCurve({1: 1.0}, is_doubtful=True)


@pytest.fixture
def pool(tmp_path: Path, tiny_model_path: Path) -> LocalPool:
    drafters = [
        LocalDrafter(name, write_tiny_gguf(tmp_path / f"{name}.gguf", num_layers=1))
        for name in ("one", "two")
    ]
    (tmp_path / "broken.gguf").write_bytes(b"no model at all, but long enough")
    drafters.append(LocalDrafter("broken", tmp_path / "broken.gguf"))
    return LocalPool("pool", tiny_model_path, drafters=tuple(drafters))


@pytest.fixture
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that there is a GPU; llama.cpp will find none and compute on the CPU."""
    found = (Device("CPU", "cpu", 10**10, 10**10), Device("GPU0", "gpu", GPU_BYTES, GPU_BYTES))
    monkeypatch.setattr(fit, "room", lambda: (10**10, GPU_BYTES))
    monkeypatch.setattr(loading, "devices", lambda: found)


def place(pool: LocalPool, options: Options, costs: Path | None = None) -> Placement:
    with ExitStack() as resources:
        loader = Loader(resources=resources, num_threads=1, on_progress=None, paths=[])
        _, placement = fit.load_pool(loader, pool.target, pool.drafters, options, costs)
    return placement


def test_without_a_gpu_nothing_is_placed_on_one(
    pool: LocalPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a file opened once more as a simulation: of a large vocabulary that takes long."""
    monkeypatch.setattr(fit, "LlamaWeights", None)
    placement = place(pool, Options())
    assert placement.gpu_layers == 0
    assert not placement.drafters_on_gpu
    assert placement.context_size == 512


@pytest.mark.usefixtures("_gpu")
def test_with_a_gpu_all_that_is_sound_goes_there(pool: LocalPool) -> None:
    """A drafter that cannot be read is left to whoever loads it."""
    placement = place(pool, Options())
    assert placement.gpu_layers == 3
    assert placement.drafters_on_gpu == {"one", "two"}
    assert not place(pool, Options(gpu_layers=0)).drafters_on_gpu
    assert place(pool, Options(gpu_layers=1)).gpu_layers == 1


@pytest.mark.usefixtures("_gpu")
def test_a_drafter_measured_to_be_faster_on_the_cpu_stays_there(
    pool: LocalPool, tmp_path: Path
) -> None:
    costs = tmp_path / "costs.json"
    for drafter, on_gpu_s in zip(pool.drafters, (0.1, 0.001), strict=False):
        for layers, seconds in ((None, on_gpu_s), (0, 0.01)):
            key = costs_key(drafter.path, layers, 1, drafts=True)
            write_curve(costs, key, CostCurve({1: seconds}))
    assert place(pool, Options(), costs).drafters_on_gpu == {"two"}


@pytest.mark.usefixtures("_gpu")
def test_costs_are_those_of_a_place(pool: LocalPool) -> None:
    """Of so many layers on the GPU, as a target or a drafter."""
    path = pool.target
    keys = [costs_key(path, layers, 1, drafts=drafts) for layers, drafts in PLACES]
    assert len(set(keys)) == len(PLACES)


def test_the_doctor_finds_the_context_that_run_opens(
    pool: LocalPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where memory bounds it, and what does not fit for one does not for the other."""
    target = str(write_tiny_gguf(tmp_path / "long.gguf", context_length=4096))
    monkeypatch.setattr("metasd_local.doctor.costs.measure_curve", lambda *_, **__: DOUBTFUL)
    drafter = str(pool.drafters[0].path)
    asked = ("doctor", target, f"--drafters={drafter}", "--threads=1", "--json")
    contexts = []
    for main_bytes in (10**10, 10**7, 3 * 10**6):
        monkeypatch.setattr(fit, "room", lambda main_bytes=main_bytes: (main_bytes, 0))
        (found,) = json.loads(metasd_here(*asked).stdout)["pools"]
        opened = open_pool(Options(drafters=(drafter,), threads=1), target)
        assert found["context_size"] == opened.target.context_size
        contexts.append(opened.target.context_size)
        told = [notice for notice in opened.models.notices if "hardly fits" in notice]
        assert found["ready"] is not bool(told)
        assert all(advice in told[0] for advice in found["advice"] if told and "--" in advice)
        opened.close()
    assert contexts[0] == 4096 > contexts[1] > contexts[2]


@pytest.mark.usefixtures("_gpu")
def test_a_placed_pool_answers(pool: LocalPool) -> None:
    drafter = pool.drafters[0]
    options = Options(drafters=(str(drafter.path),), temperature=0.0, policy="fixed:one", threads=1)
    opened = open_pool(options, str(pool.target))
    assert list(opened.session(options).send("hello", seed=0, max_tokens=8))
    opened.close()
