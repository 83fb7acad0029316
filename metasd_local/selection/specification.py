"""Reading what a user types after `--policy`: NAME[:key=value,...], fixed:DRAFTER[:...]."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from metasd_local.errors import UsageError
from metasd_local.options import nearest_hint

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class PolicySpecification:
    """A policy's name and parameters, as typed."""

    text: str
    name: str
    drafter: str | None = None
    """The one drafter of `fixed`; None for every other policy."""
    parameters: Mapping[str, str] = field(default_factory=dict)

    def check_keys(self, *known: str) -> None:
        """Raise UsageError if a parameter is not among `known`."""
        for key in self.parameters:
            if key not in known:
                expected = ", ".join(known) or "none"
                raise UsageError(
                    f"--policy {self.text}: unknown parameter {key!r}; {self.name} takes "
                    f"{expected}{nearest_hint(key, known)}"
                )

    def value(self, key: str, convert: Callable[[str], Value], default: Value) -> Value:
        """Return a converted parameter; raise UsageError where `convert` raises ValueError."""
        if key not in self.parameters:
            return default
        try:
            return convert(self.parameters[key])
        except ValueError as error:
            raise UsageError(f"--policy {self.text}: {key}: {error}") from error


def parse_policy(text: str) -> PolicySpecification:
    """Split `NAME[:key=value,...]`, where the name `fixed` is followed by its drafter."""
    name, _, rest = text.partition(":")
    drafter = None
    if name == "fixed":
        drafter, _, rest = rest.partition(":")
        if not drafter or "=" in drafter:
            raise UsageError("--policy fixed needs the drafter it is fixed to, as in fixed:code")
    parameters: dict[str, str] = {}
    for item in rest.split(",") if rest else ():
        key, _, value = item.partition("=")
        if not key or not value:
            raise UsageError(f"--policy {text}: found {item!r}, expected key=value")
        parameters[key] = value
    return PolicySpecification(text=text, name=name, drafter=drafter, parameters=parameters)
