"""What was said in config.toml, in the environment and on the command line, merged."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metasd_local.errors import ConfigError, UsageError
from metasd_local.options import OPTIONS, Options, nearest_hint

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
    return _base(environment, "XDG_STATE_HOME", "~/.local/state") / "chat.json"


def state_path(environment: Mapping[str, str]) -> Path:
    """Return the folder of what is measured and learned of pools."""
    return _base(environment, "XDG_STATE_HOME", "~/.local/state")


def _base(environment: Mapping[str, str], variable: str, default: str) -> Path:
    base = Path(environment.get(variable, ""))
    if not base.is_absolute():
        base = Path(default).expanduser()
    return base / "metasd"


def load_options(said: Mapping[str, Any], environment: Mapping[str, str], path: Path) -> Options:
    """Merge config.toml at `path`, the environment and what was `said` on the command line.

    Later ones win, each value whole: a stop string on the command line replaces all configured
    ones. `said` maps fields of Options to parsed values. A missing file is an empty one, and an
    empty variable is no variable. Raises ConfigError and UsageError.
    """
    return Options(**{**_read_file(path), **_read_environment(environment), **said})


def load_keys(path: Path) -> Mapping[str, object]:
    """Return the table [keys] of config.toml, which the chat alone understands.

    Raises ConfigError.
    """
    keys = _read_document(path).get(KEYS, {})
    if not isinstance(keys, dict):
        raise ConfigError(f"{path}: {KEYS}: found {keys!r}, expected a table such as [{KEYS}]")
    return keys


def _read_document(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: no valid TOML: {error}; correct or remove it") from error


def _read_file(path: Path) -> dict[str, Any]:
    known = {option.field: option for option in OPTIONS}
    values: dict[str, Any] = {}
    for key, value in _read_document(path).items():
        if key == KEYS:
            continue
        field = key.replace("-", "_")
        if field not in known:
            hint = nearest_hint(field, known)
            raise ConfigError(f"{path}: unknown key {key!r}{hint} (known: {', '.join(known)})")
        if field in values:
            raise ConfigError(f"{path}: {field} is given twice; remove one")
        values[field] = known[field].parse_value(f"{path}: {key}", value)
    return values


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    known = {ENVIRONMENT_PREFIX + option.field.upper(): option for option in OPTIONS}
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
