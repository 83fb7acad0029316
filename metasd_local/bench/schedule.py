"""What is decoded when, within a time budget.

A unit is one prompt decoded once by every policy, in random order, so that whatever slows the
machine for a while slows them all. A row is one prompt of every domain, each with all repeats.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metasd_local.bench.figures import best_windows
from metasd_local.bench.measure import Decoder, Run, run_once
from metasd_local.bench.prompts import Prompt
from metasd_local.costs import CostCurve
from metasd_local.events import Event
from metasd_local.options import MAX_WINDOW
from metasd_local.protocols import PLAIN

WARM_UP = Prompt("warm-up", "Tell me a story about a lighthouse keeper and the sea.")
WARM_UP_TOKENS = 48
SCREENED_PROMPTS = 2
"""Prompts per domain that are decoded with every arm and a wide window."""
SCREENED_BUDGET = 0.3
"""Share of the budget that may be spent on looking for the best arm and window."""
DEFAULT_REPEATS = 2
MOST_REPEATS = 8


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is to be compared."""

    prompts: Sequence[Prompt]
    policies: Sequence[str]
    """As typed, `plain` among them."""
    arms: Sequence[str]
    """The drafters whose best window is looked for."""
    max_tokens: int
    budget_s: float
    repeats: int | None = None
    """Times each prompt is decoded by each policy; None for what fits, at least two."""


class Bench:
    """A bench under way.

    on_events: told policy, prompt, repeat and events of every generation.
    """

    def __init__(
        self,
        *,
        wishes: Wishes,
        curve: CostCurve,
        decoder: Decoder,
        rng: np.random.Generator,
        clock: Callable[[], float],
        on_events: Callable[[str, Prompt, int, Sequence[Event]], None],
    ) -> None:
        self.runs: list[Run] = []
        self.candidates: dict[str, Sequence[str]] = {}
        """By domain the fixed policies that may be best, besides those asked for."""
        self.left_out: list[str] = []
        self._wishes = wishes
        self._curve = curve
        self._decoder = decoder
        self._rng = rng
        self._clock = clock
        self._on_events = on_events

    def run(self, started_s: float) -> Iterator[float | str]:
        """Measure; yield the share of the work that is done, and the estimate as a text first.

        started_s: when the budget began to be spent. Ends early if a generation is interrupted.
        """
        wishes = self._wishes
        seconds = self._warm_up()
        if seconds is None:
            return
        rows = _rows(wishes.prompts)
        repeats = wishes.repeats or DEFAULT_REPEATS
        unit_s = sum(seconds.values())
        row_s = unit_s * len(rows[0]) * repeats
        budget_s = wishes.budget_s - (self._clock() - started_s)
        screen_s = len(rows[0]) * SCREENED_PROMPTS * _mean(seconds) * len(wishes.arms)
        screens = bool(wishes.arms) and repeats > 1 and screen_s < SCREENED_BUDGET * budget_s
        if row_s > budget_s and wishes.repeats is None:
            repeats, row_s = 1, row_s / repeats
            screens = False
        if not screens and wishes.arms:
            self.left_out.append("the best arm and window in hindsight: --minutes is too short")
        num_rows = int(min(max((budget_s - screens * screen_s) / row_s, 1), len(rows)))
        estimate_s = num_rows * row_s + screens * screen_s
        yield (
            f"{len(rows[0])} domains x {num_rows} prompts x {len(wishes.policies)} policies "
            f"x {repeats} repeats: about {_duration(estimate_s)}"
        )
        if screens and not (yield from self._screen(rows, estimate_s, started_s)):
            return
        yield from self._measure(rows, repeats, estimate_s, started_s)

    def _warm_up(self) -> Mapping[str, float] | None:
        """Return the expected seconds of an answer by policy; None if interrupted."""
        seconds = {}
        num_tokens = min(WARM_UP_TOKENS, self._wishes.max_tokens)
        for policy in self._wishes.policies:
            run, _ = run_once(self._decoder, policy, WARM_UP, 0, num_tokens)
            if run is None:
                return None
            share = self._wishes.max_tokens / max(run.length, 1)
            seconds[policy] = run.seconds_prompt + run.seconds_decode * share
        return seconds

    def _screen(
        self, rows: Sequence[Sequence[Prompt]], estimate_s: float, started_s: float
    ) -> Generator[float, None, bool]:
        """Find the candidates; the generator's value is False if a generation was interrupted."""
        wide: dict[str, list[Run]] = defaultdict(list)
        for row in rows[:SCREENED_PROMPTS]:
            for prompt in row:
                for arm in self._wishes.arms:
                    policy = f"fixed:{arm}:window={MAX_WINDOW}"
                    run, _ = run_once(self._decoder, policy, prompt, 0, self._wishes.max_tokens)
                    if run is None:
                        return False
                    wide[prompt.domain].append(run)
                yield (self._clock() - started_s) / estimate_s
        for domain, runs in wide.items():
            self.candidates[domain] = best_windows(runs, self._curve)
        return True

    def _measure(
        self,
        rows: Sequence[Sequence[Prompt]],
        repeats: int,
        estimate_s: float,
        started_s: float,
    ) -> Iterator[float]:
        """Go through the rows while there is time, then repeat them while there is more."""
        wishes, clock = self._wishes, self._clock
        first, last = 0, repeats
        while last <= (wishes.repeats or MOST_REPEATS):
            for index, row in enumerate(rows):
                began_s = clock()
                for repeat in range(first, last):
                    for prompt in row:
                        if not self._measure_unit(prompt, repeat):
                            return
                        yield (clock() - started_s) / estimate_s
                        if index == repeat == 0 and clock() - started_s > wishes.budget_s:
                            self._leave_out(row[row.index(prompt) + 1 :], rows)
                            return
                row_s = clock() - began_s
                if clock() - started_s + row_s > wishes.budget_s:
                    if first == 0:
                        self._leave_out([], rows[index:])
                    return
            first, last = last, last + 1

    def _leave_out(self, rest: Sequence[Prompt], rows: Sequence[Sequence[Prompt]]) -> None:
        """Note what was not reached of the present row, the first of `rows`, and after it."""
        if rest:
            names = ", ".join(prompt.domain for prompt in rest)
            self.left_out.append(f"domains {names}: --minutes is too short")
        if len(rows) > 1:
            self.left_out.append(f"{len(rows) - 1} prompts of every domain: --minutes is too short")

    def _measure_unit(self, prompt: Prompt, repeat: int) -> bool:
        """Keep the runs of a unit if all of it was measured."""
        policies = [*self._wishes.policies, *self.candidates.get(prompt.domain, ())]
        self._rng.shuffle(policies)
        runs = []
        for policy in policies:
            run, events = run_once(self._decoder, policy, prompt, repeat, self._wishes.max_tokens)
            if run is None:
                return False
            self._on_events(policy, prompt, repeat, events)
            runs.append(run)
        self.runs += runs
        return True


def _rows(prompts: Sequence[Prompt]) -> list[list[Prompt]]:
    """Return the first prompts of all domains, then the second ones, and so on."""
    by_domain: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        by_domain[prompt.domain].append(prompt)
    longest = max(map(len, by_domain.values()))
    return [
        [group[index] for group in by_domain.values() if index < len(group)]
        for index in range(longest)
    ]


def _mean(seconds: Mapping[str, float]) -> float:
    drafting = [value for policy, value in seconds.items() if policy != PLAIN]
    return sum(drafting) / max(len(drafting), 1)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
