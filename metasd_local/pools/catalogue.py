"""models.toml as records: pools of one target and its drafters, shipped and of the user's own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import TypeAlias

from metasd_local.config import models_path
from metasd_local.errors import UsageError
from metasd_local.hub.repository import HubFile, RepositoryText, is_inside, parse_repository
from metasd_local.options import CONFIGURABLE, nearest_hint
from metasd_local.protocols import NGRAM, PLAIN
from metasd_local.sampling import SamplerSettings
from metasd_local.toml_tables import TABLE, Table, read_document
from metasd_local.values import PATH, POSITIVE, SWITCH, TEXT, Kind, exactly, whole

DEFAULT_POOL = "starter"
DEFAULT_DOWNLOAD = "qwen3"
NAME_RULE = f"a name of letters, digits and . + - _, not {NGRAM} or {PLAIN}"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"\w[\w.+-]*", re.ASCII)


Source: TypeAlias = Path | HubFile


@dataclass(frozen=True, slots=True)
class DrafterEntry:
    """One drafter of a pool."""

    name: str
    source: Source
    domain: str = ""
    """What it was trained for; empty if for everything."""
    licence: str = ""
    """Where it is not the pool's."""
    unverified: str = ""
    """What nobody has checked yet."""


@dataclass(frozen=True, slots=True)
class Pool:
    """One target and its drafters, wherever their files are."""

    name: str
    target: Source
    drafters: tuple[DrafterEntry, ...] = ()
    summary: str = ""
    licence: str = ""
    memory_bytes: int | None = None
    """Needed to run it, where somebody measured or estimated that."""
    unverified: str = ""
    """What nobody has checked yet."""
    is_demo: bool = False
    """Whether its answers are not to be used."""
    sampling: SamplerSettings = field(default_factory=SamplerSettings)
    """Recommended settings."""
    defined_in: Path | None = None

    @property
    def sources(self) -> tuple[Source, ...]:
        """Return the target's file and the drafters'."""
        return (self.target, *(drafter.source for drafter in self.drafters))


class Catalogue:
    """The pools a user can name; of one name the last holds."""

    def __init__(self, pools: Iterable[Pool]) -> None:
        self._pools = {pool.name: pool for pool in pools}

    def __iter__(self) -> Iterator[Pool]:
        return iter(self._pools.values())

    def __contains__(self, name: str) -> bool:
        return name in self._pools

    def __getitem__(self, name: str) -> Pool:
        if name not in self._pools:
            hint = (
                nearest_hint(name, self._pools) or '; a prompt stands in quotes: metasd run "..."'
            )
            raise UsageError(
                f"no pool and no .gguf file is named {name!r}{hint} "
                f"(pools: {', '.join(self._pools)})"
            )
        return self._pools[name]


def read_catalogue(environment: Mapping[str, str] = os.environ) -> Catalogue:
    """Read the shipped catalogue and the user's own, whose pools replace those of the same name.

    Raises ConfigError.
    """
    package = resources.files("metasd_local")
    with resources.as_file(package) as root:
        path = root / "models.toml"
        if not path.is_file():
            path = root.parent / "models.toml"  # in a checkout
        shipped = parse_catalogue(path, root)
    own = models_path(environment)
    return Catalogue((*shipped, *parse_catalogue(own, own.parent)))


def parse_catalogue(path: Path, root: Path) -> Catalogue:
    """Read one models.toml; relative model paths start at `root`. Raise ConfigError.

    A missing file is an empty one.
    """
    document = {"pool": {}, **read_document(path, may_be_missing=True)}
    pools = Table(path, "", document, {"pool": TABLE}).inside("pool", TABLE)
    return Catalogue(_parse_pool(pools, name, root) for name in pools)


def is_pool_name(text: str) -> bool:
    """Tell whether a pool or a drafter can have this name."""
    is_free = text not in (NGRAM, PLAIN) and not text.lower().endswith(".gguf")
    return is_free and _is_word(text)


