"""What is decoded when, within a time budget.

A unit is one prompt decoded once by every policy, in random order, so that whatever slows the
machine for a while slows them all. A row is one prompt of every domain, each with all repeats.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

import numpy as np

from metasd_local.bench.measure import Decoder, Run, run_once
from metasd_local.bench.prompts import Prompt
from metasd_local.bench.windows import best_windows
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
    policies: Sequence[str]
    """As typed, `plain` among them."""
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
        self._rows = _rows(wishes.prompts)
        self._curve = curve
        self._decoder = decoder
        self._rng = rng
        self._clock = clock
        self._on_events = on_events

    def run(self, started_s: float) -> Iterator[float | str]:
        """Measure; yield the share of the work that is done, and the estimate as a text first.

        started_s: when the budget began to be spent. Ends early if a generation is interrupted.
        """
        with suppress(Cancelled):
            answer_s = self._warm_up()
            plan = self._plan(answer_s, self._wishes.budget_s - (self._clock() - started_s))
            yield (
                f"{len(self._rows[0])} domains x {plan.num_rows} prompts "
                f"x {len(self._wishes.policies)} policies x {plan.repeats} repeats: "
                f"about {_duration(plan.seconds)}"
            )
            for _ in chain(
                self._search() if plan.has_search else (),
                self._measure(plan.repeats, started_s),
            ):
                yield (self._clock() - started_s) / plan.seconds

    def _warm_up(self) -> Mapping[str, float]:
        """Return the expected seconds of an answer by policy."""
        seconds = {}
        num_tokens = min(WARM_UP_TOKENS, self._wishes.max_tokens)
        for policy in self._wishes.policies:
            run, _ = run_once(self._decoder, policy, WARM_UP, 0, num_tokens)
            share = self._wishes.max_tokens / max(run.length, 1)
            seconds[policy] = run.seconds_prompt + run.seconds_decode * share
        return seconds

    def _plan(self, answer_s: Mapping[str, float], budget_s: float) -> _Plan:
        """Decide what to do with the rest of the budget, and note what it is too short for."""
        wishes = self._wishes
        num_domains = len(self._rows[0])
        once_s = sum(answer_s.values()) * num_domains
        repeats = wishes.repeats or (DEFAULT_REPEATS if once_s * DEFAULT_REPEATS <= budget_s else 1)
        search_s = num_domains * SEARCHED_PROMPTS * _mean(answer_s) * len(wishes.arms)
        is_affordable = repeats > 1 and search_s < SEARCH_BUDGET * budget_s
        has_search = bool(wishes.arms) and is_affordable
        if not has_search:
            search_s = 0.0
            if wishes.arms:
                self.left_out.append("the best arm and window in hindsight: --minutes is too short")
        row_s = once_s * repeats
        num_rows = int(min(max((budget_s - search_s) / row_s, 1), len(self._rows)))
        return _Plan(num_rows, repeats, has_search, num_rows * row_s + search_s)

    def _search(self) -> Iterator[None]:
        """Find the candidates; yield after every prompt."""
        policies = [f"fixed:{arm}:window={MAX_WINDOW}" for arm in self._wishes.arms]
        wide: defaultdict[str, list[Run]] = defaultdict(list)
        for prompt in chain.from_iterable(self._rows[:SEARCHED_PROMPTS]):
            for policy in policies:
                run, _ = run_once(self._decoder, policy, prompt, 0, self._wishes.max_tokens)
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
            self.left_out.append(f"domains {names}: --minutes is too short")
        if rows:
            self.left_out.append(f"{len(rows)} prompts of every domain: --minutes is too short")

    def _measure_unit(self, prompt: Prompt, repeat: int) -> None:
        """Keep the runs of a unit once all of it was measured."""
        policies = [*self._wishes.policies, *self.candidates.get(prompt.domain, ())]
        self._rng.shuffle(policies)
        runs = []
        for policy in policies:
            run, events = run_once(self._decoder, policy, prompt, repeat, self._wishes.max_tokens)
            self._on_events(policy, prompt, repeat, events)
            runs.append(run)
        self.runs += runs


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
