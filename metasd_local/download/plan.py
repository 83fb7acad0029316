"""What a download would fetch: looks at the cache first, then asks the Hub; fetches nothing."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from metasd_local.download.transfer import persist
from metasd_local.errors import Cancelled, DownloadError, MetasdError, Unavailable
from metasd_local.hub.cache import blob_hash, cache_folder, find_cached, find_local, find_parts
from metasd_local.hub.remote import Hub, RemoteFile
from metasd_local.hub.repository import HubFile, choose_model, is_inside, is_model, parse_repository
from metasd_local.model_files import part_names, size_of_parts
from metasd_local.options import nearest_hint

_Files: TypeAlias = Mapping[str, RemoteFile]

RESERVE_BYTES = 64 << 20
"""Of the disk, left free for everything else."""


@dataclass(frozen=True, slots=True)
class DownloadPlan:
    """What is there and what is to be fetched."""

    present: tuple[HubFile, ...]
    missing: tuple[HubFile, ...]
    hub: Hub | None = None
    """Who was asked; nobody if nothing is missing."""
    files: tuple[RemoteFile, ...] = ()
    """Of the missing models; several where a model is split."""
    stale: tuple[Path, ...] = ()
    """Parts of what had the names of the files before."""
    problems: tuple[str, ...] = ()
    """Why other models cannot be fetched."""
    free_bytes: int = 0

    @property
    def missing_bytes(self) -> int:
        """Return how much is to be fetched."""
        return sum(file.size_bytes - file.here_bytes for file in self.files)


def plan_download(
    wanted: Sequence[HubFile | str],
    connect: Callable[[Sequence[HubFile | str]], Hub],
    stop: threading.Event,
    *,
    damaged: Collection[HubFile] = (),
    on_note: Callable[[str], None] = lambda _text: None,
) -> DownloadPlan:
    """Find what is here, ask the Hub for the rest and check that it fits; fetch nothing.

    wanted: files, or texts such as user/repo[:QUANT].
    connect: called with what is missing, if anything is; may raise DownloadError to forbid it.
    damaged: what is missing although it is here.
    Raises: DownloadError or UsageError if nothing of it can be fetched; Cancelled.
    """
    present: list[HubFile] = []
    absent: list[HubFile | str] = []
    for each in wanted:
        file = find_present(each)
        if file is None or file in damaged:
            absent.append(file or each)
        else:
            present.append(file)
    if not absent:
        return DownloadPlan(tuple(present), ())
    hub = connect(absent)
    repositories: dict[tuple[str, str], _Files] = {}

    def ask(repo: str, revision: str) -> _Files:
        key = (repo, revision)
        if key not in repositories:
            action = partial(hub.files, repo, revision)
            repositories[key] = persist(action, hub.patience, stop, on_note)
        return repositories[key]

    missing: list[HubFile] = []
    files: list[RemoteFile] = []
    problems: list[MetasdError] = []
    for each in absent:
        try:
            model = each if isinstance(each, HubFile) else _choose(each, ask)
            if model is not each and find_present(model):
                present.append(model)
                continue
            files += _announced(model, ask(model.repo, model.revision))
            missing.append(model)
        except (Unavailable, Cancelled):
            raise
        except MetasdError as error:
            problems.append(error)
    if problems and not missing:
        raise problems[0]
    plan = DownloadPlan(
        tuple(present),
        tuple(missing),
        hub=hub,
        files=tuple(dict.fromkeys(files)),
        stale=tuple(_stale_parts(files)),
        problems=tuple(map(str, problems)),
        free_bytes=_free_bytes(cache_folder()),
    )
    if plan.missing_bytes + RESERVE_BYTES > plan.free_bytes:
        raise DownloadError(
            f"{plan.missing_bytes:,} bytes are to be fetched, but only {plan.free_bytes:,} are "
            f"free under {cache_folder()}; make room there, or set HF_HOME to a larger disk"
        )
    return plan


def find_present(wanted: HubFile | str) -> HubFile | None:
    """Return the model if it is here as it was announced; a text must name its quantisation."""
    file = find_cached(wanted, is_exact=True) if isinstance(wanted, str) else wanted
    path = find_local(file) if file else None
    if file is None or path is None or file.size_bytes not in (None, size_of_parts(path)):
        return None
    return file if file.sha256 is None or blob_hash(path) in (None, file.sha256) else None


def _choose(text: str, ask: Callable[[str, str], _Files]) -> HubFile:
    asked = parse_repository(text)
    if asked is None:
        raise DownloadError(f"found {text!r}, expected user/repo[:QUANT] or user/repo/file.gguf")
    repo, name = asked.repo, asked.name
    return HubFile(repo, name or choose_model(repo, ask(repo, "main"), asked.quantisation))


def _announced(model: HubFile, known: _Files) -> list[RemoteFile]:
    """Return the files of a model as the Hub announces them. Raise DownloadError."""
    files = []
    for name in part_names(model.name):
        if not is_inside(name) or max(len(each.encode()) for each in name.split("/")) > 255:
            raise DownloadError(
                f"{model.repo} has a file named {name!r}; expected a relative path without `..`, "
                "backslashes, colons and control characters, of names up to 255 bytes; it is not "
                "downloaded"
            )
        found = known.get(name)
        if found is None:
            models = sorted(each for each in known if is_model(each))
            raise DownloadError(
                f"{model.repo} has no file {name!r}{nearest_hint(name, models)} "
                f"(models: {', '.join(models) or 'none'})"
            )
        if model.sha256 and len(found.blob) == 64 and found.blob != model.sha256:
            raise DownloadError(
                f"{model} is another file by now: its SHA-256 is {found.blob}, expected "
                f"{model.sha256}; if that is intended, correct models.toml"
            )
        files.append(found)
    size_bytes = sum(file.size_bytes for file in files)
    if model.size_bytes not in (None, size_bytes):
        raise DownloadError(
            f"{model} is another file by now: it has {size_bytes:,} bytes, expected "
            f"{model.size_bytes:,}; if that is intended, correct models.toml"
        )
    return files


def _free_bytes(folder: Path) -> int:
    """Return the room on the disk of a folder that may not exist yet."""
    while not os.path.isdir(folder):
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _stale_parts(files: Sequence[RemoteFile]) -> Iterator[Path]:
    """Yield the parts of what had the names of the files before."""
    known = {file.part for file in files}
    for file in files:
        yield from (part for part in find_parts(file.repo, [file.name]) if part not in known)
