"""Names of models on the Hub, and what is found in the cache without asking it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from huggingface_hub import scan_cache_dir, try_to_load_from_cache

from metasd_local.errors import DownloadError, UsageError
from metasd_local.hub.cache import (
    cache_folder,
    find_cached,
    find_local,
    find_parts,
    publish,
    repository_folder,
)
from metasd_local.hub.repository import (
    HubFile,
    RepositoryText,
    choose_model,
    is_inside,
    is_model,
    parse_repository,
    quantisation_of,
)
from metasd_local.model_files import part_names

REPO = "user/some-GGUF"
COMMITS = ("a" * 40, "b" * 40)

NAMES = (
    "Some-8B-Q4_K_M.gguf",
    "Some-8B-Q8_0.gguf",
    "Some-8B-UD-Q4_K_XL.gguf",
    "BF16/Some-8B-00001-of-00002.gguf",
    "BF16/Some-8B-00002-of-00002.gguf",
    "mmproj-Q4_K_M.gguf",
    "imatrix_some.gguf",
    "Some.imatrix.gguf",
    "README.md",
)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("user/repo", RepositoryText("user/repo")),
        ("user/repo:Q8_0", RepositoryText("user/repo", None, "Q8_0")),
        ("user/repo/sub/x.gguf", RepositoryText("user/repo", "sub/x.gguf")),
        ("folder/x.gguf", None),
        ("user/repo/folder", None),
        ("starter", None),
        ("../user/repo", None),
        ("/user/repo/x.gguf", None),
        ("user/..", None),
        ("user/a..b", None),
        ("user/re po", None),
        ("user/repo.", None),
        ("user/repo.git", None),
        (f"user/{'x' * 92}", None),
        ("user/repo/../x.gguf", None),
    ],
)
def test_what_names_a_repository(text: str, expected: RepositoryText | None) -> None:
    """Paths and pool names are none."""
    assert parse_repository(text) == expected


@pytest.mark.parametrize(
    "name", ["../x.gguf", "a/../x.gguf", "/x.gguf", "a//x.gguf", "a\\x.gguf", "C:x", "x\n.gguf", ""]
)
def test_a_name_that_leads_out_of_the_cache_is_refused(name: str) -> None:
    """Repositories are written by strangers."""
    assert not is_inside(name)
    assert is_inside("sub/x y-Q4_K_M.gguf")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, "Some-8B-Q4_K_M.gguf"),
        ("q8_0", "Some-8B-Q8_0.gguf"),
        ("Q4_K_XL", "Some-8B-UD-Q4_K_XL.gguf"),
        ("BF16", "BF16/Some-8B-00001-of-00002.gguf"),
    ],
)
def test_a_quantisation_names_one_model(asked: str | None, expected: str) -> None:
    """Q4_K_M if none is asked for; the folder counts where the name says nothing."""
    assert choose_model(REPO, NAMES, asked) == expected


def test_a_quantisation_that_is_not_there_lists_those_that_are() -> None:
    """Nobody has to open the web page."""
    with pytest.raises(UsageError) as caught:
        choose_model(REPO, NAMES, "Q4_K_S")
    assert "did you mean 'Q4_K_M'?" in str(caught.value)
    assert f"{REPO}:Q8_0" in str(caught.value)


def test_two_models_of_a_quantisation_are_not_guessed_between() -> None:
    """The message says what to type."""
    with pytest.raises(UsageError, match=f"{REPO}/a-Q4_0.gguf, {REPO}/b-Q4_0.gguf"):
        choose_model(REPO, ["a-Q4_0.gguf", "b-Q4_0.gguf"], "Q4_0")
    with pytest.raises(UsageError, match=r"no \.gguf model"):
        choose_model(REPO, ["mmproj-F16.gguf", "model.safetensors"], None)


def test_projectors_and_importance_matrices_are_no_models() -> None:
    """Nor is any part of a model but the first."""
    assert [name for name in NAMES if is_model(name)] == [*NAMES[:4]]
    assert is_model("some-imatrix-IQ4_XS.gguf")
    assert quantisation_of("Some-8B-Instruct.gguf") is None


def _place(commit: str, *names: str) -> None:
    for name in names:
        path = repository_folder(REPO) / "snapshots" / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"GGUF")


def _refer(commit: str) -> None:
    path = repository_folder(REPO) / "refs" / "main"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(commit)


def test_a_branch_is_where_it_was_last_seen_or_else_anything_that_is_here() -> None:
    """A file fetched long ago is not lost because another of its repository came later."""
    _place(COMMITS[0], "old.gguf", "both.gguf")
    _place(COMMITS[1], "both.gguf")
    _refer(COMMITS[1])
    for name, commit in (("both.gguf", COMMITS[1]), ("old.gguf", COMMITS[0])):
        found = find_local(HubFile(REPO, name))
        assert found is not None
        assert found.parent.name == commit
    assert find_local(HubFile(REPO, "old.gguf", revision=COMMITS[1])) is None
    assert find_local(HubFile(REPO, "old.gguf", revision="v1")) is None
    assert find_local(HubFile("user/none", "old.gguf")) is None


def test_a_split_model_is_here_when_all_its_parts_are() -> None:
    """Its path is the first part's."""
    first, second = part_names("m-00001-of-00002.gguf")
    _place(COMMITS[0], first)
    assert find_local(HubFile(REPO, first)) is None
    _place(COMMITS[0], second)
    found = find_local(HubFile(REPO, first))
    assert found is not None
    assert found.name == first


