"""Profiles of emulated acceptance: how often which drafter is right in which domain, as TOML."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path

from metasd_local.errors import UsageError
from metasd_local.options import nearest_hint
from metasd_local.protocols import NGRAM, PLAIN
from metasd_local.toml_tables import TABLE, Table, read_document
from metasd_local.values import SHARE, TEXT, Kind, exactly, real, whole


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

    @property
    def arms(self) -> tuple[str, ...]:
        """Return the names of all drafters, prompt lookup last."""
        return (*self.drafters, *([NGRAM] * self.has_ngram))


def _check_shares(value: object) -> object:
    parts = value if isinstance(value, list) and value else [value]
    return tuple(SHARE.check(part) for part in parts)


_ACCEPTANCE = Kind("a number from 0 to 1, or a list of them", _check_shares)
_TOP = {
    "summary": TEXT,
    "prompt_tokens": whole(2, 1_000_000),
    "domain": exactly("at least one table [domain.NAME]", dict, bool),
}
_DOMAIN = {"acceptance": exactly("a table of drafters", dict), NGRAM: TABLE}
_LOOKUP = {
    **dict.fromkeys((entry.name for entry in fields(NgramLookup)), SHARE),
    "run_tokens": real("a number of at least 1", lambda value: value >= 1),
}


def find_profile(text: str) -> Profile:
    """Read the profile of a path that ends in .toml, or one shipped with the package by name.

    Raises UsageError and ConfigError.
    """
    if text.endswith(".toml"):
        return read_profile(Path(os.path.expanduser(text)))
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
    top = Table(path, "", read_document(path), _TOP)
    tables = top.inside("domain", TABLE)
    domains: dict[str, Domain] = {}
    drafters: Mapping[str, Kind] | Kind = _ACCEPTANCE
    for name in tables:
        domains[name] = _parse_domain(tables.inside(name, _DOMAIN), drafters)
        drafters = dict.fromkeys(domains[name].acceptance, _ACCEPTANCE)
    return Profile(path.stem, top["prompt_tokens"], domains)


def _parse_domain(table: Table, drafters: Mapping[str, Kind] | Kind) -> Domain:
    """Read one domain with the drafters of the one before it, or any in the first."""
    acceptance = table.inside("acceptance", drafters)
    for name in (NGRAM, PLAIN):
        if name in acceptance:
            raise acceptance.error(f"found {name!r}, expected the names of model drafters")
    ngram = None
    if NGRAM in table:
        lookup = table.inside(NGRAM, _LOOKUP)
        ngram = NgramLookup(**{key: lookup[key] for key in _LOOKUP})
    names = acceptance if isinstance(drafters, Kind) else drafters
    return Domain({name: acceptance[name] for name in names}, ngram)
