"""What a bench decodes, in which order, and when it stops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pytest

from metasd_local.bench.prompts import Prompt
from metasd_local.bench.schedule import WARM_UP, Bench, Wishes
from metasd_local.costs import CostCurve
from tests.bench_runs import FakeClock, PlayedDecoder

PROMPTS = tuple(Prompt(domain, f"{domain} {n}") for domain in ("code", "maths") for n in range(5))
POLICIES = {name: name for name in ("plain", "fixed:small", "ucb")}


def run_bench(
    budget_s: float,
    *,
    repeats: int | None = None,
    arms: Sequence[str] = (),
    stop_after: int | None = None,
    policies: Mapping[str, str] = POLICIES,
    notice: str = "",
) -> tuple[Bench, PlayedDecoder, list[float | str]]:
    """Run a bench on a fake clock: an answer of 100 tokens takes one second."""
    clock = FakeClock()
    decoder = PlayedDecoder(clock, lambda *_: 0.01, stop_after=stop_after, notice=notice)
    bench = Bench(
        wishes=Wishes(PROMPTS, policies, arms, 100, budget_s, repeats),
        curve=CostCurve({1: 0.01, 17: 0.1}),
        decoder=decoder,
        rng=np.random.default_rng(0),
        clock=clock,
        on_events=lambda *_: None,
    )
    return bench, decoder, list(bench.run(0.0))


def test_every_policy_decodes_every_prompt_equally_often() -> None:
    """With enough time all prompts are decoded, and then all of them again."""
    bench, _, _ = run_bench(10_000.0, repeats=2)
    counts = Counter((run.policy, run.prompt, run.repeat) for run in bench.runs)
    expected = {(policy, prompt, r) for policy in POLICIES for prompt in PROMPTS for r in (0, 1)}
    assert counts == dict.fromkeys(expected, 1)
    assert not bench.warnings


def test_policies_are_interleaved_in_changing_order() -> None:
    """Whatever slows the machine for a minute slows all of them."""
    bench, _, _ = run_bench(10_000.0, repeats=4)
    size = len(POLICIES)
    units = [bench.runs[i : i + size] for i in range(0, len(bench.runs), size)]
    assert all(len({(run.prompt, run.repeat) for run in unit}) == 1 for unit in units)
    assert all({run.policy for run in unit} == set(POLICIES) for unit in units)
    assert len({tuple(run.policy for run in unit) for unit in units}) == 6
    domains = [unit[0].prompt.domain for unit in units]
    assert all(first != second for first, second in pairwise(domains))


def test_the_warm_up_is_no_part_of_the_figures() -> None:
    """Its prompt is decoded by every policy first and counted nowhere; each can be the last."""
    bench, decoder, steps = run_bench(100.0)
    assert [type(step) for step in steps[:4]] == [float, float, float, str]
    assert [each[:2] for each in decoder.decoded[:3]] == [(name, WARM_UP) for name in POLICIES]
    assert WARM_UP not in {run.prompt for run in bench.runs}


def test_a_budget_is_kept_and_what_it_leaves_out_is_said() -> None:
    """A row of both domains with two repeats takes 12 s: three of them fit into 40."""
    bench, decoder, steps = run_bench(40.0)
    assert decoder.clock.now_s <= 40.0
    assert {run.prompt.text for run in bench.runs} == {
        f"{domain} {n}" for domain in ("code", "maths") for n in range(3)
    }
    assert bench.warnings == ["4 of 10 prompts: --minutes is too short"]
    (estimate,) = (step for step in steps if isinstance(step, str))
    assert estimate.startswith("6 prompts of 2 domains, 3 policies, each 2 times or more: ")
    shares = [step for step in steps if isinstance(step, float)]
    assert shares == sorted(shares)
    assert shares[-1] <= 1.0


def test_time_that_is_left_goes_into_more_repeats() -> None:
    """All prompts twice take 60 s, each further repeat 30."""
    bench, decoder, _ = run_bench(125.0)
    assert {run.repeat for run in bench.runs} == {0, 1, 2, 3}
    assert decoder.clock.now_s <= 125.0


def test_even_a_hopeless_budget_measures_something() -> None:
    """The first domain is decoded, the others are named as left out."""
    bench, _, _ = run_bench(2.0)
    assert {run.prompt.domain for run in bench.runs} == {"code"}
    assert bench.warnings == [
        f"{what}: --minutes is too short" for what in ("no prompt of maths", "9 of 10 prompts")
    ]


def test_candidates_for_the_best_arm_are_confirmed_beside_the_policies() -> None:
    """They are screened on two prompts of a domain, and then decode all that counts."""
    bench, decoder, _ = run_bench(200.0, arms=("small",))
    wide = [each for each in decoder.decoded if each[0] == "fixed:small:window=16"]
    assert len(wide) >= 4
    assert set(bench.candidates) == {"code", "maths"}
    for domain, candidates in bench.candidates.items():
        assert 1 <= len(candidates) <= 3
        policies = {run.policy for run in bench.runs if run.prompt.domain == domain}
        assert policies == {*POLICIES, *candidates}


def test_the_search_for_the_best_arm_is_left_out_if_time_is_short() -> None:
    """It would eat what the comparison needs."""
    bench, _, _ = run_bench(12.0, arms=("small",))
    assert not bench.candidates
    assert any("hindsight" in text for text in bench.warnings)


@pytest.mark.parametrize(
    ("budget_s", "repeats", "arms"),
    [(40.0, None, ()), (125.0, None, ()), (9999.0, 2, ()), (9999.0, None, ("small",))],
)
def test_the_estimate_counts_all_repeats_and_the_search(
    budget_s: float, repeats: int | None, arms: Sequence[str]
) -> None:
    """What it says is what it takes, so that progress is the share of the time that is over."""
    _, decoder, steps = run_bench(budget_s, repeats=repeats, arms=arms)
    (estimate,) = (step for step in steps if isinstance(step, str))
    number, unit = estimate.rpartition("about ")[2].split()
    seconds = float(number) * {"s": 1, "min": 60}[unit]
    assert seconds == pytest.approx(decoder.clock.now_s, rel=0.2)
    assert max(step for step in steps if isinstance(step, float)) == pytest.approx(1.0, rel=0.2)


def test_the_search_needs_two_repeats() -> None:
    """Who asks for one is told so, whatever the time."""
    bench, _, _ = run_bench(1000.0, repeats=1, arms=("small",))
    assert bench.warnings == ["the best arm and window in hindsight: it takes 2 repeats"]


def test_what_goes_wrong_is_said_once_for_every_policy() -> None:
    """A row of a drafter that failed is one of plain decoding."""
    bench, _, _ = run_bench(9999.0, repeats=2, notice="drafter small failed")
    assert bench.warnings == [f"{policy}: drafter small failed" for policy in POLICIES]


def test_a_policy_may_run_twice() -> None:
    """A against A: both have their own runs of every prompt."""
    twice = {"plain": "plain", "ucb": "ucb", "ucb#2": "ucb"}
    bench, decoder, _ = run_bench(100.0, policies=twice)
    assert Counter(run.policy for run in bench.runs).keys() == twice.keys()
    assert len({*Counter(run.policy for run in bench.runs).values()}) == 1
    assert {policy for policy, *_ in decoder.decoded} == {"plain", "ucb"}


@pytest.mark.parametrize("stop_after", [0, 4, 10])
def test_an_interruption_keeps_complete_units_only(stop_after: int) -> None:
    """Otherwise one policy would have decoded what another has not."""
    bench, _, _ = run_bench(1000.0, stop_after=stop_after)
    units = Counter((run.prompt, run.repeat) for run in bench.runs)
    assert set(units.values()) <= {len(POLICIES)}
    assert len(units) == max(stop_after - len(POLICIES), 0) // len(POLICIES)
