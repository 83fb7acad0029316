"""From runs to the document of `metasd bench`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from metasd_local.bench.figures import Setting, make_document, plain_spread
from metasd_local.bench.measure import Run
from metasd_local.bench.prompts import Prompt
from metasd_local.bench.windows import best_windows, drafting_costs
from metasd_local.costs import CostCurve
from tests.bench_runs import make_run

FLAT = CostCurve({1: 0.01, 17: 0.01})
STEEP = CostCurve({1: 0.01, 17: 0.17})


def document(runs: Sequence[Run], **candidates: Sequence[str]) -> dict[str, Any]:
    """Fold runs of plain, fixed:code and ucb."""
    policies = {run.policy: run.policy for run in runs if "window" not in run.policy}
    setting = Setting(policies, candidates, FLAT, max_tokens=256, default_window=5)
    found = make_document(runs, setting, np.random.default_rng(0))
    json.dumps(found, allow_nan=False)
    return found


def result(found: dict[str, Any], policy: str, domain: str = "code") -> dict[str, Any]:
    """Return one cell."""
    (cell,) = [
        entry
        for entry in found["results"]
        if (entry["policy"], entry["domain"]) == (policy, domain)
    ]
    return dict(cell)


def runs_of(
    policy: str, seconds: Sequence[float], domain: str = "code", **others: Any
) -> list[Run]:
    """Return one run per prompt of a domain."""
    return [
        make_run(policy, Prompt(domain, str(number)), each, **others)
        for number, each in enumerate(seconds)
    ]


def test_speed_up_is_the_ratio_of_tokens_per_second_over_the_same_prompts() -> None:
    """600 tokens in 6 s against 3 s, whatever the single prompts do."""
    found = document(runs_of("plain", [1, 2, 3]) + runs_of("ucb", [1, 1, 1]))
    assert result(found, "plain")["speedup"] == 1.0
    assert result(found, "ucb")["speedup"] == pytest.approx(2.0)
    assert result(found, "ucb")["tokens_per_second"] == pytest.approx(200.0)
    low, high = result(found, "ucb")["interval"]
    assert 1.0 <= low < 2.0 < high <= 3.0


def test_equal_prompts_leave_no_interval_width_and_one_prompt_no_interval() -> None:
    """The interval is about prompts: one of them says nothing of it."""
    found = document(runs_of("plain", [2, 2, 2]) + runs_of("ucb", [1, 1, 1]))
    assert result(found, "ucb")["interval"] == pytest.approx([2.0, 2.0])
    found = document(runs_of("plain", [2]) + runs_of("ucb", [1]))
    assert result(found, "ucb")["interval"] is None


def test_what_was_not_measured_is_null() -> None:
    """After Ctrl-C a prompt may lack its second repeat, and a policy may loop from the start."""
    runs: list[Run] = []
    for policy, seconds in {"plain": 2.0, "ucb": 1.0, "fixed:code:window=2": 1.0}.items():
        runs += runs_of(policy, [seconds] * 2) + runs_of(policy, [seconds], repeat=1)
        loops: dict[str, Any] = {"looping": 200, "rounds": {}} if policy == "ucb" else {}
        for repeat in (0, 1):
            kept_s = 0.0 if loops else seconds
            runs += runs_of(policy, [kept_s], "maths", repeat=repeat, **loops)
    candidates = ["fixed:code:window=2"]
    found = document(runs, code=candidates, maths=candidates)
    assert result(found, "ucb")["speedup"] == 2.0
    assert result(found, "ucb", "maths")["speedup"] is None
    assert result(found, "ucb", "maths")["tokens_per_second"] is None
    assert found["summary"]["ucb"]["speedup"] is None
    assert found["summary"]["plain"]["of_oracle"] == pytest.approx(0.5)
    assert found["summary"]["plain"]["of_oracle_interval"] is None


def test_the_summary_has_an_interval_where_every_domain_has_one() -> None:
    """One prompt would count as if all prompts of its domain were alike."""
    runs = [
        run
        for domain, seconds in (("code", [1, 1, 2]), ("maths", [2, 3, 5]))
        for run in runs_of("plain", seconds, domain) + runs_of("ucb", [1, 2, 1], domain)
    ]
    total = document(runs)["summary"]["ucb"]
    parts = [result(document(runs), "ucb", domain) for domain in ("code", "maths")]
    assert total["speedup"] == pytest.approx((parts[0]["speedup"] * parts[1]["speedup"]) ** 0.5)
    low, high = total["interval"]
    assert parts[0]["interval"][0] < low < total["speedup"] < high < parts[1]["interval"][1]
    one = runs_of("plain", [1], "one") + runs_of("ucb", [1], "one")
    assert document(runs + one)["summary"]["ucb"]["interval"] is None


def test_the_median_over_repeats_forgives_one_slow_run() -> None:
    """As when something else ran for a moment."""
    runs = [
        *[run for repeat in range(3) for run in runs_of("plain", [2, 2], repeat=repeat)],
        *runs_of("ucb", [1, 1], repeat=0),
        *runs_of("ucb", [9, 9], repeat=1),
        *runs_of("ucb", [1, 1], repeat=2),
    ]
    assert result(document(runs), "ucb")["speedup"] == pytest.approx(2.0)


def test_short_answers_have_figures_of_their_own() -> None:
    """They are judged by the plain answer's length, and change nothing about the long ones."""
    short = Prompt("code", "short")
    runs = runs_of("plain", [2, 2]) + runs_of("ucb", [1, 1])
    runs += [make_run("plain", short, 1, tokens=50), make_run("ucb", short, 4, tokens=50)]
    found = document(runs)
    assert result(found, "ucb")["speedup"] == pytest.approx(2.0)
    assert result(found, "ucb")["short"]["speedup"] == pytest.approx(0.25)
    assert result(found, "ucb")["short"]["prompts"] == 1
    assert found["summary"]["ucb"]["speedup"] == pytest.approx(2.0)
    assert found["summary"]["ucb"]["short"]["speedup"] == pytest.approx(0.25)


