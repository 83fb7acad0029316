"""From options to what a session needs, before anything is loaded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from metasd_local.catalogue import DEFAULT_POOL, DrafterEntry, Pool, pool_of_file, read_catalogue
from metasd_local.costs import RunningCosts
from metasd_local.errors import UsageError
from metasd_local.options import Options, nearest_hint
from metasd_local.protocols import NGRAM, PLAIN, Policy
from metasd_local.sampling import SamplerSettings
from metasd_local.selection.experience import Experience
from metasd_local.selection.factory import DEFAULT_POLICY, make_policy, policy_window
from metasd_local.selection.specification import PolicySpecification, parse_policy


def names_pool(text: str) -> bool:
    """Tell whether `text` is a catalogue name or looks like the path of a .gguf file."""
    is_path = text.endswith(".gguf") and not any(character.isspace() for character in text)
    return is_path or text in read_catalogue()


@dataclass(frozen=True, slots=True)
class Sources:
    """The drafters to open."""

    models: tuple[DrafterEntry, ...]
    has_ngram: bool
    are_required: bool
    """Whether the user named them, so that one that cannot be used is an error."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the options ask of a session, settled; one policy object for one session."""

    specification: PolicySpecification
    window: int
    policy: Policy
    sampling: SamplerSettings
    scheme: str
    sources: Sources


def make_plan(
    options: Options,
    pool: Pool,
    costs: RunningCosts | None = None,
    experience: Experience | None = None,
) -> Plan:
    """Settle what the options leave open; raise UsageError for what cannot be.

    costs, experience: for a policy that reckons with them.
    """
    specification = parse_policy(options.policy or DEFAULT_POLICY)
    window = policy_window(specification, options.window)
    policy = make_policy(specification, window, options.seed, costs or RunningCosts(), experience)
    sampling = _settle_sampling(options, pool)
    return Plan(
        specification=specification,
        window=window,
        policy=policy,
        sampling=sampling,
        scheme=_settle_scheme(options, sampling),
        sources=_choose_drafters(pool, options, specification),
    )


def find_pool(text: str | None) -> Pool:
    """Return the pool of a catalogue name or a .gguf file, None for the one that is always there.

    Raises UsageError.
    """
    text = text or DEFAULT_POOL
    catalogue = read_catalogue()
    if text not in catalogue and text.endswith(".gguf"):
        return pool_of_file(Path(text).expanduser())
    return catalogue[text]


def _choose_drafters(pool: Pool, options: Options, specification: PolicySpecification) -> Sources:
    """Return what the policy can choose from, and nothing it never would."""
    known = {entry.name: entry for entry in pool.drafters}
    names = options.drafters or (*known, NGRAM)
    entries = [known.get(name) or _drafter_of_file(name, pool) for name in names if name != NGRAM]
    if len({entry.name for entry in entries}) < len(entries):
        raise UsageError(f"--drafters {','.join(names)}: two drafters have the same name")
    has_ngram = NGRAM in names
    wanted = PLAIN if specification.name == PLAIN else specification.drafter
    if wanted is not None:
        arms = [entry.name for entry in entries] + [NGRAM] * has_ngram
        if wanted not in [*arms, PLAIN]:
            raise UsageError(
                f"--policy {specification.text}: no drafter is named {wanted!r}; "
                f"expected one of {', '.join(arms)}{nearest_hint(wanted, arms)}"
            )
        entries = [entry for entry in entries if entry.name == wanted]
        has_ngram = wanted == NGRAM
    is_named = options.drafters is not None or specification.drafter is not None
    return Sources(tuple(entries), has_ngram, is_named)


def _drafter_of_file(text: str, pool: Pool) -> DrafterEntry:
    if not text.endswith(".gguf"):
        names = ", ".join([*(entry.name for entry in pool.drafters), NGRAM])
        raise UsageError(
            f"--drafters: found {text!r}, expected the path of a .gguf file or one of {names}"
        )
    path = Path(text).expanduser()
    return DrafterEntry(name=path.stem, path=path)


def _settle_sampling(options: Options, pool: Pool) -> SamplerSettings:
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
