"""`metasd doctor` names the rule that fails, and never lets one bad file hide the rest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from metasd_local.busy import BusyMeter
from metasd_local.config import state_path
from metasd_local.costs import CURVE_SIZES, CostCurve
from metasd_local.doctor import costs
from metasd_local.kept import COSTS_FILE
from tests.command import metasd_here
from tests.hub_cache import put_in_cache
from tests.tiny_gguf import write_tiny_gguf

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAIRS: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "same": ({}, None, "320 ids compared"),
    "smaller": ({"num_layers": 1, "width": 32}, None, "320 ids compared"),
    "size off by 128": ({"vocab_size": 448}, None, "320 ids compared"),
    "vocabulary type": ({"tokenizer": "rwkv"}, "type", "'byte pairs', drafter 'RWKV'"),
    "first token": ({"adds_bos": True}, "first token", "target None, drafter 0"),
    "size off by 129": ({"vocab_size": 449}, "size", "target 320, drafter 449"),
    "one token": ({"texts": {300: "zz"}}, "token texts", "token 300: target 'tm', drafter 'zz'"),
    "no vocabulary": ({"tokenizer": "no_vocab"}, "vocabulary", "has no vocabulary"),
    "recurrent": ({"architecture": "mamba"}, "rollback", "(mamba) cannot forget"),
    "hybrid": ({"architecture": "lfm2"}, "rollback", "(lfm2) cannot forget"),
    "sliding window": ({"architecture": "gemma3"}, None, "320 ids compared"),
}


@pytest.fixture
def _costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every call to cost as much as on a machine on which drafts pay."""

    def measure(*_: object, sizes: Sequence[int], **__: object) -> CostCurve:
        return CostCurve({size: 0.01 * (1 + size / 10) for size in sizes})

    monkeypatch.setattr(costs, "measure_curve", measure)


def examine(target: Path, *drafters: Path) -> dict[str, Any]:
    """Return the report of a pool of files, and check the exit status."""
    named = [f"--drafters={','.join(map(str, drafters))},ngram"] if drafters else []
    finished = metasd_here("doctor", str(target), *named, "--threads=1", "--json")
    document: dict[str, Any] = json.loads(finished.stdout)
    assert finished.returncode == (0 if document["ok"] else 1)
    return document


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pairs")


@pytest.fixture(scope="module")
def pairs(folder: Path, tiny_model_path: Path) -> dict[str, Any]:
    """Return the verdict on every drafter of PAIRS, all of them in one pool."""
    for name, (options, _, _) in PAIRS.items():
        write_tiny_gguf(folder / f"{name}.gguf", disturbance=0.1, **options)
    document = examine(tiny_model_path, *(folder / f"{name}.gguf" for name in PAIRS))
    return {entry["name"]: entry for entry in document["pools"][0]["drafters"]}


@pytest.mark.parametrize(("name", "rule", "detail"), [(n, r, d) for n, (_, r, d) in PAIRS.items()])
def test_the_rule_that_fails_is_named(
    pairs: dict[str, Any], name: str, rule: str | None, detail: str
) -> None:
    assert pairs[name]["compatible"] is (rule is None)
    assert pairs[name]["rule"] == rule
    assert detail in pairs[name]["detail"]


@pytest.mark.usefixtures("_costs")
def test_files_that_are_no_models_are_named(tmp_path: Path, tiny_model_path: Path) -> None:
    """Missing, cut off, a part missing, a pointer, a web page; the sound one is used."""
    raw = tiny_model_path.read_bytes()
    first = write_tiny_gguf(tmp_path / "split.gguf", tensors_per_part=8)
    (tmp_path / "split-00002-of-00003.gguf").unlink()
    for name, content in {
        "sound": raw,
        "cut": raw[:-1],
        "pointer": LFS_POINTER.encode(),
        "page": b"<html><body>Access denied</body></html>",
    }.items():
        (tmp_path / f"{name}.gguf").write_bytes(content)
    found = {
        "sound": "320 ids",
        "cut": "has 467487 bytes",
        "pointer": "is a Git LFS pointer",
        "page": "is a web page",
        "absent": "is not a file",
        first.stem: "is missing, part 2 of 3",
    }
    document = examine(tiny_model_path, *(tmp_path / f"{name}.gguf" for name in found))
    (pool,) = document["pools"]
    assert not document["ok"]
    assert pool["ready"]
    for entry in pool["drafters"]:
        assert found[entry["name"]] in entry["detail"]
        assert entry["rule"] == (None if entry["name"] == "sound" else "file")
    assert set(pool["payoffs"]) == {"ngram", "sound"}