def test_a_domain_of_short_answers_has_no_long_figures() -> None:
    """Unknown is null, not zero and not invalid."""
    found = document(runs_of("plain", [1, 1], tokens=50) + runs_of("ucb", [1, 1], tokens=50))
    cell = result(found, "ucb")
    assert cell["speedup"] is cell["interval"] is cell["is_valid"] is None
    assert cell["prompts"] == 0
    assert found["summary"]["ucb"]["speedup"] is None
    assert found["ceiling"] is None


def test_a_looping_domain_is_invalid_and_no_part_of_the_summary() -> None:
    """More than a tenth of its tokens are loops."""
    runs = runs_of("plain", [2, 2]) + runs_of("ucb", [1, 1])
    for policy, seconds in (("plain", 1.0), ("ucb", 9.0)):
        prompt = Prompt("maths", "loop")
        runs.append(make_run(policy, prompt, seconds, looping=21, overhead_share=0.9))
    found = document(runs)
    assert found["summary"]["ucb"]["overhead_share"] == result(found, "ucb")["overhead_share"]
    assert result(found, "ucb", "maths")["overhead_share"] == 0.9
    assert result(found, "plain", "maths")["is_valid"] is False
    assert result(found, "plain", "code")["is_valid"] is True
    assert found["summary"]["ucb"]["speedup"] == pytest.approx(2.0)


def test_acceptance_and_length_count_rounds() -> None:
    """Three rounds with four drafted, one of them accepted in full."""
    rounds = {("code", 4, 4): 1, ("code", 4, 0): 1, ("code", 4, 2): 1}
    found = document(runs_of("plain", [1, 1]) + runs_of("ucb", [1, 1], rounds=rounds, tokens=200))
    assert result(found, "ucb")["acceptance_rate"] == pytest.approx(0.5)
    assert result(found, "ucb")["mean_accepted_length"] == pytest.approx(200 / 3)


