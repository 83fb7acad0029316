"""What is decoded when, within a time budget.

A unit is one prompt decoded once by every policy, in random order, so that whatever slows the
machine for a while slows them all. A row is one prompt of every domain, each with all repeats.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from metasd_local.bench.measure import Decoder, Run, run_once
from metasd_local.bench.prompts import Prompt
from metasd_local.bench.windows import NUM_CANDIDATES, best_windows
from metasd_local.costs import CostCurve
from metasd_local.errors import Cancelled
from metasd_local.events import Event
from metasd_local.options import MAX_WINDOW
from metasd_local.protocols import PLAIN

WARM_UP = Prompt("warm-up", "Tell me a story about a lighthouse keeper and the sea.")
WARM_UP_TOKENS = 48
SEARCHED_PROMPTS = 2
"""Prompts per domain that are decoded with every arm and a wide window."""
SEARCH_BUDGET = 0.3
"""Share of the budget that may be spent on looking for the best arm and window."""
DEFAULT_REPEATS = 2
MOST_REPEATS = 8


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is to be compared."""

    prompts: Sequence[Prompt]
    policies: Mapping[str, str]
    """As typed, by name; `plain` among them."""
    arms: Sequence[str]
    """The drafters whose best window is looked for."""
    max_tokens: int
    budget_s: float
    repeats: int | None = None
    """Times each prompt is decoded by each policy; None for what fits, at least two."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is likely to fit into the budget."""

    num_rows: int
    repeats: int
    """Times a row is decoded before the next one is; 1 at least."""
    has_search: bool
    """Whether the best arm and window are looked for."""
    seconds: float
    """Of all of it, and of the repeats there is more time for."""


