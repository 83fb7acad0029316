"""models.toml as records: pools of one target and its drafters."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from metasd_local.errors import ConfigError, UsageError
from metasd_local.options import nearest_hint
from metasd_local.sampling import SamplerSettings

DEFAULT_POOL = "starter"


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


@dataclass(frozen=True, slots=True)
class DrafterEntry:
    """One drafter of a pool."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class Pool:
    """One target and its drafters."""

    name: str
    target: Path
    drafters: tuple[DrafterEntry, ...] = ()
    summary: str = ""
    sampling: SamplerSettings = field(default_factory=SamplerSettings)
    """Recommended settings."""

    @property
    def file_bytes(self) -> int:
        """Return the size of those of its files that are here."""
        paths = (self.target, *(drafter.path for drafter in self.drafters))
        return sum(path.stat().st_size for path in paths if path.is_file())


def pool_of_file(target: Path) -> Pool:
    """Return the pool of a GGUF file given by path: no drafters of its own."""
    return Pool(name=target.stem, target=target)


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


def read_catalogue() -> Catalogue:
    """Read the catalogue shipped with the package, in a checkout the one at its top."""
    package = resources.files("metasd_local")
    with resources.as_file(package) as root:
        shipped = root / "models.toml"
        path = shipped if shipped.is_file() else root.parent / "models.toml"
        return parse_catalogue(path, root)


def parse_catalogue(path: Path, root: Path) -> Catalogue:
    """Read one models.toml; relative model paths start at `root`. Raise ConfigError."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    _check_keys(path, "top level", document, {"pool"})
    pools = {
        name: _parse_pool(path, f"pool.{name}", name, table, root)
        for name, table in document.get("pool", {}).items()
    }
    return Catalogue(pools)


def _parse_pool(path: Path, where: str, name: str, table: dict[str, Any], root: Path) -> Pool:
    _check_keys(path, where, table, {"summary", "target", "drafter", "sampling"})
    if "target" not in table:
        raise ConfigError(f"{path}: [{where}] has no target; expected target = {{ path = … }}")
    _check_keys(path, f"{where}.target", table["target"], {"path"})
    drafters = []
    for entry in table.get("drafter", ()):
        _check_keys(path, f"{where}.drafter", entry, {f.name for f in fields(DrafterEntry)})
        drafters.append(
            DrafterEntry(
                name=_text(path, f"{where}.drafter", entry, "name"),
                path=root / _text(path, f"{where}.drafter", entry, "path"),
            )
        )
    return Pool(
        name=name,
        target=root / _text(path, f"{where}.target", table["target"], "path"),
        drafters=tuple(drafters),
        summary=table.get("summary", ""),
        sampling=_parse_sampling(path, f"{where}.sampling", table.get("sampling", {})),
    )


def _parse_sampling(path: Path, where: str, table: dict[str, Any]) -> SamplerSettings:
    _check_keys(path, where, table, {entry.name for entry in fields(SamplerSettings)})
    try:
        return SamplerSettings(**table)
    except (UsageError, TypeError) as error:
        raise ConfigError(f"{path}: [{where}]: {error}") from error


def _text(path: Path, where: str, table: dict[str, Any], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str):
        raise ConfigError(f"{path}: [{where}] {key}: found {value!r}, expected a text")
    return value


def _check_keys(path: Path, where: str, table: Any, known: set[str]) -> None:
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: [{where}]: found {table!r}, expected a table")
    for key in table:
        if key not in known:
            raise ConfigError(
                f"{path}: [{where}] has an unknown key {key!r}{nearest_hint(key, known)} "
                f"(known: {', '.join(sorted(known))})"
            )