def _is_word(text: str) -> bool:
    return bool(_NAME.fullmatch(text))


def _is_file(name: str) -> bool:
    return name.endswith(".gguf") and is_inside(name)


_FILE = "path = … or repo = … and file = …"
_HUB: Mapping[str, Kind] = {
    "repo": exactly("user/repo", str, lambda text: parse_repository(text) == RepositoryText(text)),
    "file": exactly("a .gguf file inside the repository, without `..`", str, _is_file),
    "revision": exactly("a branch, a tag or a commit", str, _is_word),
    "size_bytes": whole(1),
    "sha256": exactly("64 hexadecimal digits", str, lambda text: bool(_SHA256.fullmatch(text))),
}
_MODEL: Mapping[str, Kind] = {"path": PATH, **_HUB}
_DRAFTER: Mapping[str, Kind] = {
    "name": exactly(NAME_RULE, str, is_pool_name),
    "domain": TEXT,
    "licence": TEXT,
    "unverified": TEXT,
    **_MODEL,
}
_POOL: Mapping[str, Kind] = {
    "summary": TEXT,
    "licence": TEXT,
    "memory_gb": POSITIVE,
    "unverified": TEXT,
    "demo": SWITCH,
    "target": exactly(f"a table with {_FILE}", dict),
    "drafter": exactly(
        "tables such as [[pool.NAME.drafter]]",
        list,
        lambda entries: all(isinstance(entry, dict) for entry in entries),
    ),
    "sampling": TABLE,
}
_SAMPLING: Mapping[str, Kind] = {
    **{
        entry.name: CONFIGURABLE[entry.name].kind
        for entry in fields(SamplerSettings)
        if entry.name in CONFIGURABLE
    },
    "penalty_last_n": whole(0),
}


def _parse_pool(pools: Table, name: str, root: Path) -> Pool:
    if not is_pool_name(name):
        raise pools.error(f"found {name!r}, expected {NAME_RULE}")
    table = pools.inside(name, _POOL)
    drafters = tuple(
        _parse_drafter(Table(table.path, f"{table.name}.drafter", entry, _DRAFTER), root)
        for entry in table.get("drafter", ())
    )
    names = [drafter.name for drafter in drafters]
    if len({*names}) < len(names):
        raise table.error(f"drafter: two of {', '.join(names)} have one name")
    return Pool(
        name=name,
        target=_parse_source(table.inside("target", _MODEL), root),
        drafters=drafters,
        summary=table.get("summary", ""),
        licence=table.get("licence", ""),
        memory_bytes=round(table.get("memory_gb", 0) * 1e9) or None,
        unverified=table.get("unverified", ""),
        is_demo=table.get("demo", False),
        sampling=_parse_sampling(table),
        defined_in=table.path,
    )


def _parse_drafter(table: Table, root: Path) -> DrafterEntry:
    return DrafterEntry(
        name=table["name"],
        source=_parse_source(table, root),
        domain=table.get("domain", ""),
        licence=table.get("licence", ""),
        unverified=table.get("unverified", ""),
    )


def _parse_source(table: Table, root: Path) -> Source:
    if ("path" in table) == ("repo" in table):
        raise table.error(f"expected either {_FILE}")
    if "repo" in table:
        return HubFile(
            repo=table["repo"],
            name=table["file"],
            revision=table.get("revision", "main"),
            size_bytes=table.get("size_bytes"),
            sha256=table.get("sha256"),
        )
    of_hub = _HUB.keys() & table.keys()
    if of_hub:
        raise table.error(f"{min(of_hub)}: belongs to a repo, found a path")
    path: str = table["path"]
    return root / path


def _parse_sampling(pool: Table) -> SamplerSettings:
    if "sampling" not in pool:
        return SamplerSettings()
    table = pool.inside("sampling", _SAMPLING)
    try:
        return SamplerSettings(**table)
    except UsageError as error:
        raise table.error(str(error)) from error
