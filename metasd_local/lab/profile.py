"""Profiles of emulated acceptance: how often which drafter is right in which domain, as TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from metasd_local.errors import ConfigError, UsageError
from metasd_local.options import nearest_hint
from metasd_local.protocols import NGRAM, PLAIN
from metasd_local.values import Kind, real, whole

_PROBABILITY = real("a number from 0 to 1", lambda value: 0 <= value <= 1)
_AT_LEAST_ONE = real("a number of at least 1", lambda value: value >= 1)
_PROMPT_TOKENS = whole(2, 1_000_000)


@dataclass(frozen=True, slots=True)
class NgramLookup:
    """Prompt lookup in one domain: copied runs among new text. By default nothing matches."""

    copied_share: float = 0.0
    """Share of the answer that is copied."""
    run_tokens: float = 1.0
    """Mean tokens after which it is drawn anew whether the text is copied; at least 1."""
    copied_acceptance: float = 0.0
    """Probability that a token is right in copied text, where there is always a match."""
    match: float = 0.0
    """Probability of a match at a position of new text."""
    acceptance: float = 0.0
    """Probability that a token is right there."""


@dataclass(frozen=True, slots=True)
class Domain:
    """What the drafters are worth in one kind of text; probabilities are per position."""

    acceptance: Mapping[str, Sequence[float]]
    """Probability that a drafter's token is right, in each of some equal parts of the answer."""
    ngram: NgramLookup | None


@dataclass(frozen=True, slots=True)
class Profile:
    """Emulated acceptance by domain."""

    name: str
    summary: str
    prompt_tokens: int
    domains: Mapping[str, Domain]
    """At least one; all name the same drafters."""

    @property
    def drafters(self) -> Sequence[str]:
        """Return the names of the model drafters."""
        return tuple(next(iter(self.domains.values())).acceptance)

    @property
    def has_ngram(self) -> bool:
        """Tell whether prompt lookup is an arm."""
        return any(domain.ngram is not None for domain in self.domains.values())


def find_profile(text: str) -> Profile:
    """Read the profile of a path that ends in .toml, or one shipped with the package by name.

    Raises UsageError and ConfigError.
    """
    if text.endswith(".toml"):
        return read_profile(Path(text).expanduser())
    with resources.as_file(resources.files("metasd_local")) as root:
        shipped = {path.stem: path for path in sorted(root.glob("lab/profiles/*.toml"))}
        if text not in shipped:
            raise UsageError(
                f"no profile is named {text!r}{nearest_hint(text, shipped)} (profiles: "
                f"{', '.join(shipped)}, or the path of a .toml file)"
            )
        return read_profile(shipped[text])


def read_profile(path: Path) -> Profile:
    """Read one profile; raise ConfigError naming file, table and key."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    top = _Table(path, "top level", document)
    top.check_keys(("summary", "prompt_tokens", "domain"), required=("prompt_tokens", "domain"))
    domains = {
        name: _parse_domain(_Table(path, f"domain.{name}", table))
        for name, table in _Table(path, "domain", document["domain"]).values.items()
    }
    if not domains:
        raise top.error("no domain; expected at least one [domain.NAME]")
    drafters = next(iter(domains.values())).acceptance
    for name, domain in domains.items():
        table = _Table(path, f"domain.{name}.acceptance", dict(domain.acceptance))
        table.check_keys(drafters, required=drafters)
    return Profile(
        name=path.stem,
        summary=str(document.get("summary", "")),
        prompt_tokens=top.value("prompt_tokens", _PROMPT_TOKENS),
        domains=domains,
    )


def _parse_domain(table: _Table) -> Domain:
    table.check_keys(("acceptance", NGRAM), required=("acceptance",))
    drafters = _Table(table.path, f"{table.name}.acceptance", table.values["acceptance"])
    for name in drafters.values:
        if name in (NGRAM, PLAIN):
            raise drafters.error(f"found {name!r}, expected the names of model drafters")
    acceptance = {name: drafters.probabilities(name) for name in drafters.values}
    if NGRAM not in table.values:
        return Domain(acceptance, ngram=None)
    lookup = _Table(table.path, f"{table.name}.{NGRAM}", table.values[NGRAM])
    keys = [entry.name for entry in fields(NgramLookup)]
    lookup.check_keys(keys, required=keys)
    kinds = {key: _AT_LEAST_ONE if key == "run_tokens" else _PROBABILITY for key in keys}
    return Domain(
        acceptance, NgramLookup(**{key: lookup.value(key, kind) for key, kind in kinds.items()})
    )


@dataclass(frozen=True, slots=True)
class _Table:
    """One table of a file; every complaint names both."""

    path: Path
    name: str
    values: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.values, dict):
            raise self.error(f"found {self.values!r}, expected a table")

    def check_keys(self, known: Collection[str], required: Collection[str]) -> None:
        for key in self.values:
            if key not in known:
                hint = nearest_hint(key, known)
                raise self.error(f"unknown key {key!r}{hint} (known: {', '.join(known)})")
        for key in required:
            if key not in self.values:
                raise self.error(f"no {key}; expected {', '.join(required)}")

    def value(self, key: str, kind: Kind) -> Any:
        return self._checked(key, self.values[key], kind)

    def probabilities(self, key: str) -> Sequence[float]:
        """Return a number, or the numbers of a list, as a sequence."""
        value = self.values[key]
        parts = value if isinstance(value, list) and value else [value]
        return tuple(self._checked(key, part, _PROBABILITY) for part in parts)

    def error(self, text: str) -> ConfigError:
        return ConfigError(f"{self.path}: [{self.name}]: {text}")

    def _checked(self, key: str, value: object, kind: Kind) -> Any:
        try:
            return kind.check(value)
        except ValueError:
            raise self.error(f"{key}: found {value!r}, expected {kind.expected}") from None
