"""`metasd ls`, `show`, `add` and `rm` on a made-up cache, and the pool that answers then."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import filelock
import pytest

from metasd_local.cli import main
from metasd_local.cli.surroundings import FAILED, WRONG_USAGE, process_surroundings
from metasd_local.hub.cache import lock_path, part_suffix
from tests.command import metasd_here
from tests.hub_cache import COMMIT, put_in_cache
from tests.scripted_session import Terminal
from tests.tiny_gguf import write_tiny_gguf
from tui.start import chat

OLD_COMMIT = COMMIT[::-1]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home folder of this test's own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    for name in ("CONFIG", "STATE", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    return tmp_path


@pytest.fixture
def hub(home: Path) -> Path:
    """Return a cache with a target, two drafters and a pool of them."""
    hub = home / "cache/huggingface/hub"
    big = write_tiny_gguf(home / "big.gguf", width=128).read_bytes()
    put_in_cache(hub, "user/big", "big.gguf", big)
    for seed, name in enumerate(("code", "maths")):
        small = write_tiny_gguf(home / "x.gguf", seed=seed, num_layers=1, width=32).read_bytes()
        put_in_cache(hub, "user/small", f"sub/{name}.gguf", small)
    (home / "x.gguf").unlink()
    return hub


def result(*arguments: str) -> Any:
    finished = metasd_here(*arguments, "--json")
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    return json.loads(finished.stdout)


def add(name: str, target: str, *drafters: str) -> Any:
    said = [word for drafter in drafters for word in ("--drafter", drafter)]
    return result("add", name, "--target", target, *said)


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_a_fresh_machine_has_the_starter_and_the_names_of_others(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written for looking; to fetch is advised where it is allowed."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    finished = metasd_here("list")
    starter, qwen3, *_ = finished.stdout.splitlines()
    assert starter.startswith("* starter ")
    assert "ready" in starter
    assert starter.endswith("(demo) + 6 drafters")
    assert max(map(len, finished.stdout.splitlines())) < 80
    assert "not here" in qwen3
    assert "metasd download" in finished.stderr
    assert metasd_here("ls", "--offline").stderr == ""
    pools = {pool["name"]: pool for pool in result("ls")["pools"]}
    assert pools["starter"]["complete"]
    assert pools["starter"]["missing_bytes"] == 0
    assert not pools["qwen3"]["ready"]
    shown = metasd_here("show", "qwen3").stdout
    assert "  size unknown, not here; for code\n" in shown
    assert "  unverified: file name by analogy" in shown
    assert shown.endswith("to fetch 397 MB and 3 files of unknown size: metasd download qwen3\n")
    assert pools["qwen3"]["missing_bytes"] is None
    assert files_in(home) == set()


def test_a_damaged_state_is_said_once_and_not_among_the_results(home: Path) -> None:
    """By every command that reads it."""
    path = home / "state/metasd/pools.json"
    path.parent.mkdir(parents=True)
    path.write_text("[")
    finished = metasd_here("ls", "--json")
    assert (finished.returncode, json.loads(finished.stdout)["default"]) == (0, "starter")
    assert re.fullmatch(r"metasd: .*pools\.json held no sound JSON object; .*\n", finished.stderr)


def test_a_pool_is_added_shown_used_and_removed(hub: Path, home: Path) -> None:
    """From three files to an answer, and back to nothing but the files given by path."""
    assert result("run", "hello", "--max-tokens", "1")["pool"] == "starter"
    own = write_tiny_gguf(home / "my drafter.gguf", num_layers=1, width=32)
    shown = add("mine", "user/big", "user/small/sub/code.gguf", str(own))
    assert [drafter["name"] for drafter in shown["drafters"]] == ["code", "my-drafter"]
    assert shown["complete"]
    assert result("info", "mine") == shown
    assert (
        shown["size_bytes"]
        == sum(each["size_bytes"] for each in shown["drafters"]) + (shown["target"]["size_bytes"])
    )
    assert shown["target"]["path"] in metasd_here("show", "mine").stdout
    # The starter answered before, but nobody had named it.
    assert result("ls")["default"] == "mine"
    result("run", "starter", "hello", "--max-tokens", "1")
    assert result("ls")["default"] == "starter"
    answer = result("run", "mine", "hello", "--max-tokens", "4", "--seed", "1")
    assert answer["pool"] == "mine"
    assert result("ls")["default"] == "mine"
    removed = result("rm", "mine", "--yes")
    assert removed["entry_removed"]
    assert removed["kept"] == [{"path": str(own), "reason": "given by path"}]
    assert removed["freed_bytes"] > 0
    assert own.exists()
    assert not (hub / "models--user--big").exists()
    maths = "models--user--small/snapshots/" + COMMIT + "/sub/maths.gguf"
    assert maths in files_in(hub)
    assert len([*(hub / "models--user--small/blobs").iterdir()]) == 1
    assert result("ls")["default"] == "starter"


def test_a_pool_that_cannot_be_taken_out_keeps_its_files(hub: Path, home: Path) -> None:
    """Nothing goes before that is sure."""
    own = home / "config/metasd/models.toml"
    own.parent.mkdir(parents=True)
    own.write_text('pool.mine.target = { repo = "user/big", file = "big.gguf" }\n')
    before = files_in(hub)
    finished = metasd_here("rm", "mine", "--yes")
    assert finished.returncode == WRONG_USAGE
    assert finished.stderr.endswith("change it by hand\n")
    assert files_in(hub) == before


def test_files_that_other_pools_use_stay(hub: Path) -> None:
    """As long as the target of such a pool is here."""
    add("one", "user/big/big.gguf", "user/small/sub/code.gguf")
    add("two", "user/small/sub/maths.gguf", "user/small/sub/code.gguf")
    (kept,) = result("rm", "one", "--yes")["kept"]
    assert kept["reason"] == "also in two"
    assert Path(kept["path"]).is_file()
    add("code", "user/small/sub/maths.gguf", "user/small/sub/code.gguf")
    (kept,) = result("rm", "user/small/sub/code.gguf", "--yes")["kept"]
    assert kept["reason"] == "also in two, code"
    result("rm", "code", "--yes")
    result("rm", "two", "--yes")
    assert files_in(hub) == set()


def test_a_file_is_removed_in_every_revision_and_its_blob_with_the_last_name(hub: Path) -> None:
    """Other files of the repository and their revisions stay readable."""
    code = hub / f"models--user--small/snapshots/{COMMIT}/sub/code.gguf"
    put_in_cache(hub, "user/small", "sub/code.gguf", code.read_bytes(), OLD_COMMIT)
    put_in_cache(hub, "user/small", "same.gguf", code.read_bytes())
    removed = result("rm", "user/small/sub/code.gguf", "--yes")
    assert len(removed["removed"]) == 2
    assert (code.parent.parent / "same.gguf").is_file()
    assert not (hub / "models--user--small/snapshots" / OLD_COMMIT).exists()
    result("rm", "user/small/same.gguf", "--yes")
    assert len([*(hub / "models--user--small/blobs").iterdir()]) == 1


def test_what_came_of_an_unfinished_download_goes_too(hub: Path) -> None:
    """Of the names that are removed alone, and unless its lock tells that it is being fetched."""
    blobs = hub / "models--user--new/blobs"
    blobs.mkdir(parents=True)
    new, other = (
        [blobs / f"{digit * 64}{part_suffix(name)}" for digit in "ab"]
        for name in ("new.gguf", "other.gguf")
    )
    for part in (*new, *other):
        part.write_bytes(bytes(1000))
    add("new", "user/new/new.gguf")
    lock = lock_path(blobs / ("a" * 64))
    lock.parent.mkdir(parents=True)
    with filelock.FileLock(lock):
        removed = result("rm", "new", "--yes")
    assert (removed["removed"], removed["freed_bytes"]) == ([str(new[1])], 1000)
    assert result("rm", "user/new/new.gguf", "--yes")["removed"] == [str(new[0])]
    assert "download user/new:Q8_0" in metasd_here("rm", "user/new:Q8_0", "--yes").stderr
    assert result("rm", "user/new", "--yes")["removed"] == [str(part) for part in other]
    assert not blobs.parent.exists()


@pytest.mark.parametrize(("answer", "is_removed"), [("y\n", True), ("\n", False), ("no\n", False)])
def test_removing_asks_on_a_terminal(hub: Path, answer: str, *, is_removed: bool) -> None:
    """Every file is named before the question; without a terminal there is no question."""
    stdout, stderr = io.StringIO(), io.StringIO()
    around = dataclasses.replace(
        process_surroundings(chat), stdin=Terminal(answer), stdout=stdout, stderr=stderr
    )
    status = main(["rm", "user/big"], around)
    assert (status, (hub / "models--user--big").exists()) == (
        (0, False) if is_removed else (FAILED, True)
    )
    assert "big.gguf\nRemove 1 file? [y/N] " in stderr.getvalue()
    refused = metasd_here("rm", "user/small/sub/code.gguf")
    assert refused.returncode == WRONG_USAGE
    assert "--yes" in refused.stderr
    nothing = metasd_here("rm", "starter")
    assert (nothing.stdout, nothing.stderr) == (
        "removed nothing: its files are given by path\n",
        "",
    )


def test_a_folder_linked_out_of_the_cache_is_not_touched(hub: Path, home: Path) -> None:
    """A link in the cache may lead anywhere."""
    outside = home / "precious"
    outside.mkdir()
    (outside / "a.gguf").write_bytes(b"x")
    (hub / f"models--user--big/snapshots/{COMMIT}/out").symlink_to(outside)
    (hub / f"models--user--big/snapshots/{COMMIT}/blob.gguf").symlink_to(outside / "a.gguf")
    (hub / f"models--user--big/snapshots/{COMMIT}/loop.gguf").symlink_to("loop.gguf")
    said = metasd_here("add", "loop", "--target", "user/big/loop.gguf").stdout
    assert said.endswith("to fetch 1 file of unknown size: metasd download loop\n")
    assert len(result("rm", "loop", "--yes")["removed"]) == 1
    for name in ("out/a.gguf", "blob.gguf"):
        result("rm", f"user/big/{name}", "--yes")
    assert (outside / "a.gguf").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ls", "mine"), "expected no word"),
        (("show",), "expected POOL"),
        (("show", "startr"), "did you mean 'starter'"),
        (("rm", "qwen"), "did you mean 'qwen3'"),
        (("add", "x"), "--target FILE"),
        (("add", "x", "--target", "none.gguf"), "there is no file 'none.gguf'"),
        (("add", "x", "--target", "a/../../b.gguf"), "there is no file"),
        (("add", "x", "--target", "~no-user/x"), "there is no file '~no-user/x'"),
        (("add", "x", "--target", "/proc/self/mem"), "/proc/self/mem: cannot be read"),
        (("run", "hello", "--drafters", "~no-user/x"), "found '~no-user/x', expected the path"),
        (("lab", "emulate", "~no-user/x.toml"), "x.toml: cannot be read"),
        (("add", "x", "--target", __file__), "test_models.py is no GGUF file"),
        (("add", "x", "--target", "user/big/big.gguf", "--drafter", "no"), "there is no file 'no'"),
        (("add", "starter", "--target", "user/big/big.gguf"), "named 'starter' already"),
        (("add", "bench", "--target", "user/big/big.gguf"), "'bench' is a command"),
        (("add", "ngram", "--target", "user/big/big.gguf"), "expected a name of letters"),
        (("add", "a b", "--target", "user/big/big.gguf"), "expected a name of letters"),
        (("add", "x", "--targt", "user/big/big.gguf"), "did you mean '--target'"),
        (("shw", "x"), "did you mean 'show'"),
    ],
)
def test_a_mistake_changes_nothing(home: Path, words: tuple[str, ...], message: str) -> None:
    """Exit status 2 and one line that says what to do."""
    finished = metasd_here(*words)
    assert finished.returncode == WRONG_USAGE
    assert message in finished.stderr
    assert (finished.stdout, finished.stderr.count("\n")) == ("", 1)
    assert files_in(home) == set()


def test_what_is_not_here_is_named_with_what_to_do(home: Path) -> None:
    """By every command that is given a pool; nothing is written."""
    for command in ("show", "rm"):
        for text, advice in {
            "none.gguf": "none.gguf is not a file; expected a GGUF file: check the path",
            "user/none:Q8_0": "to fetch it, type: metasd download user/none:Q8_0",
            "~no-user/x.gguf": "/x.gguf is not a file; expected a GGUF file: check the path",
            f"{'x' * 300}.gguf": "xxx.gguf is not a file; expected a GGUF file: check the path",
        }.items():
            finished = metasd_here(command, text)
            assert (finished.returncode, finished.stdout) == (FAILED, "")
            assert finished.stderr.endswith(f"{advice}\n")
    assert files_in(home) == set()


def test_other_tools_files_are_listed_with_the_pairs(hub: Path) -> None:
    """The pair can be typed as it stands."""
    document = result("ls", "--found")
    target, code, maths = (entry["path"] for entry in document["found"])
    assert document["pairs"] == [
        {"target": target, "drafter": drafter} for drafter in (code, maths)
    ]
    text = metasd_here("ls", "--found").stdout
    line = "  metasd add NAME --target user/big/big.gguf"
    line += "".join(f" --drafter user/small/sub/{name}.gguf" for name in ("code", "maths"))
    assert line in text.splitlines()
    assert str(hub) in target


@pytest.mark.parametrize(
    ("place", "what"), [("big.gguf/models.toml", "read"), ("/proc/none/models.toml", "written")]
)
def test_a_file_that_cannot_be_kept_is_named(hub: Path, home: Path, place: str, what: str) -> None:
    """No traceback, exit status 2 as for every configuration file."""
    own = home / "config/metasd/models.toml"
    own.parent.mkdir(parents=True)
    own.symlink_to(home / place)
    finished = metasd_here("add", "mine", "--target", "user/big/big.gguf")
    assert finished.returncode == WRONG_USAGE
    assert f"{own}: cannot be {what}: " in finished.stderr
    assert hub.exists()