def test_a_recurrent_target_decodes_plainly(tmp_path: Path, tiny_model_path: Path) -> None:
    target = write_tiny_gguf(tmp_path / "recurrent.gguf", architecture="mamba")
    (pool,) = examine(target, tiny_model_path)["pools"]
    assert (pool["ready"], pool["rollback"], pool["payoffs"]) == (True, "none", {})
    assert "decodes plainly" in json.dumps(pool["checks"])


def test_a_window_is_kept_at_full_size_and_said_so(tmp_path: Path) -> None:
    target = write_tiny_gguf(tmp_path / "window.gguf", architecture="gemma3")
    (pool,) = examine(target)["pools"]
    assert (pool["ready"], pool["rollback"]) == (True, "exact")
    context = next(check for check in pool["checks"] if check["what"] == "context")
    assert "sliding window at full size" in context["found"]


def use_pools(folder: Path, monkeypatch: pytest.MonkeyPatch, **targets: Path) -> None:
    """Make a catalogue of the user's, every target its own drafter `twin`."""
    path = folder / "config/metasd/models.toml"
    path.parent.mkdir(parents=True)
    path.write_text(
        "".join(
            f"[pool.{name}]\ntarget = {{ path = '{target}' }}\n"
            f"[[pool.{name}.drafter]]\nname = 'twin'\npath = '{target}'\n"
            for name, target in targets.items()
        ),
        encoding="utf-8",
    )
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))


