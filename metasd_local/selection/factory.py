"""From what a user types after `--policy` to a policy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from metasd_local.costs import RunningCosts
from metasd_local.errors import UsageError
from metasd_local.options import MAX_WINDOW, nearest_hint
from metasd_local.protocols import PLAIN, Policy
from metasd_local.selection import POLICIES
from metasd_local.selection.auto import AutoPolicy
from metasd_local.selection.bandit import drafters, windows
from metasd_local.selection.ducb import DiscountedUcbPolicy
from metasd_local.selection.exp3 import Exp3Policy
from metasd_local.selection.exp3spec import Exp3SpecPolicy
from metasd_local.selection.experience import Experience
from metasd_local.selection.fixed import FixedPolicy
from metasd_local.selection.halving import HalvingPolicy
from metasd_local.selection.hedge import HedgePolicy
from metasd_local.selection.rewards import block_divergence, block_efficiency
from metasd_local.selection.specification import PolicySpecification, parse_policy
from metasd_local.selection.swucb import SlidingUcbPolicy
from metasd_local.selection.thompson import ThompsonPolicy
from metasd_local.selection.ucb import UcbPolicy
from metasd_local.selection.ucbspec import UcbSpecPolicy
from metasd_local.selection.uniform import UniformPolicy

Value = TypeVar("Value")

DEFAULT_POLICY = "auto"
DEFAULT_WINDOW = 5
_MOST_ROUNDS = 1_000_000


@dataclass(frozen=True, slots=True)
class _Entry:
    """How a policy is made, and what it needs."""

    make: Callable[..., Policy]
    """Takes its parameters, the window and what it needs besides by name."""
    parameters: tuple[str, ...] = ()
    draws: bool = False
    """Whether it takes `rng`."""
    prices: bool = False
    """Whether it takes the target's `costs` and the pool's `experience`."""
    is_informed: bool = False
    window: int = DEFAULT_WINDOW


@dataclass(frozen=True, slots=True)
class ChosenPolicy:
    """A policy, and what it needs of the session it chooses for."""

    text: str
    """As typed."""
    policy: Policy
    arm: str | None
    """The only one it plays; None if it chooses."""
    window: int
    """The most tokens it asks for."""
    needs_overlaps: bool
    """Whether it looks at the overlaps of the laws."""
    is_informed: bool
    """Whether it asks what idle drafters would have done."""

    def check_arm(self, drafters: Sequence[str]) -> None:
        """Raise UsageError if the only arm it plays is no drafter of these."""
        if self.arm is not None and self.arm not in (PLAIN, *drafters):
            raise UsageError(
                f"--policy {self.text}: no drafter is named {self.arm!r}; "
                f"expected one of {', '.join(drafters)}{nearest_hint(self.arm, drafters)}"
            )


def choose_policy(
    text: str,
    *,
    window: int | None = None,
    seed: int | None = None,
    costs: RunningCosts | None = None,
    experience: Experience | None = None,
) -> ChosenPolicy:
    """Make the policy a user typed; raise UsageError for an unknown name or parameter.

    window: what holds if the text names none; None: the policy's own. costs: the target's, as
    they are learned. experience: what `auto` knows of the pool.
    """
    specification = parse_policy(text)
    entry = _entry(specification)
    is_plain = specification.name == PLAIN
    specification.check_keys(*(() if is_plain else ("window", *entry.parameters)))
    window = specification.value("window", _whole(MAX_WINDOW), window or entry.window)
    given: dict[str, object] = {
        key: specification.value(key, *_PARAMETERS[key]) for key in entry.parameters
    }
    needs_overlaps = given.get("reward") is block_divergence
    arm = PLAIN if is_plain else specification.drafter
    if arm is not None:
        given["arm"] = arm
    if entry.draws:
        given["rng"] = np.random.default_rng(seed)
    if entry.prices:
        given |= {"costs": costs or RunningCosts(), "experience": experience}
    return ChosenPolicy(
        text=text,
        policy=entry.make(window=window, **given),
        arm=arm,
        window=window,
        needs_overlaps=needs_overlaps,
        is_informed=entry.is_informed,
    )


def _entry(specification: PolicySpecification) -> _Entry:
    if specification.name in _ENTRIES:
        return _ENTRIES[specification.name]
    names = [policy.name for policy in POLICIES]
    hint = nearest_hint(specification.name, names)
    found = f"--policy: found {specification.text!r}, expected one of {', '.join(names)}"
    raise UsageError(found + hint)


def _whole(highest: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= highest:
            raise ValueError(f"found {text}, expected 1 to {highest}")
        return int(text)

    return convert


def _positive(highest: float, more: str = "") -> Callable[[str], float]:
    def convert(text: str) -> float:
        with suppress(ValueError):
            if 0.0 < float(text) <= highest:
                return float(text)
        raise ValueError(f"found {text}, expected a number above 0{more}")

    return convert


_ANY = _positive(sys.float_info.max)
_SHARE = _positive(1.0, " and at most 1")


def _one_of(known: Mapping[str, Value]) -> Callable[[str], Value]:
    def convert(text: str) -> Value:
        if text not in known:
            hint = nearest_hint(text, known)
            raise ValueError(f"found {text!r}, expected {' or '.join(known)}{hint}")
        return known[text]

    return convert


_PARAMETERS: Mapping[str, tuple[Callable[[str], object], object]] = {
    "arms": (_one_of({"drafter": drafters, "window": windows}), drafters),
    "beta": (_ANY, 1.0),
    "budget": (_whole(_MOST_ROUNDS), 40),
    "delta": (_SHARE, 0.1),
    "discount": (_SHARE, 0.98),
    "every": (_whole(_MOST_ROUNDS), 1),
    "gamma": (_SHARE, None),
    "loss": (_one_of({"token": "token", "length": "length"}), "token"),
    "reward": (_one_of({"bd": block_divergence, "be": block_efficiency}), block_divergence),
    "rounds": (_whole(_MOST_ROUNDS), 130),
}
"""How a parameter is read, and its default; it means the same to all that take it."""

_ENTRIES: Mapping[str, _Entry] = {
    "auto": _Entry(AutoPolicy, prices=True, is_informed=True, window=8),
    "plain": _Entry(FixedPolicy),
    "fixed": _Entry(FixedPolicy),
    "random": _Entry(UniformPolicy, draws=True),
    "ucb": _Entry(UcbPolicy, ("beta", "reward")),
    "ducb": _Entry(DiscountedUcbPolicy, ("beta", "discount", "reward")),
    "swucb": _Entry(SlidingUcbPolicy, ("beta", "reward", "rounds")),
    "thompson": _Entry(ThompsonPolicy, ("reward",), draws=True),
    "exp3": _Entry(Exp3Policy, ("gamma", "reward"), draws=True),
    "halving": _Entry(HalvingPolicy, ("budget", "reward")),
    "ucbspec": _Entry(UcbSpecPolicy, ("arms", "delta")),
    "exp3spec": _Entry(Exp3SpecPolicy, ("arms",), draws=True),
    "hedge": _Entry(HedgePolicy, ("every", "loss"), draws=True, is_informed=True),
}
