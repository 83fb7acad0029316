"""From runs to figures: medians over repeats, intervals from resampling the prompts.

An answer counts in full from 128 tokens on; shorter ones have figures of their own.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metasd_local.bench.measure import Run
from metasd_local.costs import CostCurve
from metasd_local.options import MAX_WINDOW
from metasd_local.protocols import PLAIN
from metasd_local.selection.factory import policy_window
from metasd_local.selection.specification import parse_policy

SHORT_ANSWER = 128
NUM_RESAMPLES = 2000
NUM_CANDIDATES = 3
MOST_LOOPING = 0.10
"""A domain whose answers loop more is marked invalid."""
Samples = NDArray[np.float64]


def best_windows(runs: Sequence[Run], curve: CostCurve) -> list[str]:
    """Return the fixed policies that promise most, from one wide-window run per arm and prompt.

    Cutting the drafts of a wide window shows what a narrower one would have kept; the cost curve
    prices it. Neighbouring windows of one arm are as good as the same: only one of them counts.
    """
    rounds: dict[str, Counter[tuple[int, int]]] = defaultdict(Counter)
    costs = drafting_costs(runs)
    for run in runs:
        for (arm, drafted, accepted), count in run.rounds.items():
            rounds[arm][drafted, accepted] += count
    speeds: dict[tuple[str, int], float] = {}
    for arm, counts in rounds.items():
        for window in range(1, MAX_WINDOW + 1):
            tokens = seconds = 0.0
            for (drafted, accepted), count in counts.items():
                asked = min(drafted, window)
                tokens += count * (min(accepted, window) + 1)
                seconds += count * (curve.seconds(asked + 1) + asked * costs.get(arm, 0.0))
            speeds[arm, window] = tokens / seconds
    chosen: list[tuple[str, int]] = []
    for arm, window in sorted(speeds, key=lambda each: -speeds[each]):
        if arm != PLAIN and all(arm != a or abs(window - w) > 1 for a, w in chosen):
            chosen.append((arm, window))
    return [f"fixed:{arm}:window={window}" for arm, window in chosen[:NUM_CANDIDATES]]


def drafting_costs(runs: Sequence[Run]) -> dict[str, float]:
    """Return each arm's seconds per drafted token."""
    seconds: Counter[str] = Counter()
    drafted: Counter[str] = Counter()
    for run in runs:
        seconds.update(run.draft_seconds)
        for (arm, num_drafted, _), count in run.rounds.items():
            drafted[arm] += num_drafted * count
    return {arm: seconds[arm] / drafted[arm] for arm in drafted if drafted[arm]}


@dataclass(frozen=True, slots=True)
class _Cell:
    """One policy in one domain: a row per prompt, a column per repeat, NaN where not measured."""

    tokens: Samples
    seconds: Samples

    def speed(self, weights: Samples | None = None, repeats: slice = slice(None)) -> Samples:
        """Return tokens per second, with prompts weighted by the rows of `weights`.

        weights: (num_resamples, num_prompts), else every prompt counts once.
        """
        seconds = self.seconds[:, repeats]
        measured = np.flatnonzero(np.isfinite(seconds).any(axis=1))
        if weights is None:
            weights = np.ones((1, len(seconds)))
        weights = weights[:, measured]
        tokens = np.nanmedian(self.tokens[measured, repeats], axis=1)
        speed: Samples = (weights @ tokens) / (weights @ np.nanmedian(seconds[measured], axis=1))
        return speed


