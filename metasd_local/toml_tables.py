"""TOML files of the user and of the package, read strictly."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metasd_local.errors import ConfigError
from metasd_local.options import nearest_hint
from metasd_local.values import Kind, exactly

TABLE = exactly("a table", dict)


def read_document(path: Path, *, may_be_missing: bool = False) -> dict[str, Any]:
    """Return what a TOML file says, unchecked; nothing for a missing one. Raise ConfigError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        if may_be_missing and isinstance(error, FileNotFoundError):
            return {}
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: no valid TOML: {error}; correct it") from error


class Table(dict[str, Any]):
    """One table of a file: every key is known, every value allowed and in its final type.

    name: as in the table's header; empty at the top of the file.
    kinds: of the keys, or the one of all where any key is allowed.
    Asking for a value that is not given raises ConfigError, as a wrong one does.
    """

    def __init__(
        self, path: Path, name: str, values: Mapping[str, object], kinds: Mapping[str, Kind] | Kind
    ) -> None:
        self.path, self.name = path, name
        self._kinds = dict.fromkeys(values, kinds) if isinstance(kinds, Kind) else kinds
        super().__init__({key: self._check(key, value) for key, value in values.items()})

    def __missing__(self, key: str) -> Any:
        raise self.error(f"{key}: found nothing, expected {self._kinds[key].expected}")

    def inside(self, key: str, kinds: Mapping[str, Kind] | Kind) -> Table:
        """Return the table of a key."""
        return Table(self.path, f"{self.name}.{key}".lstrip("."), self[key], kinds)

    def error(self, text: str) -> ConfigError:
        """Return an error that names file and table."""
        where = f"{self.path}: [{self.name}]" if self.name else self.path
        return ConfigError(f"{where}: {text}")

    def _check(self, key: str, value: object) -> object:
        if key not in self._kinds:
            hint, known = nearest_hint(key, self._kinds), ", ".join(self._kinds)
            raise self.error(f"unknown key {key!r}{hint} (known: {known})")
        kind = self._kinds[key]
        try:
            return kind.check(value)
        except ValueError:
            raise self.error(f"{key}: found {value!r}, expected {kind.expected}") from None
