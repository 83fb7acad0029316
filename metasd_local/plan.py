"""From options to what a session needs, before anything is loaded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from metasd_local.costs import RunningCosts
from metasd_local.errors import ModelError, UsageError
from metasd_local.options import Options
from metasd_local.pools.local import LocalDrafter, LocalPool, named_drafter
from metasd_local.protocols import NGRAM, PLAIN
from metasd_local.sampling import SamplerSettings
from metasd_local.selection.experience import Experience
from metasd_local.selection.factory import DEFAULT_POLICY, ChosenPolicy, choose_policy


@dataclass(frozen=True, slots=True)
class Sources:
    """The drafters to open."""

    models: tuple[LocalDrafter, ...]
    has_ngram: bool
    are_required: bool
    """Whether the user named them, so that one that cannot be used is an error."""
    notices: tuple[str, ...] = ()
    """What the user should know of drafters that are left out."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the options ask of a session, settled; one policy object for one session."""

    chosen: ChosenPolicy
    sampling: SamplerSettings
    scheme: str
    sources: Sources


def make_plan(
    options: Options,
    pool: LocalPool,
    costs: RunningCosts | None = None,
    experience: Experience | None = None,
) -> Plan:
    """Settle what the options leave open; raise UsageError for what cannot be.

    costs, experience: for a policy that reckons with them.
    """
    chosen = choose_policy(
        options.policy or DEFAULT_POLICY,
        window=options.window,
        seed=options.seed,
        costs=costs,
        experience=experience,
    )
    sampling = _settle_sampling(options, pool)
    return Plan(
        chosen=chosen,
        sampling=sampling,
        scheme=_settle_scheme(options, sampling),
        sources=_choose_drafters(pool, options, chosen),
    )


def _choose_drafters(pool: LocalPool, options: Options, chosen: ChosenPolicy) -> Sources:
    """Return what the policy can choose from, and nothing it never would."""
    known = {entry.name: entry for entry in pool.drafters}
    wanted = chosen.arm
    is_named = options.drafters is not None or wanted is not None
    names = options.drafters or (*known, *pool.missing, NGRAM)
    entries: list[LocalDrafter] = []
    notices: list[str] = []
    for name in names:
        if name in pool.missing and wanted in (None, name):
            if is_named:
                raise ModelError(f"drafter {name}: {pool.missing[name]}")
            notices.append(f"drafter {name} is not used: {pool.missing[name]}")
        elif name != NGRAM and name not in pool.missing:
            entries.append(known.get(name) or named_drafter(name, (*known, *pool.missing)))
    taken = [NGRAM, PLAIN, *(entry.name for entry in entries)]
    if len(set(taken)) < len(taken):
        raise UsageError(
            f"--drafters {','.join(names)}: two drafters have the same name, or one is named "
            f"{NGRAM} or {PLAIN} as arms of every pool are; rename a file"
        )
    has_ngram = NGRAM in names
    chosen.check_arm([entry.name for entry in entries] + [NGRAM] * has_ngram)
    if wanted is not None:
        entries = [entry for entry in entries if entry.name == wanted]
        has_ngram = wanted == NGRAM
    return Sources(tuple(entries), has_ngram, is_named, tuple(notices))


def _settle_sampling(options: Options, pool: LocalPool) -> SamplerSettings:
    said = {
        name: getattr(options, name)
        for name in ("temperature", "top_k", "top_p", "min_p", "repeat_penalty")
        if getattr(options, name) is not None
    }
    return dataclasses.replace(pool.sampling, **said)


def _settle_scheme(options: Options, sampling: SamplerSettings) -> str:
    """Return the scheme's name: at temperature 0 all but `match` are the greedy one."""
    is_greedy = sampling.temperature == 0.0
    if options.scheme == "greedy" and not is_greedy:
        raise UsageError(
            f"--scheme greedy decodes at temperature 0, found {sampling.temperature}; "
            "add --temperature 0 or choose coupled, match or rejection"
        )
    if is_greedy:
        return "match" if options.scheme == "match" else "greedy"
    return options.scheme or "coupled"
