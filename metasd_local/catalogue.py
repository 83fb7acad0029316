"""models.toml as records: pools of one target and its drafters, shipped and of the user's own."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

from metasd_local.config import models_path
from metasd_local.errors import ConfigError, UsageError
from metasd_local.options import OPTIONS, nearest_hint
from metasd_local.protocols import NGRAM, PLAIN
from metasd_local.repository import RepositoryText, is_inside, parse_repository
from metasd_local.sampling import SamplerSettings
from metasd_local.values import SWITCH, TEXT, Kind, real, whole

DEFAULT_POOL = "starter"
DEFAULT_DOWNLOAD = "qwen3"
NAME_RULE = "a name of letters, digits and . + - _"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"\w[\w.+-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class HubFile:
    """A model's file in a repository of the Hugging Face Hub."""

    repo: str
    """As in user/repo."""
    name: str
    """Inside the repository, with its folders; of a split model the first part."""
    revision: str = "main"
    size_bytes: int | None = None
    """Of all parts together; None where nobody wrote it down."""
    sha256: str | None = None
    """Of a file that is not split."""

    def __str__(self) -> str:
        """Return it as it can be typed."""
        return f"{self.repo}/{self.name}"


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
    """The pools a user can name."""

    def __init__(self, pools: Mapping[str, Pool]) -> None:
        self._pools = pools

    def __iter__(self) -> Iterator[Pool]:
        return iter(self._pools.values())

    def __contains__(self, name: str) -> bool:
        return name in self._pools

    def __getitem__(self, name: str) -> Pool:
        if name not in self._pools:
            raise UsageError(
                f"no pool and no .gguf file is named {name!r}{nearest_hint(name, self._pools)} "
                f"(pools: {', '.join(self._pools)})"
            )
        return self._pools[name]


def read_catalogue(environment: Mapping[str, str] = os.environ) -> Catalogue:
    """Read the shipped catalogue and the user's own, whose pools replace those of the same name.

    Raises ConfigError.
    """
    package = resources.files("metasd_local")
    with resources.as_file(package) as root:
        shipped = root / "models.toml"
        path = shipped if shipped.is_file() else root.parent / "models.toml"  # in a checkout
        pools = {pool.name: pool for pool in parse_catalogue(path, root)}
    own = models_path(environment)
    if os.path.exists(own):
        pools |= {pool.name: pool for pool in parse_catalogue(own, own.parent)}
    return Catalogue(pools)


