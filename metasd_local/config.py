"""What was said in config.toml, in the environment and on the command line, merged."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metasd_local.errors import ConfigError, UsageError
from metasd_local.options import CONFIGURABLE, Options, nearest_hint
from metasd_local.toml_tables import TABLE, Table, read_document

ENVIRONMENT_PREFIX = "METASD_"
KEYS = "keys"


def config_path(environment: Mapping[str, str]) -> Path:
    """Return where config.toml belongs, whether or not it exists.

    Source: XDG Base Directory Specification, which has relative paths ignored.
    """
    return _base(environment, "XDG_CONFIG_HOME", "~/.config") / "config.toml"


def models_path(environment: Mapping[str, str]) -> Path:
    """Return where the user's own models.toml belongs, whether or not it exists."""
    return config_path(environment).with_name("models.toml")


def chats_path(environment: Mapping[str, str]) -> Path:
    """Return where conversations are kept."""
    return _base(environment, "XDG_DATA_HOME", "~/.local/share") / "chats.db"


def memory_path(environment: Mapping[str, str]) -> Path:
    """Return where the chat remembers how it was left."""
    return state_path(environment) / "chat.json"


def state_path(environment: Mapping[str, str]) -> Path:
    """Return the folder of what is measured and learned of pools."""
    return _base(environment, "XDG_STATE_HOME", "~/.local/state")


def _base(environment: Mapping[str, str], variable: str, default: str) -> Path:
    base = environment.get(variable, "")
    return Path(base if os.path.isabs(base) else os.path.expanduser(default), "metasd")


def load_options(said: Mapping[str, Any], environment: Mapping[str, str], path: Path) -> Options:
    """Merge config.toml at `path`, the environment and what was `said` on the command line.

    Later ones win, each value whole: a stop string on the command line replaces all configured
    ones. `said` maps fields of Options to parsed values. A missing file is an empty one, and an
    empty variable is no variable. Raises ConfigError and UsageError.
    """
    values = {**_read_file(path), **_read_environment(environment), **said}
    values.pop(KEYS, None)
    return Options(**values)


def load_keys(path: Path) -> Mapping[str, object]:
    """Return the table [keys] of config.toml, which the chat alone understands.

    Raises ConfigError.
    """
    keys: Mapping[str, object] = _read_file(path).get(KEYS, {})
    return keys


def _read_file(path: Path) -> Table:
    values: dict[str, object] = {}
    for key, value in read_document(path, may_be_missing=True).items():
        field = key.replace("-", "_")
        if field in values:
            raise ConfigError(f"{path}: {field} is given twice; remove one")
        values[field] = value
    kinds = {field: option.kind for field, option in CONFIGURABLE.items()}
    return Table(path, "", values, {**kinds, KEYS: TABLE})


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    known = {ENVIRONMENT_PREFIX + field.upper(): each for field, each in CONFIGURABLE.items()}
    values: dict[str, Any] = {}
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or not text:
            continue
        if variable not in known:
            hint = nearest_hint(variable, known)
            raise UsageError(f"unknown environment variable {variable!r}{hint}; unset it")
        option = known[variable]
        values[option.field] = option.parse_text(variable, text)
    return values