class Bench:
    """A bench under way.

    on_events: told policy, prompt, repeat and events of every generation that counts.
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
        self.warnings: list[str] = []
        """What was left out, and what went wrong."""
        self._wishes = wishes
        self._rows = _rows(wishes.prompts)
        self._curve = curve
        self._decoder = decoder
        self._rng = rng
        self._clock = clock
        self._on_events = on_events

    def run(self, started_s: float) -> Iterator[float | str]:
        """Measure; yield the share of the time that is over, and the estimate as a text.

        started_s: when the budget began to be spent. Ends early if a generation is interrupted.
        """
        wishes, budget_s = self._wishes, self._wishes.budget_s
        with suppress(Cancelled):
            answer_s = {}
            for policy in wishes.policies:
                answer_s[policy] = self._warm_up(policy)
                yield (self._clock() - started_s) / budget_s
            spent_s = self._clock() - started_s
            plan = self._plan(answer_s, budget_s - spent_s)
            num_prompts = sum(map(len, self._rows[: plan.num_rows]))
            counts = ((num_prompts, "prompt"), (len(self._rows[0]), "domain"))
            prompts, domains = (f"{count} {what}{'s' * (count > 1)}" for count, what in counts)
            yield (
                f"{prompts} of {domains}, {len(wishes.policies)} policies, each "
                f"{'once' if plan.repeats == 1 else f'{plan.repeats} times'}"
                f"{'' if wishes.repeats else ' or more'}: about {_duration(plan.seconds)}"
            )
            for _ in chain(
                self._search() if plan.has_search else (),
                self._measure(plan.repeats, started_s),
            ):
                yield (self._clock() - started_s) / (spent_s + plan.seconds)

    def _warm_up(self, policy: str) -> float:
        """Return the expected seconds of an answer."""
        num_tokens = min(WARM_UP_TOKENS, self._wishes.max_tokens)
        run, _ = self._decode(policy, WARM_UP, 0, num_tokens)
        share = self._wishes.max_tokens / max(run.length, 1)
        return run.seconds_prompt + run.seconds_decode * share

    def _plan(self, answer_s: Mapping[str, float], budget_s: float) -> _Plan:
        """Decide what to do with the rest of the budget, and note what it is too short for."""
        wishes = self._wishes
        num_domains = len(self._rows[0])
        unit_s = sum(answer_s.values())
        is_twice = unit_s * num_domains * DEFAULT_REPEATS <= budget_s
        repeats = wishes.repeats or (DEFAULT_REPEATS if is_twice else 1)
        drafted_s = _mean(answer_s)
        search_s = num_domains * SEARCHED_PROMPTS * drafted_s * len(wishes.arms)
        has_search = bool(wishes.arms) and repeats > 1 and search_s < SEARCH_BUDGET * budget_s
        if has_search:
            unit_s += NUM_CANDIDATES * drafted_s
        else:
            search_s = 0.0
            if wishes.arms:
                why = "it takes 2 repeats" if wishes.repeats == 1 else "--minutes is too short"
                self.warnings.append(f"the best arm and window in hindsight: {why}")
        row_s = unit_s * num_domains * repeats
        num_rows = int(min(max((budget_s - search_s) / row_s, 1), len(self._rows)))
        all_s = search_s + unit_s * len(wishes.prompts) * (wishes.repeats or MOST_REPEATS)
        return _Plan(num_rows, repeats, has_search, min(all_s, max(budget_s, unit_s)))

    def _search(self) -> Iterator[None]:
        """Find the candidates; yield after every prompt."""
        policies = [f"fixed:{arm}:window={MAX_WINDOW}" for arm in self._wishes.arms]
        wide: defaultdict[str, list[Run]] = defaultdict(list)
        for prompt in chain.from_iterable(self._rows[:SEARCHED_PROMPTS]):
            for policy in policies:
                run, _ = self._decode(policy, prompt, 0, self._wishes.max_tokens)
                wide[prompt.domain].append(run)
            yield
        for domain, runs in wide.items():
            self.candidates[domain] = best_windows(runs, self._curve)

    def _measure(self, repeats: int, started_s: float) -> Iterator[None]:
        """Go through the rows while there is time, then repeat them while there is more.

        Yields after every unit.
        """
        rows, most = self._rows, self._wishes.repeats or MOST_REPEATS
        visits = [(row, range(repeats)) for row in rows]
        visits += [(row, range(n, n + 1)) for n in range(repeats, most) for row in rows]
        end_s = started_s + self._wishes.budget_s
        for visit, (row, row_repeats) in enumerate(visits):
            began_s = self._clock()
            for repeat in row_repeats:
                for column, prompt in enumerate(row):
                    self._measure_unit(prompt, repeat)
                    yield
                    # Not even the first prompt of every domain may fit.
                    if visit == repeat == 0 and self._clock() > end_s:
                        self._leave_out(row[column + 1 :], rows[1:])
                        return
            now_s = self._clock()
            if now_s + (now_s - began_s) > end_s:
                self._leave_out((), rows[visit + 1 :])
                return

    def _leave_out(self, prompts: Sequence[Prompt], rows: Sequence[Sequence[Prompt]]) -> None:
        """Note what was not reached: some prompts of a row, and whole rows."""
        if prompts:
            names = ", ".join(prompt.domain for prompt in prompts)
            self.warnings.append(f"no prompt of {names}: --minutes is too short")
        num_left, num_prompts = sum(map(len, (prompts, *rows))), len(self._wishes.prompts)
        if num_left:
            self.warnings.append(f"{num_left} of {num_prompts} prompts: --minutes is too short")

    def _measure_unit(self, prompt: Prompt, repeat: int) -> None:
        """Keep the runs of a unit once all of it was measured."""
        candidates = self.candidates.get(prompt.domain, ())
        policies = list(dict.fromkeys((*self._wishes.policies, *candidates)))
        self._rng.shuffle(policies)
        runs = []
        for policy in policies:
            run, events = self._decode(policy, prompt, repeat, self._wishes.max_tokens)
            self._on_events(policy, prompt, repeat, events)
            runs.append(run)
        self.runs += runs

    def _decode(
        self, policy: str, prompt: Prompt, repeat: int, num_tokens: int
    ) -> tuple[Run, Sequence[Event]]:
        typed = self._wishes.policies.get(policy, policy)
        run, events = run_once(self._decoder, typed, prompt, repeat, num_tokens)
        for notice in run.notices:
            warning = f"{policy}: {notice}"
            if warning not in self.warnings:
                self.warnings.append(warning)
        return replace(run, policy=policy), events


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