def test_a_text_finds_the_model_it_would_download() -> None:
    """Without a quantisation, also the only one that is here."""
    assert find_cached(REPO) is None
    _place(COMMITS[0], "x-Q8_0.gguf", "mmproj-F16.gguf")
    for text in (REPO, f"{REPO}:Q8_0", f"{REPO}/x-Q8_0.gguf"):
        found = find_cached(text)
        assert found is not None
        assert found.name == "x-Q8_0.gguf"
    assert find_cached(f"{REPO}:Q4_0") is None
    assert find_cached("some/path/x.gguf") is None
    _place(COMMITS[0], "x-Q6_K.gguf")
    with pytest.raises(UsageError, match="several models"):
        find_cached(REPO)


def test_a_folder_that_may_not_be_read_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The superuser may read all, so it is made up."""
    _place(COMMITS[0], "x-Q8_0.gguf")

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "glob", refuse)
    assert find_cached(REPO) is None
    assert find_parts(REPO) == []


def test_what_is_published_is_found_by_the_hubs_own_client() -> None:
    """The cache is shared with `hf`; links are relative, so that it can be moved."""
    blob = repository_folder(REPO) / "blobs" / ("c" * 64)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"GGUF")
    path = publish(blob, REPO, "main", COMMITS[0], "sub/x.gguf")
    assert path.read_bytes() == b"GGUF"
    assert not os.path.isabs(path.readlink())
    assert try_to_load_from_cache(REPO, "sub/x.gguf", cache_dir=cache_folder()) == str(path)
    report = scan_cache_dir(cache_folder())
    assert not report.warnings
    assert [repo.repo_id for repo in report.repos] == [REPO]


def test_a_link_in_the_cache_does_not_lead_out_of_it(tmp_path: Path) -> None:
    """A snapshot's folder that points elsewhere is refused."""
    blob = repository_folder(REPO) / "blobs" / ("c" * 64)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"GGUF")
    outside = tmp_path / "outside"
    outside.mkdir()
    snapshot = repository_folder(REPO) / "snapshots" / COMMITS[0]
    snapshot.mkdir(parents=True)
    (snapshot / "sub").symlink_to(outside)
    with pytest.raises(DownloadError, match="leads out"):
        publish(blob, REPO, "main", COMMITS[0], "sub/x.gguf")
    assert not list(outside.iterdir())


def test_without_links_the_file_itself_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the Hub's own client does on such disks."""

    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    blob = repository_folder(REPO) / "blobs" / ("c" * 64)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"GGUF")
    path = publish(blob, REPO, COMMITS[0], COMMITS[0], "x.gguf")
    assert path.read_bytes() == b"GGUF"
    assert not blob.exists()
    assert find_local(HubFile(REPO, "x.gguf")) == path


def test_what_is_imported_of_the_hubs_client_comes_with_it() -> None:
    """Its HTTP session and its locks are shared; no other version could be."""
    needed = {re.split(r"[^\w-]", each)[0] for each in requires("huggingface_hub") or ()}
    assert {"httpx2", "filelock"} <= needed


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"XDG_CACHE_HOME": "/x"},
        {"HF_HOME": "$HOME/y", "XDG_CACHE_HOME": "/x"},
        {"HF_HUB_CACHE": "~/z", "HF_HOME": "/y"},
    ],
)
def test_the_cache_is_where_the_hubs_own_client_has_it(
    said: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the environment says."""
    for name in ("HF_HOME", "XDG_CACHE_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert cache_folder() == Path(run.stdout.strip()).expanduser()