def parse_catalogue(path: Path, root: Path) -> Catalogue:
    """Read one models.toml; relative model paths start at `root`. Raise ConfigError."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: no valid TOML: {error}; correct it") from error
    top = _Table(path, "top level", document, {"pool"})
    pools = _Table(path, "pool", top.get("pool", _TABLE, {}))
    return Catalogue({name: _parse_pool(pools, name, root) for name in pools.table})


def is_pool_name(text: str) -> bool:
    """Tell whether a pool or a drafter can have this name."""
    return bool(_NAME.fullmatch(text)) and not text.lower().endswith(".gguf")


def hub_file(text: str) -> HubFile | None:
    """Return the file of a text such as user/repo/file.gguf, None if that is none."""
    asked = parse_repository(text)
    return HubFile(asked.repo, asked.name) if asked and asked.name else None


class _Table:
    """One table of a file; its errors name the file, the table and the key."""

    def __init__(self, path: Path, name: str, table: object, known: Collection[str] = ()) -> None:
        self.path, self.name = path, name
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: [{name}]: found {table!r}, expected a table")
        self.table: dict[str, Any] = table
        for key in table:
            if known and key not in known:
                raise ConfigError(
                    f"{path}: [{name}] has an unknown key {key!r}{nearest_hint(key, known)} "
                    f"(known: {', '.join(known)})"
                )

    def get(self, key: str, kind: Kind, default: Any = None) -> Any:
        """Return a value; a missing one is an error if there is no default."""
        if key not in self.table and default is not None:
            return default
        try:
            return kind.check(self.table.get(key))
        except ValueError:
            found = repr(self.table[key]) if key in self.table else "nothing"
            message = f"{self.path}: [{self.name}] {key}: found {found}, expected {kind.expected}"
            raise ConfigError(message) from None


def _kind(expected: str, type_: type, is_allowed: Callable[[Any], bool] = lambda _: True) -> Kind:
    def check(value: object) -> object:
        if not isinstance(value, type_) or not is_allowed(value):
            raise ValueError
        return value

    return Kind(expected, str, check)


def _is_file(name: str) -> bool:
    return name.endswith(".gguf") and is_inside(name)


_TABLE = _kind("a table", dict)
_LIST = _kind("tables such as [[pool.NAME.drafter]]", list)
_DRAFTER_NAME = _kind(
    f"{NAME_RULE}, not {NGRAM} or {PLAIN}",
    str,
    lambda text: is_pool_name(text) and text not in (NGRAM, PLAIN),
)
_MODEL: Mapping[str, Kind] = {
    "path": TEXT,
    "repo": _kind("user/repo", str, lambda text: parse_repository(text) == RepositoryText(text)),
    "file": _kind("a .gguf file inside the repository, without `..`", str, _is_file),
    "revision": _kind("a branch, a tag or a commit", str, is_pool_name),
    "size_bytes": whole(1),
    "sha256": _kind("64 hexadecimal digits", str, lambda text: bool(_SHA256.fullmatch(text))),
}
_DRAFTER: Mapping[str, Kind] = {
    "name": _DRAFTER_NAME,
    "domain": TEXT,
    "licence": TEXT,
    "unverified": TEXT,
}
_POOL: Mapping[str, Kind] = {
    "summary": TEXT,
    "licence": TEXT,
    "memory_gb": real("a number above 0", lambda value: value > 0),
    "unverified": TEXT,
    "demo": SWITCH,
    "target": _TABLE,
    "drafter": _LIST,
    "sampling": _TABLE,
}
_SAMPLING: Mapping[str, Kind] = {
    **{option.field: option.kind for option in OPTIONS},
    "penalty_last_n": whole(0),
}


def _parse_pool(pools: _Table, name: str, root: Path) -> Pool:
    path, where = pools.path, f"pool.{name}"
    if not is_pool_name(name):
        raise ConfigError(f"{path}: [{where}]: found {name!r}, expected {NAME_RULE}")
    table = _Table(path, where, pools.table[name], _POOL)
    if "target" not in table.table:
        raise ConfigError(
            f"{path}: [{where}] has no target; expected target = {{ path = … }} or "
            "{ repo = …, file = … }"
        )
    target = _Table(path, f"{where}.target", table.table["target"], _MODEL)
    memory_gb = table.get("memory_gb", _POOL["memory_gb"], 0.0)
    drafters = tuple(
        _parse_drafter(_Table(path, f"{where}.drafter", entry, (*_DRAFTER, *_MODEL)), root)
        for entry in table.get("drafter", _LIST, [])
    )
    names = [drafter.name for drafter in drafters]
    if len({*names}) < len(names):
        raise ConfigError(f"{path}: [{where}.drafter]: two of {', '.join(names)} have one name")
    return Pool(
        name=name,
        target=_parse_source(target, root),
        drafters=drafters,
        summary=table.get("summary", TEXT, ""),
        licence=table.get("licence", TEXT, ""),
        memory_bytes=round(memory_gb * 1e9) or None,
        unverified=table.get("unverified", TEXT, ""),
        is_demo=table.get("demo", SWITCH, False),
        sampling=_parse_sampling(path, f"{where}.sampling", table.get("sampling", _TABLE, {})),
        defined_in=path,
    )


def _parse_drafter(table: _Table, root: Path) -> DrafterEntry:
    return DrafterEntry(
        name=table.get("name", _DRAFTER_NAME),
        source=_parse_source(table, root),
        **{key: table.get(key, TEXT, "") for key in ("domain", "licence", "unverified")},
    )


def _parse_source(table: _Table, root: Path) -> Source:
    is_path = "path" in table.table
    of_hub = {*_MODEL} - {"path"} & {*table.table}
    if is_path == ("repo" in table.table):
        raise ConfigError(
            f"{table.path}: [{table.name}]: expected either path = … or repo = … and file = …"
        )
    if is_path:
        if of_hub:
            raise ConfigError(
                f"{table.path}: [{table.name}] {min(of_hub)}: belongs to a repo, found a path"
            )
        return root / Path(table.get("path", TEXT)).expanduser()
    return HubFile(
        repo=table.get("repo", _MODEL["repo"]),
        name=table.get("file", _MODEL["file"]),
        revision=table.get("revision", _MODEL["revision"], "main"),
        size_bytes=table.get("size_bytes", _MODEL["size_bytes"], 0) or None,
        sha256=table.get("sha256", _MODEL["sha256"], "") or None,
    )


def _parse_sampling(path: Path, where: str, values: dict[str, Any]) -> SamplerSettings:
    known = [entry.name for entry in fields(SamplerSettings)]
    table = _Table(path, where, values, known)
    try:
        return SamplerSettings(**{key: table.get(key, _SAMPLING[key]) for key in values})
    except UsageError as error:
        raise ConfigError(f"{path}: [{where}]: {error}") from error
