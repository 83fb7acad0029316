"""From runs to figures: medians over repeats, intervals from resampling the prompts.

An answer counts in full from 128 tokens on; shorter ones have figures of their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metasd_local.bench.domains import (
    CHOSEN,
    SCORED,
    Domain,
    by_domain,
    geometric_mean,
    is_fixed,
    loop_share,
    mean,
)
from metasd_local.bench.measure import Run
from metasd_local.bench.prompts import Prompt
from metasd_local.bench.windows import Prices, drafting_costs, total_rounds
from metasd_local.costs import CostCurve
from metasd_local.protocols import PLAIN

SHORT_ANSWER = 128


@dataclass(frozen=True, slots=True)
class Setting:
    """What the figures depend on besides the runs."""

    policies: Mapping[str, str]
    """As typed, by name."""
    candidates: Mapping[str, Sequence[str]]
    """Fixed policies by domain that were run only to find the best arm."""
    curve: CostCurve
    max_tokens: int
    default_window: int
    """That of policies which name none."""


def make_document(
    runs: Sequence[Run], setting: Setting, rng: np.random.Generator
) -> dict[str, Any]:
    """Return the measured part of `bench --json`: results, best, summary and ceiling.

    Long and short answers have the same figures, the short ones under the key "short". Domains
    that loop too much stay out of the summary.
    """
    prices = Prices(setting.curve, drafting_costs(runs))
    shortest = min(SHORT_ANSWER, setting.max_tokens)
    lengths = {run.prompt: run.length for run in runs if run.policy == PLAIN}
    long, short = (
        by_domain(
            [run for run in runs if (lengths[run.prompt] < shortest) == is_short],
            setting.policies,
            setting.candidates,
            setting.default_window,
            rng,
        )
        for is_short in (False, True)
    )
    return {
        "results": [
            {
                "policy": policy,
                "domain": name,
                **_result(long.get(name), policy, prices),
                "short": _result(short.get(name), policy, prices),
            }
            for name in dict.fromkeys(run.prompt.domain for run in runs)
            for policy in setting.policies
        ],
        "best": [
            {
                "domain": name,
                "arm": oracle.arm,
                "window": oracle.window,
                "tokens_per_second": oracle.tokens_per_second,
                "speedup": oracle.speedup,
            }
            for name, domain in long.items()
            if (oracle := domain.oracle) is not None
        ],
        "summary": {
            policy: {
                **_summary(long.values(), policy),
                "short": _summary(short.values(), policy),
            }
            for policy in setting.policies
        },
        "ceiling": _ceiling(long.values(), setting.policies),
        "drafter_costs": prices.drafting_s,
    }


def plain_spread(runs: Sequence[Run]) -> float | None:
    """Return by how much the first two plain runs of a prompt differ, as a median."""
    seconds: dict[Prompt, list[float]] = defaultdict(list)
    for run in runs:
        if run.policy == PLAIN and run.emitted and run.repeat < 2:
            seconds[run.prompt].append(run.seconds_decode / run.emitted)
    spreads = [max(each) / min(each) - 1 for each in seconds.values() if len(each) > 1]
    return _median(spreads)


def _counts(runs: Sequence[Run]) -> dict[str, Any]:
    rounds = total_rounds(runs)
    drafted = sum(count * drafted for (_, drafted, _), count in rounds.items())
    accepted = sum(count * accepted for (_, _, accepted), count in rounds.items())
    emitted = sum(run.emitted for run in runs)
    return {
        "prompts": len({run.prompt for run in runs}),
        "emitted": emitted,
        "seconds_decode": sum(run.seconds_decode for run in runs),
        "acceptance_rate": accepted / drafted if drafted else None,
        "mean_accepted_length": emitted / rounds.total() if rounds else None,
        "overhead_share": _median([run.overhead_share for run in runs]),
        "loop_share": loop_share(runs),
    }


def _result(domain: Domain | None, policy: str, prices: Prices) -> dict[str, Any]:
    """Return the figures of a policy in a domain, null where nothing was measured."""
    if domain is None:
        names = "is_valid tokens_per_second speedup interval possible_speedup of_possible"
        return {**_counts(()), **dict.fromkeys(names.split()), "best_arm_share": None}
    speedup, possible = domain.speedup(policy), domain.possible_speedup(policy, prices)
    return {
        **_counts(domain.runs[policy]),
        "is_valid": domain.is_valid,
        "tokens_per_second": domain.tokens_per_second(policy),
        "speedup": speedup.figure,
        "interval": speedup.interval,
        "possible_speedup": possible,
        "of_possible": speedup.figure / possible if speedup.figure and possible else None,
        "best_arm_share": domain.best_arm_share(policy),
    }


def _summary(domains: Collection[Domain], policy: str) -> dict[str, Any]:
    """Combine the valid domains: geometric mean of speed-ups, mean of shares of the best."""
    valid = [domain for domain in domains if domain.is_valid]
    speedups = [domain.speedup(policy) for domain in valid]
    shares = [
        domain.speedup(policy, domain.oracle.policy, SCORED) for domain in valid if domain.oracle
    ]
    speedup = geometric_mean(speedups) if speedups else None
    share = mean(shares) if shares else None
    overhead = [run.overhead_share for domain in valid for run in domain.runs[policy]]
    return {
        "speedup": speedup and speedup.figure,
        "interval": speedup and speedup.interval,
        "of_oracle": share and share.figure,
        "of_oracle_interval": share and share.interval,
        "of_plain_worst": min((each.figure for each in speedups if each.figure), default=None),
        "overhead_share": _median(overhead),
    }


def _ceiling(domains: Collection[Domain], policies: Mapping[str, str]) -> float | None:
    """Return what the best fixed policy of every valid domain gains over the best single one.

    All are chosen on one half of the repeats and scored on the other; None with fewer than two
    policies or domains.
    """
    valid = [domain for domain in domains if domain.is_valid and domain.has_halves]
    fixed = [name for name, typed in policies.items() if is_fixed(typed) and name == typed]
    if min(len(valid), len(fixed)) < 2:
        return None
    chosen, scored = (
        np.log([[domain.speedup(p, PLAIN, half).samples[0] for domain in valid] for p in fixed])
        for half in (CHOSEN, SCORED)
    )  # (len(fixed), len(valid))
    best = scored[chosen.argmax(axis=0), range(len(valid))]
    gain = float(np.exp(np.mean(best - scored[chosen.mean(axis=1).argmax()])))
    return gain if np.isfinite(gain) else None


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None
