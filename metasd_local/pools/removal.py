"""Removing a pool's files from the Hugging Face cache, and nothing that others need."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os.path import realpath
from pathlib import Path

from metasd_local.errors import ModelError
from metasd_local.hub.cache import (
    cache_folder,
    find_cached,
    find_parts,
    paths_in,
    remove_part,
    repository_folder,
)
from metasd_local.hub.repository import HubFile, parse_repository
from metasd_local.model_files import part_names, part_paths
from metasd_local.pools.catalogue import Catalogue, Pool
from metasd_local.pools.local import find_source


@dataclass(frozen=True, slots=True)
class Removal:
    """What removing a pool would do to its files that are here."""

    paths: tuple[Path, ...]
    """To be removed, in the order of the pool; what came of unfinished downloads included."""
    kept: Mapping[Path, str]
    """What stays, and why."""


def plan_removal(pool: Pool, catalogue: Catalogue) -> Removal:
    """Settle which of a pool's files go: those of the cache that no other pool here has.

    A pool whose target is not here needs nothing.
    """
    others = {
        other.name: {
            realpath(part)
            for path in map(find_source, other.sources)
            if path
            for part in part_paths(path)
        }
        for other in catalogue
        if other is not pool and find_source(other.target)
    }
    going: dict[Path, None] = {}
    kept: dict[Path, str] = {}
    for source in pool.sources:
        if isinstance(source, Path):
            kept |= {source: "given by path"} if os.path.isfile(source) else {}
            continue
        for path in _links(source):
            sharing = [name for name, files in others.items() if realpath(path) in files]
            if sharing:
                kept[path] = f"also in {', '.join(sharing)}"
            else:
                going[path] = None
        going |= dict.fromkeys(find_parts(source.repo, part_names(source.name)))
    return Removal(tuple(going), kept)


def find_unfinished(text: str) -> tuple[Path, ...]:
    """Return what came so far of user/repo or user/repo/file.gguf, of which no model is here."""
    asked = parse_repository(text)
    if asked is None or asked.quantisation or find_cached(text):
        return ()
    return tuple(find_parts(asked.repo, part_names(asked.name) if asked.name else ()))


def remove(removal: Removal) -> int:
    """Remove the files, and folders of the cache that nothing is left in; return the bytes freed.

    What somebody is fetching just now stays. Raises ModelError.
    """
    sizes = {realpath(path): path.stat().st_size for path in removal.paths if os.path.exists(path)}
    for path in removal.paths:
        repository, place, commit, *_ = path.relative_to(cache_folder()).parts
        folder = cache_folder() / repository
        try:
            if place == "blobs":
                remove_part(path)
            else:
                _remove(path, folder, commit)
            for name in ("blobs", "refs", "snapshots", "."):
                with contextlib.suppress(FileNotFoundError):
                    (folder / name).rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise ModelError(f"{path} cannot be removed: {error.strerror}") from error
    return sum(size for path, size in sizes.items() if not os.path.exists(path))


def _links(file: HubFile) -> Iterator[Path]:
    """Yield a model's files under the names the cache gives them, in every revision."""
    folder = repository_folder(file.repo)
    for snapshot in paths_in(folder / "snapshots", "*"):
        for name in part_names(file.name):
            path = snapshot / name
            if os.path.lexists(path) and Path(realpath(path.parent)).is_relative_to(
                realpath(folder)
            ):
                yield path


def _remove(path: Path, folder: Path, commit: str) -> None:
    blob, snapshots = realpath(path), folder / "snapshots"
    path.unlink()
    is_ours = os.path.dirname(blob) == realpath(folder / "blobs")
    if is_ours and not any(realpath(other) == blob for other in snapshots.rglob("*")):
        Path(blob).unlink(missing_ok=True)
    # The first folder in which something is left ends it.
    for parent in path.parents:
        if parent == snapshots:
            break
        parent.rmdir()
    for reference in (folder / "refs").rglob("*"):
        if reference.is_file() and reference.read_bytes().strip() == commit.encode():
            reference.unlink()