def test_a_broken_target_ends_its_own_report_only(
    tmp_path: Path, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all pools that are here, every other one is examined all the same."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny_model_path.read_bytes()[:-1])
    use_pools(tmp_path, monkeypatch, broken=broken, sound=tiny_model_path)
    finished = metasd_here("doctor", "--json")
    document = json.loads(finished.stdout)
    assert finished.returncode == 1
    (twin,) = next(pool for pool in document["pools"] if pool["name"] == "broken")["drafters"]
    assert (twin["compatible"], twin["rule"]) == (False, "file")
    ready = {pool["name"]: pool["ready"] for pool in document["pools"]}
    assert ready["sound"]
    assert not ready["broken"]
    assert ready["starter"]


def test_a_target_that_has_moved_is_shown_as_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_pools(tmp_path, monkeypatch, moved=tmp_path / "gone.gguf")
    finished = metasd_here("doctor", "--json")
    found = {pool["name"]: pool for pool in json.loads(finished.stdout)["pools"]}
    assert (finished.returncode, found["moved"]["ready"]) == (1, False)
    assert "gone.gguf is not a file" in found["moved"]["checks"][0]["found"]


@pytest.mark.usefixtures("_costs")
@pytest.mark.parametrize("is_linked", [True, False])
def test_a_damaged_file_of_the_cache_is_found_by_its_checksum(
    tmp_path: Path, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_linked: bool
) -> None:
    """A flipped bit of the weights changes nothing that llama.cpp looks at.

    The hash is the name of what the cache links to or, without links, the catalogue's.
    """
    raw = bytearray(tiny_model_path.read_bytes())
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    path = put_in_cache(tmp_path / "hub", "user/repo", "model.gguf", bytes(raw))
    blob = path.resolve()
    if not is_linked:
        path.unlink()
        path = blob = blob.rename(path)
    pools = tmp_path / "config/metasd/models.toml"
    pools.parent.mkdir(parents=True)
    known = "" if is_linked else f", sha256 = '{hashlib.sha256(raw).hexdigest()}'"
    pools.write_text(
        f"[pool.one]\ntarget = {{ repo = 'user/repo', file = 'model.gguf'{known} }}\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert metasd_here("doctor", "one").returncode == 0
    raw[-100] ^= 1
    blob.write_bytes(raw)
    finished = metasd_here("doctor", "one")
    assert finished.returncode == 1
    assert "→ run: metasd download --verify user/repo/model.gguf\n" in finished.stdout
    assert finished.stdout.splitlines()[-1].split() == ["fail", "verdict", "not", "ready"]
    blob.write_bytes(raw[:-1])
    finished = metasd_here("doctor", "one")
    assert finished.stdout.count("→ run: metasd download --verify user/repo/model.gguf\n") == 2


def test_a_pool_that_does_not_fit_says_what_would(tiny_model_path: Path) -> None:
    finished = metasd_here(
        "doctor", str(tiny_model_path), "--ctx=2147483647", "--threads=1", "--json"
    )
    (pool,) = json.loads(finished.stdout)["pools"]
    assert finished.returncode == 1
    assert not pool["ready"]
    (advice,) = pool["advice"]
    assert advice.startswith("--ctx ")
    fitting = metasd_here(
        "doctor", str(tiny_model_path), f"--ctx={advice.split()[1]}", "--threads=1"
    )
    assert fitting.returncode == 0


SHAPE = {
    "": {
        *("ok", "llama_cpp", "features", "devices", "gpu_offload", "unused_gpu", "install_line"),
        *("threads", "thread_budget", "pools"),
    },
    "devices": {"name", "kind", "memory_bytes", "free_bytes"},
    "pools": {
        *("name", "ready", "target", "drafters", "rollback", "context_size", "advice", "checks"),
        *("memory_needed_bytes", "cost_curve", "payoffs", "assumed_acceptance"),
    },
    "drafters": {"name", "compatible", "rule", "detail"},
    "checks": {"state", "what", "found", "advice"},
    "payoffs": {
        *("draft_s", "least_acceptance", "best_window", "best_speedup", "largest_window"),
        "ceiling",
    },
}


@pytest.mark.usefixtures("_costs")
def test_the_report_has_its_shape_and_costs_are_kept(
    tmp_path: Path, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one run measured, the next one without POOL shows; the text says the same."""
    use_pools(tmp_path, monkeypatch, tiny=tiny_model_path)
    monkeypatch.setenv("COLUMNS", "60")
    text = metasd_here("doctor", "tiny", "--threads=1").stdout
    lines = text.splitlines()
    assert lines[0] == "this machine"
    assert all(len(line) <= 80 for line in lines)
    states = {line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "}
    assert states <= {"ok", "warn"}
    assert any(line.split()[:2] == ["twin", "11"] for line in lines)
    assert lines[-2].startswith("  ok    verdict      ready; drafts pay from ")
    document = json.loads(metasd_here("doctor", "--threads=1", "--json").stdout)
    pools = {pool["name"]: pool for pool in document["pools"]}
    assert set(pools) == {"starter", "tiny"}
    pool = pools["tiny"]
    assert set(document) == SHAPE[""]
    assert set(pool) == SHAPE["pools"]
    assert set(document["devices"][0]) == SHAPE["devices"]
    assert set(pool["drafters"][0]) == SHAPE["drafters"]
    assert set(pool["checks"][0]) == SHAPE["checks"]
    assert set(pool["payoffs"]) == {"ngram", "twin"}
    assert set(pool["payoffs"]["twin"]) == SHAPE["payoffs"]
    assert tuple(map(int, pool["cost_curve"])) == CURVE_SIZES
    words = text.split()
    for check in pool["checks"]:
        found = [check["state"], *check["what"].split(), *check["found"].split()]
        assert any(words[at:][: len(found)] == found for at in range(len(words)))


@pytest.mark.parametrize("is_busy", [False, True])
def test_costs_that_are_shown_are_kept_and_those_of_a_busy_machine_are_neither(
    tmp_path: Path, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_busy: bool
) -> None:
    """Nothing is promised then. What looks busy here may be so."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(BusyMeter, "leaves", lambda *_: not is_busy)
    (pool,) = examine(tiny_model_path)["pools"]
    states = {check["what"]: check["state"] for check in pool["checks"]}
    assert pool["ready"]
    assert states["costs"] == states["verdict"]
    is_shown = states["costs"] == "ok"
    assert is_shown <= (not is_busy)
    assert bool(pool["payoffs"]) is bool(pool["cost_curve"]) is is_shown
    assert (state_path(os.environ) / COSTS_FILE).exists() is is_shown
