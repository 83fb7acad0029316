"""The Hugging Face cache on this machine: no network, and nothing slow to import.

Layout: models--USER--REPO/{blobs/HASH, snapshots/COMMIT/NAME -> ../../blobs/HASH, refs/REVISION}.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from metasd_local.errors import DownloadError
from metasd_local.hub.repository import HubFile, choose_model, matching_models, parse_repository
from metasd_local.model_files import part_names
from metasd_local.state import replace_text

READ_BYTES = 1 << 20
COMMIT = re.compile(r"[0-9a-f]{40}")
HASH = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


def is_offline() -> bool:
    """Tell whether the environment forbids the network. Source: huggingface_hub's constants.py."""
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return said.upper() in ("1", "ON", "YES", "TRUE")


def cache_folder() -> Path:
    """Return the folder of the cache. Source: huggingface_hub's constants.py."""
    environment = os.environ
    home = environment.get("XDG_CACHE_HOME") or "~/.cache"
    home = environment.get("HF_HOME") or f"{home}/huggingface"
    folder = environment.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    folder = environment.get("HF_HUB_CACHE") or folder
    return Path(os.path.expanduser(os.path.expandvars(folder)))


def repository_folder(repo: str) -> Path:
    """Return the folder of a repository's files."""
    return cache_folder() / f"models--{repo.replace('/', '--')}"


def lock_path(blob: Path) -> Path:
    """Return the file that whoever fetches a blob locks, `hf` too."""
    folder = blob.parents[1]
    return folder.parent / ".locks" / folder.name / f"{blob.name}.lock"


def part_suffix(name: str) -> str:
    """Return what follows a blob's hash where it stands for what came so far of a file."""
    return f".{hashlib.sha256(name.encode()).hexdigest()[:16]}.part"


def find_parts(repo: str, names: Iterable[str] = ()) -> list[Path]:
    """Return what came so far of files that a repository had by these names; by any if none."""
    suffixes = tuple(map(part_suffix, names)) or (".part",)
    blobs = repository_folder(repo) / "blobs"
    return [path for path in paths_in(blobs, "*.part") if path.name.endswith(suffixes)]


def paths_in(folder: Path, pattern: str) -> list[Path]:
    """Return what is in a folder; nothing where it may not be read."""
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def find_local(file: HubFile) -> Path | None:
    """Return the path of a model in the cache, of its first part if all are there, else None.

    A branch means the commit it was last seen at; `main`, failing that, any other that is here.
    """
    for snapshot in _snapshots(file.repo, file.revision):
        paths = [snapshot / name for name in part_names(file.name)]
        if all(map(os.path.isfile, paths)):
            return paths[0]
    return None


def find_cached(text: str, *, is_exact: bool = False) -> HubFile | None:
    """Return the model that `user/repo[:QUANT]` or `user/repo/file.gguf` names, if it is here.

    is_exact: of the quantisation that would be downloaded alone, else as `matching_models`.
    Raises: UsageError where several models are here that could be meant.
    """
    asked = parse_repository(text)
    if asked is None:
        return None
    name = asked.name
    if name is None:
        names = {
            path.relative_to(snapshot).as_posix()
            for snapshot in _snapshots(asked.repo, "main")
            for path in paths_in(snapshot, "**/*.[gG][gG][uU][fF]")
            if os.path.isfile(path)
        }
        found = matching_models(names, asked.quantisation, is_exact=is_exact)
        if not found:
            return None
        name = choose_model(asked.repo, found, asked.quantisation)
    file = HubFile(asked.repo, name)
    return file if find_local(file) else None


def _snapshots(repo: str, revision: str) -> Iterator[Path]:
    """Yield the folders of a revision's files, the likeliest first."""
    folder = repository_folder(repo)
    commit = revision
    if not COMMIT.fullmatch(revision):
        try:
            commit = (folder / "refs" / revision).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            commit = ""
    if COMMIT.fullmatch(commit):
        yield folder / "snapshots" / commit
    if revision == "main":
        try:
            others = [path for path in (folder / "snapshots").iterdir() if path.name != commit]
            others.sort(key=os.path.getmtime, reverse=True)
        except OSError:
            return  # nothing is here, or nothing that may be read
        yield from others


def new_hasher(blob: str, size_bytes: int) -> Any:
    """Return what computes the hash that names a blob of this size."""
    if len(blob) == 64:
        return hashlib.sha256()
    hasher = hashlib.sha1(usedforsecurity=False)
    hasher.update(b"blob %d\0" % size_bytes)  # git's header
    return hasher


def is_sound(path: Path, sha256: str | None, on_share: Callable[[float], None]) -> bool | None:
    """Tell whether a file has the hash that the cache, or else `sha256`, says; None if none does.

    on_share: told which share was read, in [0, 1]; may raise to end it. Raises DownloadError.
    """
    if path.is_symlink():
        sha256 = blob_hash(path)
    if sha256 is None:
        return None
    try:
        with path.open("rb", buffering=0) as stream:
            size_bytes = os.fstat(stream.fileno()).st_size
            hasher = new_hasher(sha256, size_bytes)
            while piece := stream.read(READ_BYTES):
                hasher.update(piece)
                on_share(stream.tell() / size_bytes)
    except OSError as error:
        raise DownloadError(
            f"{path} cannot be read: {error.strerror}; make it readable, or remove it"
        ) from error
    return bool(hasher.hexdigest() == sha256)


def discard(path: Path) -> None:
    """Remove a file of the cache and its blob, but nothing that a link elsewhere leads to.

    Raises DownloadError.
    """
    blob = _blob_of(path) if path.is_symlink() else path
    try:
        path.unlink()
        if blob.parent.name == "blobs" and blob.parents[1] in path.parents:
            blob.unlink(missing_ok=True)
    except OSError as error:
        raise DownloadError(
            f"{path} cannot be removed: {error.strerror}; make its folder writable"
        ) from error


def remove_part(part: Path) -> None:
    """Remove what came of a file, unless somebody is fetching it just now; raise OSError."""
    # Imported when needed: it loads asyncio.
    import filelock

    with (
        contextlib.suppress(filelock.Timeout),
        filelock.FileLock(lock_path(part.with_name(part.name.partition(".")[0])), blocking=False),
    ):
        part.unlink()


def blob_hash(path: Path) -> str | None:
    """Return the hash that the cache says a file has; None if it says none."""
    # Not what a chain of links ends at: the Hub's client may share files under other names.
    name = _blob_of(path).name if path.is_symlink() else ""
    return name if HASH.fullmatch(name) else None


def _blob_of(link: Path) -> Path:
    return Path(os.path.normpath(link.parent / link.readlink()))


def publish(blob: Path, repo: str, revision: str, commit: str, name: str) -> Path:
    """Give a complete blob its name in a snapshot and return that path.

    Where symbolic links are impossible the blob itself moves there.

    Raises: DownloadError where a link in the cache leads out of the repository's folder.
    """
    folder = repository_folder(repo)
    path = folder / "snapshots" / commit / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise DownloadError(f"{path.parent} leads out of {folder}; remove that link")
    passing = path.with_name(f".{uuid.uuid4().hex}")
    try:
        passing.symlink_to(os.path.relpath(blob, path.parent))
    except OSError:
        blob.replace(path)
    else:
        passing.replace(path)
    if revision != commit:
        replace_text(folder / "refs" / revision, commit, mode=0o666)
    return path