def test_possible_speed_up_prices_the_rounds_by_the_curve() -> None:
    """100 rounds of four drafted tokens and one: V(5) and four drafting steps each."""
    rounds = {("code", 4, 1): 100}
    runs = runs_of("plain", [2, 2])
    runs += runs_of("ucb", [2, 2], rounds=rounds, tokens=200, draft_seconds={"code": 400 * 0.0025})
    found = document(runs)
    # 200 tokens take 100 rounds of 0.01 + 4 * 0.0025 seconds; plain needs 200 of 0.01, and spends
    # a twentieth of its time outside llama.cpp.
    assert result(found, "ucb")["possible_speedup"] == pytest.approx(1 / 0.95)
    assert result(found, "ucb")["of_possible"] == pytest.approx(0.95)
    assert result(found, "plain")["of_possible"] == pytest.approx(0.95)


def test_the_best_arm_is_chosen_on_one_half_and_scored_on_the_other() -> None:
    """A lucky half makes it best, an unlucky one shows what it is worth."""
    runs: list[Run] = []
    for repeat, lucky in enumerate((0.5, 2.0, 0.5, 2.0)):
        runs += runs_of("plain", [2, 2], repeat=repeat)
        runs += runs_of("ucb", [1, 1], repeat=repeat)
        runs += runs_of("fixed:code:window=2", [lucky, lucky], repeat=repeat)
        runs += runs_of("fixed:code", [1, 1], repeat=repeat)
    found = document(runs, code=["fixed:code:window=2"])
    (best,) = found["best"]
    assert (best["arm"], best["window"]) == ("code", 2)
    assert best["speedup"] == pytest.approx(1.0)
    assert found["summary"]["ucb"]["of_oracle"] == pytest.approx(2.0)


@pytest.mark.parametrize("domains", [("code",), ("code", "maths")])
def test_the_ceiling_compares_the_fixed_policies_on_the_other_half(
    domains: Sequence[str],
) -> None:
    """What choosing per domain gains over the best for all, where there is anything to choose."""
    fastest = {"code": ("fixed:code", 2.0), "maths": ("plain", 1.0)}
    runs: list[Run] = []
    for repeat, domain in itertools.product(range(4), domains):
        best, factor = fastest[domain]
        for policy in ("plain", "fixed:code", "fixed:maths", "ucb"):
            speed = factor if policy == best else 0.5 + 0.5 * (policy == "plain")
            # Luck on one half only; candidates and other policies have no part in it.
            speed *= 8 if policy == "ucb" or (policy == "fixed:maths" and repeat % 2) else 1
            runs += runs_of(policy, [2 / speed] * 2, repeat=repeat, domain=domain)
        runs += runs_of("fixed:code:window=2", [0.1] * 2, repeat=repeat, domain=domain)
    found = document(runs, code=["fixed:code:window=2"])
    # fixed:code and plain, 2 and 1, where each of them alone has (2, 0.5) or (1, 1).
    expected = None if len(domains) == 1 else pytest.approx(2**0.5)
    assert found["ceiling"] == expected
    few = [run for run in runs if not run.policy.startswith("fixed")]
    assert document(few)["ceiling"] is None


def test_shares_of_the_best_are_means_over_the_domains_and_over_rounds() -> None:
    """One domain at the best arm's speed and one at a quarter of it; it played 3 rounds of 4."""
    runs: list[Run] = []
    rounds = {("code", 4, 2): 2, ("code", 2, 2): 1, ("plain", 0, 0): 1}
    for (domain, seconds), repeat in itertools.product({"code": 1, "maths": 4}.items(), (0, 1)):
        runs += runs_of("plain", [8, 8], domain, repeat=repeat)
        runs += runs_of("fixed:code", [1, 1], domain, repeat=repeat)
        runs += runs_of("ucb", [seconds] * 2, domain, repeat=repeat, rounds=rounds)
    found = document(runs, code=["fixed:code"], maths=["fixed:code"])
    assert found["summary"]["ucb"]["of_oracle"] == pytest.approx((1 + 1 / 4) / 2)
    assert found["summary"]["ucb"]["speedup"] == pytest.approx((8 * 2) ** 0.5)
    assert result(found, "ucb")["best_arm_share"] == pytest.approx(0.75)


