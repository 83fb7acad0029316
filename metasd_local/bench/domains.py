"""What was measured in one domain, and how far other prompts could have led to other figures."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from metasd_local.bench.measure import Run
from metasd_local.bench.windows import Prices, total_rounds
from metasd_local.protocols import PLAIN
from metasd_local.selection.factory import choose_policy

NUM_RESAMPLES = 2000
MOST_LOOPING = 0.10
"""A domain whose answers loop more is marked invalid."""
CHOSEN, SCORED = slice(0, None, 2), slice(1, None, 2)
"""The repeats on which the best arm is chosen, and those on which it is scored."""
Samples = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, and what chance could have made of it."""

    samples: Samples
    """The figure itself, then the same with other prompts; nothing follows a single prompt's."""

    @property
    def figure(self) -> float | None:
        """Return the figure alone, None if nothing was measured."""
        return float(self.samples[0]) if np.isfinite(self.samples[0]) else None

    @property
    def interval(self) -> list[float] | None:
        """Return the 95 % interval; None if nothing was resampled, or leaves a sample empty."""
        if len(self.samples) < 2 or not np.isfinite(self.samples).all():
            return None
        low, high = np.percentile(self.samples[1:], [2.5, 97.5])
        return [float(low), float(high)]

    def over(self, other: Estimate) -> Estimate:
        """Return the ratio of two, sample by sample."""
        return Estimate(_ratio(self.samples, other.samples))