def plain_spread(runs: Sequence[Run]) -> float | None:
    """Return by how much the slowest plain run of a prompt exceeds the fastest, as a median."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        if run.policy == PLAIN and run.emitted:
            seconds[run.prompt.text].append(run.seconds_decode / run.emitted)
    spreads = [max(each) / min(each) - 1 for each in seconds.values() if len(each) > 1]
    return float(np.median(spreads)) if spreads else None


@dataclass(frozen=True, slots=True)
class Setting:
    """What the figures depend on besides the runs."""

    policies: Sequence[str]
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
    shortest = min(SHORT_ANSWER, setting.max_tokens)
    lengths = {run.prompt: run.length for run in runs if run.policy == PLAIN}
    costs = drafting_costs(runs)
    long, short = (
        _Group(
            [run for run in runs if (lengths.get(run.prompt, 0) < shortest) == is_short],
            setting,
            costs,
            rng,
        )
        for is_short in (False, True)
    )
    domains = dict.fromkeys(run.prompt.domain for run in runs)
    return {
        "results": [
            {
                "policy": policy,
                "domain": domain,
                **long.result(policy, domain),
                "short": short.result(policy, domain),
            }
            for domain in domains
            for policy in setting.policies
        ],
        "best": long.best(),
        "summary": {
            policy: {**long.summary(policy), "short": short.summary(policy)}
            for policy in setting.policies
        },
        "ceiling": long.ceiling(),
        "drafter_costs": costs,
    }


class _Group:
    """The figures of the long answers, or of the short ones."""

    def __init__(
        self,
        runs: Sequence[Run],
        setting: Setting,
        drafting_costs: Mapping[str, float],
        rng: np.random.Generator,
    ) -> None:
        self._setting = setting
        self._costs = drafting_costs
        self._runs: dict[tuple[str, str], list[Run]] = defaultdict(list)
        by_domain: dict[str, list[Run]] = defaultdict(list)
        for run in runs:
            self._runs[run.policy, run.prompt.domain].append(run)
            by_domain[run.prompt.domain].append(run)
        self._speedups: dict[tuple[str, str], Samples] = {}
        self._of_oracle: dict[tuple[str, str], Samples] = {}
        self._cells = {domain: _cells(each) for domain, each in by_domain.items()}
        self._oracles: dict[str, str] = {}
        for domain, cells in self._cells.items():
            weights = _resamples(len(cells[PLAIN].tokens), rng)
            plain = cells[PLAIN].speed(weights)
            oracle = _oracle(cells, setting.candidates.get(domain, ()))
            if oracle is not None:
                self._oracles[domain] = oracle
            for policy in setting.policies:
                self._speedups[policy, domain] = cells[policy].speed(weights) / plain
                if oracle is not None:
                    speed = cells[policy].speed(weights, SCORED)
                    best = cells[oracle].speed(weights, SCORED)
                    self._of_oracle[policy, domain] = speed / best
        self._valid = [
            domain
            for domain in self._cells
            if (_counts(self._runs[PLAIN, domain])["loop_share"] or 0.0) <= MOST_LOOPING
        ]

    def result(self, policy: str, domain: str) -> dict[str, Any]:
        """Return the figures of a policy in a domain, null where nothing was measured."""
        runs = self._runs[policy, domain]
        ratio = self._speedups.get((policy, domain))
        speedup, possible = _first(ratio), self._possible_speedup(runs, domain)
        speed = self._cells[domain][policy].speed() if runs else None
        return {
            **_counts(runs),
            "is_valid": domain in self._valid if runs else None,
            "tokens_per_second": _first(speed),
            "speedup": speedup,
            "interval": _interval(ratio),
            "possible_speedup": possible,
            "of_possible": speedup / possible if speedup and possible else None,
            "best_arm_share": self._best_arm_share(runs, domain),
        }

    def best(self) -> list[dict[str, Any]]:
        """Return the best arm and window of every domain in hindsight."""
        found = []
        for domain, oracle in self._oracles.items():
            cells = self._cells[domain]
            arm, window = self._arm_and_window(oracle)
            speed, plain = (cells[policy].speed(repeats=SCORED) for policy in (oracle, PLAIN))
            found.append(
                {
                    "domain": domain,
                    "arm": arm,
                    "window": window,
                    "tokens_per_second": _first(speed),
                    "speedup": _first(speed / plain),
                }
            )
        return found

    def summary(self, policy: str) -> dict[str, Any]:
        """Combine the valid domains: geometric mean of speed-ups, mean of shares of the best."""
        known = [domain for domain in self._valid if (policy, domain) in self._speedups]
        speedups = [self._speedups[policy, domain] for domain in known]
        of_oracle = [
            self._of_oracle[policy, domain]
            for domain in known
            if (policy, domain) in self._of_oracle
        ]
        mean = np.exp(_mean([np.log(each) for each in speedups])) if speedups else None
        oracle = _mean(of_oracle) if of_oracle else None
        overhead = [
            run.overhead_share for domain in self._cells for run in self._runs[policy, domain]
        ]
        return {
            "speedup": _first(mean),
            "interval": _interval(mean),
            "of_oracle": _first(oracle),
            "of_oracle_interval": _interval(oracle),
            "of_plain_worst": min((float(each[0]) for each in speedups), default=None),
            "overhead_share": float(np.median(overhead)) if overhead else None,
        }

    def ceiling(self) -> float | None:
        """Return what the best arm of every valid domain gains over the best single arm."""
        domains = [domain for domain in self._valid if domain in self._oracles]
        if not domains:
            return None
        best = [math.log(each["speedup"]) for each in self.best() if each["domain"] in domains]
        single = [
            np.mean([np.log(self._speedups[policy, domain][0]) for domain in domains])
            for policy in self._setting.policies
            if _is_fixed(policy)
        ]
        return float(np.exp(np.mean(best) - max(single)))

    def _possible_speedup(self, runs: Sequence[Run], domain: str) -> float | None:
        """Return what the cost curve allows for these rounds: no catch-up, no own overhead.

        The curve is scaled to what a plain token took inside llama.cpp in this domain.
        """
        plain = self._runs[PLAIN, domain]
        plain_s = sum(run.seconds_decode for run in plain)
        plain_inside_s = sum(run.seconds_decode * (1 - run.overhead_share) for run in plain)
        curve = self._setting.curve
        curve_s = sum(
            count * (curve.seconds(drafted + 1) + drafted * self._costs.get(arm, 0.0))
            for (arm, drafted, _), count in _total_rounds(runs).items()
        )
        if not curve_s or not plain_inside_s:
            return None
        emitted = sum(run.emitted for run in runs)
        return emitted * curve.seconds(1) / curve_s * plain_s / plain_inside_s

    def _best_arm_share(self, runs: Sequence[Run], domain: str) -> float | None:
        """Return the share of rounds in which the best arm in hindsight played."""
        rounds = _total_rounds(runs)
        if domain not in self._oracles or not rounds:
            return None
        best, _ = self._arm_and_window(self._oracles[domain])
        played = sum(count for (arm, _, _), count in rounds.items() if arm == best)
        return played / sum(rounds.values())

    def _arm_and_window(self, policy: str) -> tuple[str, int]:
        specification = parse_policy(policy)
        if specification.drafter is None:
            return PLAIN, 0
        return specification.drafter, policy_window(specification, self._setting.default_window)


CHOSEN, SCORED = slice(0, None, 2), slice(1, None, 2)
"""The repeats on which the best arm is chosen, and those on which it is scored."""


def _cells(runs: Sequence[Run]) -> dict[str, _Cell]:
    """Arrange runs of one domain by policy."""
    prompts = {run.prompt: index for index, run in enumerate(_first_runs(runs))}
    num_repeats = max((run.repeat for run in runs), default=0) + 1
    cells: dict[str, _Cell] = {}
    for run in runs:
        if run.policy not in cells:
            tokens, seconds = np.full((2, len(prompts), num_repeats), math.nan)
            cells[run.policy] = _Cell(tokens, seconds)
        place = prompts[run.prompt], run.repeat
        cells[run.policy].tokens[place] = run.emitted
        cells[run.policy].seconds[place] = run.seconds_decode
    return cells


def _resamples(num_prompts: int, rng: np.random.Generator) -> Samples:
    """Return how often each prompt is drawn: once in the first row, by chance in all others."""
    figure = np.ones((1, num_prompts))
    if num_prompts < 2:
        return figure  # one prompt says nothing about the spread among prompts
    shares = np.full(num_prompts, 1 / num_prompts)
    drawn = rng.multinomial(num_prompts, shares, NUM_RESAMPLES).astype(float)
    return np.vstack([figure, drawn])


def _first_runs(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.policy == PLAIN and run.repeat == 0]


def _oracle(cells: Mapping[str, _Cell], candidates: Sequence[str]) -> str | None:
    """Return the fixed policy or `plain` that was fastest on the choosing half of the repeats."""
    if cells[PLAIN].seconds.shape[1] < 2 or not candidates:
        return None
    return max(
        filter(_is_fixed, cells), key=lambda policy: float(cells[policy].speed(repeats=CHOSEN)[0])
    )


def _is_fixed(policy: str) -> bool:
    return policy == PLAIN or policy.startswith("fixed:")


def _counts(runs: Sequence[Run]) -> dict[str, Any]:
    rounds = _total_rounds(runs)
    drafted = sum(count * drafted for (_, drafted, _), count in rounds.items())
    accepted = sum(count * accepted for (_, _, accepted), count in rounds.items())
    num_rounds = sum(rounds.values())
    emitted = sum(run.emitted for run in runs)
    length = sum(run.length for run in runs)
    loop_share = sum(run.looping for run in runs) / length if length else None
    overhead = [run.overhead_share for run in runs]
    return {
        "prompts": len({run.prompt for run in runs}),
        "emitted": emitted,
        "seconds_decode": sum(run.seconds_decode for run in runs),
        "acceptance_rate": accepted / drafted if drafted else None,
        "mean_accepted_length": emitted / num_rounds if num_rounds else None,
        "overhead_share": float(np.median(overhead)) if overhead else None,
        "loop_share": loop_share,
    }


def _total_rounds(runs: Sequence[Run]) -> Counter[tuple[str, int, int]]:
    rounds: Counter[tuple[str, int, int]] = Counter()
    for run in runs:
        rounds.update(run.rounds)
    return rounds


def _mean(samples: Sequence[Samples]) -> Samples:
    """Return the mean over domains; one without resamples counts with its figure in all."""
    longest = max(map(len, samples))
    mean: Samples = np.mean([np.broadcast_to(each, longest) for each in samples], axis=0)
    return mean


def _first(samples: Samples | None) -> float | None:
    return None if samples is None or not len(samples) else float(samples[0])


def _interval(samples: Samples | None) -> list[float] | None:
    """Return the 95 % interval of resampled figures; the first sample is the figure itself."""
    if samples is None or len(samples) < 2:
        return None
    low, high = np.percentile(samples[1:], [2.5, 97.5])
    return [float(low), float(high)]