def test_plain_can_be_the_best_arm() -> None:
    """Then a policy's share of the best is its speed-up."""
    runs: list[Run] = []
    for repeat in range(2):
        runs += runs_of("plain", [1, 1], repeat=repeat)
        runs += runs_of("ucb", [2, 2], repeat=repeat)
        runs += runs_of("fixed:code:window=1", [3, 3], repeat=repeat)
    found = document(runs, code=["fixed:code:window=1"])
    assert found["best"][0]["arm"] == "plain"
    assert found["summary"]["ucb"]["of_oracle"] == pytest.approx(0.5)
    assert found["summary"]["ucb"]["of_plain_worst"] == pytest.approx(0.5)
    assert result(found, "plain")["best_arm_share"] == 1.0


def test_wide_windows_pay_where_verification_is_cheap_only() -> None:
    """The same rounds, another cost curve."""
    rounds = {("code", 16, 16): 5, ("code", 16, 1): 5}
    runs = runs_of("fixed:code:window=16", [1], rounds=rounds)
    assert best_windows(runs, FLAT)[0] == "fixed:code:window=16"
    assert best_windows(runs, STEEP)[0] == "fixed:code:window=1"
    windows = [int(text.rpartition("=")[2]) for text in best_windows(runs, FLAT)]
    assert len(windows) == 3
    assert min(abs(a - b) for a in windows for b in windows if a != b) > 1


def test_an_arm_that_drafts_nothing_costs_a_single_step() -> None:
    """Prompt lookup without a match loses nothing, so it beats an expensive drafter."""
    runs = runs_of("fixed:ngram:window=16", [1], rounds={("ngram", 0, 0): 10})
    runs += runs_of(
        "fixed:code:window=16", [1], rounds={("code", 16, 0): 10}, draft_seconds={"code": 1.0}
    )
    assert best_windows(runs, STEEP)[0].startswith("fixed:ngram")


def test_drafting_costs_are_seconds_per_drafted_token() -> None:
    """Over all runs together; an arm that never drafted has none."""
    rounds = {("code", 4, 2): 10, ("ngram", 0, 0): 3}
    runs = runs_of("ucb", [1, 1], rounds=rounds, draft_seconds={"code": 0.2})
    assert drafting_costs(runs) == {"code": pytest.approx(0.005)}


def test_the_spread_of_plain_runs_compares_repeats_of_a_prompt() -> None:
    """Prompts may differ as they like, also those of one text; more repeats change nothing."""
    runs = runs_of("plain", [1, 7]) + runs_of("plain", [1.1, 7.7], repeat=1)
    assert plain_spread(runs) == pytest.approx(0.1)
    assert plain_spread([*runs, *runs_of("plain", [3, 3], repeat=2)]) == pytest.approx(0.1)
    assert plain_spread([*runs_of("plain", [1, 7]), *runs_of("plain", [7, 1], "maths")]) is None


def test_two_benches_of_one_truth_agree_within_their_intervals() -> None:
    """95 % intervals of noisy prompts cover the true speed-up about as often as they say."""
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        plain = rng.uniform(1.0, 3.0, 12)
        ratio = rng.lognormal(0.0, 0.2, 12)
        found = document(
            runs_of("plain", (plain * 1.5).tolist()) + runs_of("ucb", (plain * ratio).tolist())
        )
        low, high = result(found, "ucb")["interval"]
        covered += low <= 1.5 * np.exp(-(0.2**2) / 2) <= high
    assert covered >= 50
