"""Options: one table for the command line, the environment and config.toml.

Knows what may be said and what it means as a value; applies nothing. Loads no model and no numpy,
so that `metasd --help` is quick.
"""

from __future__ import annotations

import difflib
import math
import os
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metasd_local.errors import ConfigError, UsageError

ENVIRONMENT_PREFIX = "METASD_"
SCHEMES = ("greedy", "coupled", "match", "rejection")
MAX_WINDOW = 16
MAX_RUN_TOKENS = 512
"""Most tokens of an answer of `metasd run` if the user names no number."""
# llama.cpp takes seeds of 32 bits and reads the largest of them as "draw one at random".
MAX_SEED = 2**32 - 2


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for, wherever it was said; None where it was not said anywhere.

    Only a pool, a model or a command can fill the gaps, so they stay visible.
    """

    pool: str | None = None
    policy: str | None = None
    """As typed: NAME[:key=value,...]."""
    drafters: tuple[str, ...] | None = None
    """Names in the pool or paths; at least one."""
    window: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    scheme: str | None = None
    """One of SCHEMES."""
    seed: int | None = None
    """0 to MAX_SEED."""
    system: str | None = None
    stop: tuple[str, ...] | None = None
    """At least one, none of them empty."""
    think: bool | None = None
    ctx: int | None = None
    """Tokens."""
    gpu_layers: int | None = None
    threads: int | None = None
    json: bool | None = None
    trace: str | None = None
    """Path of a file."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value: how it is written as text, and which values are allowed."""

    expected: str
    """Completes the sentence "expected ..."."""
    from_text: Callable[[str], object]
    """Turn text into a value for `check`; may raise ValueError."""
    check: Callable[[object], object]
    """Return the value in its final type; raise ValueError if it is not allowed."""


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table."""

    name: str
    """As typed after `--`; with `_` for `-` it is the field of Options."""
    kind: Kind
    metavar: str
    help: str
    default: str = ""
    """What holds if nothing is said, in words; empty if that is nothing at all."""
    commands: tuple[str, ...] = ("run",)
    """Commands that take it; none if it can only be configured."""

    @property
    def field(self) -> str:
        """Return the name of the field of Options, also the key in config.toml."""
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """Return the name of the environment variable."""
        return ENVIRONMENT_PREFIX + self.field.upper()

    @property
    def is_switch(self) -> bool:
        """Tell whether it is typed as `--name` or `--no-name`, without a value."""
        return self.kind is SWITCH

    @property
    def is_repeatable(self) -> bool:
        """Tell whether it may be typed several times, every time adding to a tuple."""
        return self.kind is TEXTS

    def parse_text(self, where: str, text: str) -> object:
        """Return the value of a text; raise UsageError that begins with `where`."""
        try:
            return self.kind.check(self.kind.from_text(text))
        except ValueError:
            raise UsageError(f"{where}: found {text!r}, expected {self.kind.expected}") from None

    def parse_value(self, where: str, value: object) -> object:
        """Return the value of a TOML value; raise ConfigError that begins with `where`."""
        try:
            return self.kind.check(value)
        except ValueError:
            message = f"{where}: found {value!r}, expected {self.kind.expected}"
            raise ConfigError(message) from None


def _whole(minimum: int, maximum: int | None = None) -> Kind:
    def check(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise ValueError
        if maximum is not None and value > maximum:
            raise ValueError
        return value

    limits = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
    return Kind(f"a whole number {limits}", int, check)


def _real(expected: str, is_allowed: Callable[[float], bool]) -> Kind:
    def check(value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError
        if not math.isfinite(value) or not is_allowed(value):
            raise ValueError
        return float(value)

    return Kind(expected, float, check)


def _one_of(choices: tuple[str, ...]) -> Kind:
    def check(value: object) -> object:
        if value not in choices:
            raise ValueError
        return value

    return Kind("one of " + ", ".join(choices), str, check)


def _check_text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    value.encode("utf-8")  # bytes of the command line that are no UTF-8 arrive as lone surrogates
    return value


def _check_texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value:
        raise ValueError
    return tuple(_check_text(item) for item in value)


def _check_path(value: object) -> str:
    return os.path.expanduser(_check_text(value))


def _check_paths(value: object) -> tuple[str, ...]:
    return tuple(os.path.expanduser(text) for text in _check_texts(value))


def _from_switch_text(text: str) -> bool:
    values = dict.fromkeys(("1", "true", "yes", "on"), True)
    values |= dict.fromkeys(("0", "false", "no", "off"), False)
    if text.lower() not in values:
        raise ValueError
    return values[text.lower()]


def _check_switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


TEXT = Kind("a text that is not empty", str, _check_text)
TEXTS = Kind("a text that is not empty, or a list of them", str, _check_texts)
NAMES = Kind(
    "names or paths separated by commas (in config.toml a list)",
    lambda text: [item.strip() for item in text.split(",")],
    _check_paths,  # a shell leaves the ~ after a comma alone
)
PATH = Kind("a name or a path", str, _check_path)
SWITCH = Kind("true or false", _from_switch_text, _check_switch)

OPTIONS = (
    Option("pool", PATH, "POOL", "the pool to use if none is named", "starter", ()),
    Option("policy", TEXT, "P", "who drafts; `--policy help` lists them", "ucb"),
    Option("drafters", NAMES, "A,B", "only these drafters: names or .gguf paths", "the pool's"),
    Option("window", _whole(1, MAX_WINDOW), "N", "most tokens drafted in a round", "5"),
    Option("max-tokens", _whole(1), "N", "most tokens of the answer", str(MAX_RUN_TOKENS)),
    Option(
        "temperature",
        _real("a number of at least 0", lambda value: value >= 0),
        "T",
        "0 takes the likeliest token",
        "the pool's, else 0.8",
    ),
    Option("top-k", _whole(0), "N", "keep the N likeliest, 0 = all", "the pool's, else 40"),
    Option(
        "top-p",
        _real("a number above 0, at most 1", lambda value: 0 < value <= 1),
        "P",
        "keep the likeliest up to P",
        "the pool's, else 0.95",
    ),
    Option(
        "min-p",
        _real("a number from 0 to 1", lambda value: 0 <= value <= 1),
        "P",
        "drop below P of the likeliest",
        "the pool's, else 0.05",
    ),
    Option(
        "repeat-penalty",
        _real("a number above 0", lambda value: value > 0),
        "X",
        "shun recent tokens, 1 = off",
        "the pool's, else 1",
    ),
    Option(
        "scheme",
        _one_of(SCHEMES),
        "NAME",
        ", ".join(SCHEMES),
        "greedy at temperature 0, else coupled",
    ),
    Option("seed", _whole(0, MAX_SEED), "N", "same seed, same answer", "random, and shown"),
    Option("system", TEXT, "TEXT", "system prompt"),
    Option("stop", TEXTS, "TEXT", "end before this text; may be repeated"),
    Option("think", SWITCH, "", "ask for reasoning, or for none", "the model's own habit"),
    Option("ctx", _whole(1), "N", "tokens of context", "what fits, at most 8192"),
    Option("gpu-layers", _whole(0), "N", "layers kept on the GPU", "all, if there is one"),
    Option("threads", _whole(1), "N", "CPU threads", "one per usable core"),
    Option("json", SWITCH, "", "print one JSON object instead of the text"),
    Option("trace", PATH, "FILE", "append every event to FILE, one JSON object a line"),
)


def nearest_hint(word: str, known: Collection[str]) -> str:
    """Return `; did you mean 'x'?` for the known word nearest to `word`, else nothing."""
    longer = [each for each in known if each.startswith(word)]
    nearest = longer or difflib.get_close_matches(word, known, 1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def config_path(environment: Mapping[str, str]) -> Path:
    """Return where config.toml belongs, whether or not it exists.

    Source: XDG Base Directory Specification, which has relative paths ignored.
    """
    base = Path(environment.get("XDG_CONFIG_HOME", ""))
    if not base.is_absolute():
        base = Path("~/.config").expanduser()
    return base / "metasd" / "config.toml"


def load_options(said: Mapping[str, Any], environment: Mapping[str, str], path: Path) -> Options:
    """Merge config.toml at `path`, the environment and what was `said` on the command line.

    Later ones win, each value whole: a stop string on the command line replaces all configured
    ones. `said` maps fields of Options to parsed values. A missing file is an empty one, and an
    empty variable is no variable. Raises ConfigError and UsageError.
    """
    return Options(**{**_read_file(path), **_read_environment(environment), **said})


def _read_file(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: no valid TOML: {error}; correct or remove it") from error
    known = {option.field: option for option in OPTIONS}
    values: dict[str, Any] = {}
    for key, value in document.items():
        field = key.replace("-", "_")
        if field not in known:
            hint = nearest_hint(field, known)
            raise ConfigError(f"{path}: unknown key {key!r}{hint} (known: {', '.join(known)})")
        if field in values:
            raise ConfigError(f"{path}: {field} is given twice; remove one")
        values[field] = known[field].parse_value(f"{path}: {key}", value)
    return values


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    known = {option.variable: option for option in OPTIONS}
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