def mean(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of at least one; where one was not resampled, the mean is not either."""
    shortest = min(len(each.samples) for each in estimates)
    return Estimate(np.mean([each.samples[:shortest] for each in estimates], axis=0))


def geometric_mean(estimates: Sequence[Estimate]) -> Estimate:
    """Return the geometric mean of at least one."""
    logarithms = mean([Estimate(np.log(each.samples)) for each in estimates])
    return Estimate(np.exp(logarithms.samples))


@dataclass(frozen=True, slots=True)
class _Cell:
    """One policy in one domain: a row per prompt, a column per repeat, NaN where not measured."""

    tokens: Samples
    seconds: Samples

    def speed(self, weights: Samples, repeats: slice = slice(None)) -> Estimate:
        """Return tokens per second, with prompts weighted by the rows of `weights`.

        weights: (num_samples, num_prompts).
        """
        seconds = self.seconds[:, repeats]
        measured = np.flatnonzero(np.isfinite(seconds).any(axis=1))
        weights = weights[:, measured]
        tokens = np.nanmedian(self.tokens[measured, repeats], axis=1)
        return Estimate(_ratio(weights @ tokens, weights @ np.nanmedian(seconds[measured], axis=1)))


@dataclass(frozen=True, slots=True)
class Oracle:
    """The fixed policy, or `plain`, that was fastest on the choosing half of the repeats."""

    policy: str
    arm: str
    window: int
    tokens_per_second: float | None
    """On the scoring half."""
    speedup: float | None
    """On the scoring half."""


@dataclass(frozen=True, slots=True)
class Domain:
    """What was measured in one domain, of long answers or of short ones."""

    runs: Mapping[str, Sequence[Run]]
    """By policy."""
    cells: Mapping[str, _Cell]
    """By policy."""
    weights: Samples
    """How often each prompt counts: once in the first row, by chance in all others."""
    oracle: Oracle | None
    """What is best in hindsight; None if it was not looked for."""

    @property
    def is_valid(self) -> bool:
        """Tell whether few enough tokens of plain decoding are loops."""
        return (loop_share(self.runs[PLAIN]) or 0.0) <= MOST_LOOPING

    @property
    def has_halves(self) -> bool:
        """Tell whether there are repeats to choose on and others to score on."""
        return any(run.repeat for run in self.runs[PLAIN])

    def tokens_per_second(self, policy: str) -> float | None:
        """Return the speed over all prompts."""
        return self.cells[policy].speed(self.weights[:1]).figure

    def speedup(self, policy: str, over: str = PLAIN, repeats: slice = slice(None)) -> Estimate:
        """Return tokens per second over another policy's."""
        speed, other = (self.cells[each].speed(self.weights, repeats) for each in (policy, over))
        return speed.over(other)

    def possible_speedup(self, policy: str, prices: Prices) -> float | None:
        """Return what the prices allow for these rounds: no catch-up, no own overhead.

        They are scaled to what a plain token took inside llama.cpp in this domain.
        """
        plain = self.runs[PLAIN]
        plain_s = sum(run.seconds_decode for run in plain)
        plain_inside_s = sum(run.seconds_decode * (1 - run.overhead_share) for run in plain)
        priced_s = sum(
            count * prices.round_s(arm, drafted)
            for (arm, drafted, _), count in total_rounds(self.runs[policy]).items()
        )
        if not priced_s or not plain_inside_s:
            return None
        emitted = sum(run.emitted for run in self.runs[policy])
        return emitted * prices.curve.seconds(1) / priced_s * plain_s / plain_inside_s

    def best_arm_share(self, policy: str) -> float | None:
        """Return the share of rounds in which the best arm in hindsight played."""
        rounds = total_rounds(self.runs[policy])
        if self.oracle is None or not rounds:
            return None
        played = sum(count for (arm, _, _), count in rounds.items() if arm == self.oracle.arm)
        return played / rounds.total()


def by_domain(
    runs: Sequence[Run],
    policies: Mapping[str, str],
    candidates: Mapping[str, Sequence[str]],
    default_window: int,
    rng: np.random.Generator,
) -> dict[str, Domain]:
    """Arrange runs by domain.

    policies: as typed, by name. candidates: fixed policies by domain that were run to find the
    best arm. default_window: that of policies which name none.
    """
    groups: defaultdict[str, defaultdict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        groups[run.prompt.domain][run.policy].append(run)
    domains = {}
    for name, by_policy in groups.items():
        cells = _make_cells(by_policy)
        domain = Domain(by_policy, cells, _resample(len(cells[PLAIN].tokens), rng), None)
        if candidates.get(name) and domain.has_halves:
            oracle = _find_oracle(cells, policies, default_window)
            domain = replace(domain, oracle=oracle)
        domains[name] = domain
    return domains


def is_fixed(policy: str) -> bool:
    """Tell whether a policy plays a single arm."""
    return policy == PLAIN or policy.startswith("fixed:")


def loop_share(runs: Sequence[Run]) -> float | None:
    """Return the share of tokens that belong to loops."""
    length = sum(run.length for run in runs)
    return sum(run.looping for run in runs) / length if length else None


def _make_cells(by_policy: Mapping[str, Sequence[Run]]) -> dict[str, _Cell]:
    plain = by_policy[PLAIN]
    rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(run.prompt for run in plain))}
    num_repeats = max(run.repeat for run in plain) + 1
    cells = {}
    for policy, runs in by_policy.items():
        tokens, seconds = np.full((2, len(rows), num_repeats), math.nan)
        for run in runs:
            tokens[rows[run.prompt], run.repeat] = run.emitted
            seconds[rows[run.prompt], run.repeat] = run.seconds_decode
        cells[policy] = _Cell(tokens, seconds)
    return cells


def _ratio(above: Samples, below: Samples) -> Samples:
    """Return the ratio, NaN where nothing stands below."""
    return np.divide(above, below, out=np.full_like(above, math.nan), where=below > 0)


def _resample(num_prompts: int, rng: np.random.Generator) -> Samples:
    """Return how often each prompt is drawn: once in the first row, by chance in all others."""
    once = np.ones((1, num_prompts))
    if num_prompts < 2:
        return once  # one prompt says nothing about the spread among prompts
    shares = np.full(num_prompts, 1 / num_prompts)
    return np.vstack([once, rng.multinomial(num_prompts, shares, NUM_RESAMPLES)])


def _find_oracle(
    cells: Mapping[str, _Cell], policies: Mapping[str, str], default_window: int
) -> Oracle:
    once = np.ones((1, len(cells[PLAIN].tokens)))
    fixed = filter(is_fixed, cells)
    policy = max(fixed, key=lambda each: cells[each].speed(once, CHOSEN).figure or 0.0)
    chosen = choose_policy(policies.get(policy, policy), window=default_window)
    assert chosen.arm is not None
    speed, plain = (cells[each].speed(once, SCORED) for each in (policy, PLAIN))
    window = 0 if chosen.arm == PLAIN else chosen.window
    return Oracle(policy, chosen.arm, window, speed.figure, speed.over(plain).figure)
