"""What is on this machine: the pool that a text names, and where the files of its models are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from metasd_local.config import state_path
from metasd_local.errors import ModelError, UsageError
from metasd_local.hub.cache import find_cached, find_local
from metasd_local.hub.repository import HubFile, parse_repository
from metasd_local.model_files import size_of_parts
from metasd_local.options import nearest_hint
from metasd_local.pools.catalogue import DEFAULT_POOL, Catalogue, Pool, Source, read_catalogue
from metasd_local.protocols import NGRAM
from metasd_local.sampling import SamplerSettings
from metasd_local.state import read_state, write_entry

POOLS_FILE, LAST_KEY = "pools.json", "last"


@dataclass(frozen=True, slots=True)
class LocalDrafter:
    """A drafter whose file is named."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class LocalPool:
    """A pool whose files are on this machine."""

    name: str
    target: Path
    text: str = ""
    """What names it wherever it is typed: a name in the catalogue or an absolute path."""
    drafters: tuple[LocalDrafter, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    """Drafters that are not on this machine, each with what to do about it."""
    sampling: SamplerSettings = field(default_factory=SamplerSettings)


def names_pool(text: str) -> bool:
    """Tell whether a text that could be a prompt as well is the name of a pool or a model."""
    if any(character.isspace() for character in text):
        return False
    asked = parse_repository(text)
    is_file = text.endswith(".gguf") or (asked is not None and asked.quantisation is not None)
    return is_file or text in read_catalogue() or find_cached(text) is not None


def find_pool(text: str | None, environment: Mapping[str, str] = os.environ) -> LocalPool:
    """Return the files of what `named_pool` returns for a text.

    text: None for the default, see `default_pool`. Raises what `named_pool` raises, and ModelError
    with the command that fetches a target that is not on this machine.
    """
    catalogue = read_catalogue(environment)
    pool = named_pool(text or default_pool(catalogue, environment), catalogue)
    target = find_source(pool.target)
    if target is None and not pool.defined_in:
        target = Path(str(pool.target))  # who reads it finds the words
    if target is None:
        raise ModelError(_absence("target", pool.target, pool))
    found = {entry.name: find_source(entry.source) for entry in pool.drafters}
    return LocalPool(
        pool.name,
        target,
        text=pool.name if pool.defined_in else str(target),
        drafters=tuple(LocalDrafter(name, path) for name, path in found.items() if path),
        missing={
            entry.name: _absence("file", entry.source, pool)
            for entry in pool.drafters
            if found[entry.name] is None
        },
        sampling=pool.sampling,
    )


def named_pool(text: str, catalogue: Catalogue) -> Pool:
    """Return the pool of a catalogue name, or of one model; see `named_model`.

    Raises UsageError for what names nothing, and what `named_model` raises.
    """
    source = None if text in catalogue else named_model(text)
    if source is None:
        return catalogue[text]
    return Pool(Path(source.name).stem, source)


def named_model(text: str, *, may_be_absent: bool = False) -> Source | None:
    """Return the model of a path, or of a downloaded repository of the Hub; None for other texts.

    A path ends with .gguf, or there is such a file. Raises ModelError where a repository is not
    here, and UsageError where it has several models that could be meant.

    may_be_absent: whether user/repo/file.gguf needs not be here.
    """
    path = Path(os.path.expanduser(text))  # leaves the name of nobody as it is
    if os.path.isfile(path):
        return path.absolute()
    found, asked = find_cached(text), parse_repository(text)
    if found is None and asked is not None:
        if may_be_absent and asked.name:
            return HubFile(asked.repo, asked.name)
        raise ModelError(
            f"{text} is not on this machine; to fetch it, type: metasd download {text}"
        )
    return found or (path.absolute() if text.endswith(".gguf") else None)


def named_drafter(text: str, known: Sequence[str]) -> LocalDrafter:
    """Return the drafter of `named_model`, whether or not a path is one.

    known: names that could have been meant. Raises UsageError, and what `named_model` raises.
    """
    source = named_model(text)
    if source is None:
        names = [*known, NGRAM]
        raise UsageError(
            f"--drafters: found {text!r}, expected the path of a .gguf file or one of "
            f"{', '.join(names)}{nearest_hint(text, names)}"
        )
    path = find_source(source) or Path(str(source))  # who reads it finds the words
    return LocalDrafter(path.stem, path)


def default_pool(catalogue: Catalogue, environment: Mapping[str, str]) -> str:
    """Return what to use if no pool is named.

    The last one used, else the newest complete download, else the one that is always there.
    """
    entry = read_state(state_path(environment) / POOLS_FILE).get(LAST_KEY)
    last = entry.get("pool") if isinstance(entry, dict) else None
    if isinstance(last, str):
        target = catalogue[last].target if last in catalogue else Path(last)
        if find_source(target) is not None:
            return last
    downloads = {
        pool.name: path.stat().st_mtime_ns
        for pool in catalogue
        if isinstance(pool.target, HubFile)
        and (path := find_local(pool.target)) is not None
        and all(map(find_source, pool.sources))
    }
    return max(downloads, key=downloads.__getitem__, default=DEFAULT_POOL)


def remember_pool(pool: LocalPool, folder: Path) -> None:
    """Make a pool the default from now on; a failure is only logged."""
    path = folder / POOLS_FILE
    entry = {"pool": pool.text}
    if read_state(path).get(LAST_KEY) != entry:
        write_entry(path, LAST_KEY, entry)


def find_source(source: Source) -> Path | None:
    """Return where a model's file is on this machine, None if it is not."""
    if isinstance(source, HubFile):
        return find_local(source)
    return source if os.path.isfile(source) else None


def local_bytes(pool: Pool) -> int:
    """Return the size of those of its files that are on this machine."""
    return sum(size_of_parts(path) for path in map(find_source, pool.sources) if path)


def _absence(what: str, source: Source, pool: Pool) -> str:
    advice = f"to fetch it, type: metasd download {pool.name}"
    if isinstance(source, Path):
        advice = f"correct [pool.{pool.name}] in {pool.defined_in}"
    return f"the {what} {source} of pool {pool.name} is not on this machine; {advice}"
