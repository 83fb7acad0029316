"""`auto`: what it must choose, what it must leave, and what it may spend on finding out."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from metasd_local.costs import CostCurve, RunningCosts
from metasd_local.lab.replays import Play, Replay
from metasd_local.lab.simulate import DEFAULT_CURVE, simulate
from metasd_local.lab.traces import Trace
from metasd_local.protocols import PLAIN, Choice, Evidence, Offer, RoundFeedback
from metasd_local.selection.auto import AutoPolicy
from metasd_local.selection.experience import Experience
from metasd_local.selection.prospect import possible_gain
from metasd_local.selection.survival import (
    DISCOUNT,
    LENGTH_PRIORS,
    RECENT_DISCOUNT,
    SHIFT_PRECISION,
    Survival,
)
from tests.answers import Answers

CURVE = CostCurve({1: 0.010, 2: 0.012, 4: 0.015, 9: 0.025})


def auto(curve: CostCurve = CURVE, window: int = 8) -> AutoPolicy:
    return AutoPolicy(RunningCosts(curve), window=window)


def play(policy: AutoPolicy, chances: dict[str, float], num_tokens: int, seed: int = 0) -> Play:
    """Decode an answer in which every drafter matches with a chance of its own."""
    rng = np.random.default_rng(seed)
    arms = (PLAIN, *chances)
    probabilities = np.array([[0.0, *chances.values()]]).T.repeat(num_tokens, axis=1)
    has_draft = np.ones(probabilities.shape, dtype=np.bool_)
    has_draft[0] = False
    matches = rng.random(probabilities.shape) < probabilities
    trace = Trace(arms, probabilities, matches, has_draft)
    return Replay(trace, CURVE).play_policy(policy, num_tokens=num_tokens)


def shares(done: Play, num_arms: int) -> list[float]:
    """Return the share of the rounds of every arm."""
    return list(np.bincount(done.arms, minlength=num_arms) / len(done.arms))


def round_of(emitted: int = 1, **fields: Any) -> RoundFeedback:
    given: dict[str, Any] = {
        "window": 0,
        "drafted": 0,
        "accepted": 0,
        "emitted": emitted,
        "catch_up_s": 0.0,
        "draft_s": 0.0,
        "verify_s": 0.01,
        "overlaps": lambda: np.empty(0),
    }
    return RoundFeedback(**(given | fields))


def drafted_of(window: int, stands: bool) -> dict[str, Any]:
    """Return the fields of a round whose first drafted token stands or not."""
    return {"window": window, "drafted": 1, "accepted": int(stands), "draft_s": 0.001}


def test_useless_drafters_leave_plain_decoding_as_fast_as_it_was() -> None:
    policy = auto()
    first, *rest = (play(policy, dict.fromkeys("abcd", 0.02), 600, seed) for seed in range(4))
    assert first.seconds.sum() < 1.06 * 600 * CURVE.seconds(1)
    assert sum(done.seconds.sum() for done in rest) < 1.03 * 1800 * CURVE.seconds(1)
    assert shares(rest[-1], 5)[0] > 0.95


def test_the_best_of_many_is_found_and_kept() -> None:
    done = play(auto(), {"a": 0.3, "b": 0.85, "c": 0.4, "d": 0.2, "e": 0.5}, 600)
    assert shares(done, 6)[2] > 0.75


def test_where_every_token_costs_a_whole_round_nothing_is_drafted() -> None:
    steep = CostCurve({1: 0.010, 9: 0.090})
    policy = auto(steep)
    policy.begin((PLAIN, "good"))
    chosen = []
    for number in range(60):
        choice = policy.choose(Answers({"good": Evidence([0.7] * 4)}))
        drafted = {} if choice.arm == PLAIN else drafted_of(choice.window, number % 10 < 7)
        policy.observe(choice.arm, round_of(**drafted))
        chosen.append(choice.arm)
    assert chosen[30:].count(PLAIN) > 25


def test_the_first_token_waits_for_no_drafter() -> None:
    policy = auto()
    for _ in range(3):
        policy.begin((PLAIN, "a", "b"))
        arms = Answers(offer=Offer(50, None))
        assert policy.choose(arms).arm == PLAIN
        assert arms.evaluated == []
        policy.observe(PLAIN, round_of())


def test_without_a_known_cost_it_decodes_plainly_until_there_is_one() -> None:
    costs = RunningCosts()
    policy = AutoPolicy(costs, window=8)
    policy.begin((PLAIN, "a"))
    assert policy.choose(Answers()) == Choice(PLAIN, 1)
    assert policy.scores() == {}
    costs.observe(1, 0.01)
    policy.observe(PLAIN, round_of())
    policy.choose(Answers())
    policy.observe(PLAIN, round_of(emitted=40, verify_s=0.4))
    arms = Answers({"a": Evidence([1.0] * 30, margins=[5.0] * 30)})
    assert policy.choose(arms).arm == "a"
    assert arms.evaluated == ["a"]


@pytest.mark.parametrize("num_drafters", [2, 8])
def test_evaluating_costs_the_same_small_share_however_many_are_idle(num_drafters: int) -> None:
    chances = [f"d{number}" for number in range(num_drafters)]
    seen = Evidence([1.0, 0.0] * 8, seconds=0.004)
    policy = auto()
    policy.begin((PLAIN, *chances))
    spent_s = decoded_s = 0.0
    for _ in range(2000):
        arms = Answers(dict.fromkeys(chances, seen), offer=Offer(40, None))
        choice = policy.choose(arms)
        drafted = {} if choice.arm == PLAIN else drafted_of(choice.window, stands=False)
        feedback = round_of(**drafted)
        spent_s += 0.004 * len(arms.evaluated)
        decoded_s += feedback.seconds
        policy.observe(choice.arm, feedback)
    assert 0.003 < spent_s / decoded_s < 0.02


def test_a_drafter_that_was_slow_for_a_moment_is_used_again() -> None:
    """Who is dropped for a price paid while the machine was busy is not priced again."""
    policy = auto()
    policy.begin((PLAIN, "a"))
    policy.choose(Answers())
    policy.observe(PLAIN, round_of(emitted=30, verify_s=0.3))
    policy.choose(Answers({"a": Evidence([1.0] * 30, margins=[5.0] * 30)}))
    for draft_s in (0.004, 0.004, 0.004, 0.4, 0.4, 0.4, 0.004):
        drafted = {"window": 4, "drafted": 4, "accepted": 4, "draft_s": draft_s, "verify_s": 0.017}
        policy.observe("a", round_of(emitted=5, **drafted))
    policy.begin((PLAIN, "a"))
    policy.choose(Answers())
    policy.observe(PLAIN, round_of())
    assert policy.choose(Answers()).arm == "a"


def test_what_drafts_could_gain_follows_from_the_cost_curve() -> None:
    """It bounds what may be spent on drafters that nobody knows."""
    assert possible_gain([1.0, 2.0, 3.0, 4.0]) == 0.0
    assert possible_gain([1.0] * 9) > 2.0
    assert 0.0 < possible_gain([1.0, 2.2, 3.0, 3.4, 3.7, 3.9, 4.2, 3.4, 3.7]) < 0.3


def test_only_tokens_worth_verifying_are_kept() -> None:
    policy = auto()
    policy.begin((PLAIN, "a"))
    policy.choose(Answers())
    policy.observe(PLAIN, round_of(emitted=70, verify_s=0.7))
    sure, unsure = [1.0] * 30, [0.0] * 30
    seen = Evidence([*sure, *unsure], margins=[5.0] * 30 + [0.1] * 30)
    choice = policy.choose(Answers({"a": seen}))
    assert choice.arm == "a"
    assert choice.keeps is not None
    assert [choice.keeps(margin) for margin in (5.0, 5.0, 0.1)] == [True, True, False]


def test_little_is_carried_over_to_the_next_answer() -> None:
    policy = auto()
    play(policy, {"a": 0.9, "b": 0.1}, 400)
    turned = play(policy, {"a": 0.1, "b": 0.9}, 800, seed=1)
    half = len(turned.arms) // 2
    assert np.mean(turned.arms[half:] == 2) > 0.8
    assert np.mean(turned.arms == 1) < 0.4


def test_a_switch_of_topic_is_followed_and_beats_every_fixed_choice() -> None:
    found = simulate(
        {"auto": lambda _: AutoPolicy(RunningCosts(DEFAULT_CURVE), window=8)},
        arms=(4,),
        lengths=(600,),
        num_answers=10,
    )
    by_setting = {
        (each.policy, each.has_switch): each.of_best_fixed
        for each in found.results
        if each.num_tokens == 600
    }
    assert by_setting["auto", True] > 1.1
    assert by_setting["auto", False] > 1.0


def test_what_was_learned_survives_the_session_and_no_damage_does_harm() -> None:
    experience = Experience()
    policy = AutoPolicy(RunningCosts(CURVE), experience, window=8)
    play(policy, {"a": 0.9, "b": 0.1}, 400)
    document = json.loads(json.dumps(experience.to_json()))
    again = Experience(document)
    assert again.to_json() == experience.to_json()
    assert again.expected_tokens > Experience().expected_tokens
    known = again.survival("a", "model")
    assert known.chance(0.75) > again.survival("b", "model").chance(0.75) + 0.2
    assert known.num_recent == 0.0
    unknown = Survival("model").chance(0.75)
    for damage in (
        {},
        {"expected_tokens": "x", "arms": {}},
        {"expected_tokens": 9.0, "arms": {"a": {"kind": "model", "matches": [9.0] * 6}}},
        {"expected_tokens": 9.0, "arms": {"a": document["arms"]["a"] | {"matches": [1e9] * 6}}},
        {"expected_tokens": 9.0, "arms": {"a": document["arms"]["a"] | {"kind": "oracle"}}},
    ):
        assert Experience(damage).survival("a", "model").chance(0.75) == unknown


def test_evidence_of_a_model_says_nothing_of_an_index_of_that_name() -> None:
    experience = Experience()
    experience.survival("a", "model").observe([1.0] * 9, [5.0] * 9)
    assert experience.survival("a", "index").chance(9) == Survival("index").chance(9)


def test_survival_counts_fade_and_unknown_tokens_tell_nothing() -> None:
    survival = Survival("index")
    survival.observe([1.0, math.nan, 0.0], [3, 3, 4])
    assert survival.num_recent == pytest.approx(1.0 + RECENT_DISCOUNT)
    low, high = LENGTH_PRIORS[:2]
    # By the definition: six tokens of the prior beside those seen, shifted by how all of them did.
    usual = {3: (DISCOUNT + 6 * low) / (DISCOUNT + 6), 4: 6 * high / 7}
    surplus = RECENT_DISCOUNT * (1 - low) - high
    variance = RECENT_DISCOUNT * low * (1 - low) + high * (1 - high)
    odds = math.exp(surplus / (variance + SHIFT_PRECISION))
    for length, chance in usual.items():
        shifted = odds * chance / (1 - chance + odds * chance)
        assert survival.chance(length) == pytest.approx(shifted)


def test_survival_learns_the_chance_of_every_level() -> None:
    rng = np.random.default_rng(0)
    survival = Survival("model")
    for _ in range(300):
        confidence = float(rng.uniform(0, 3))
        survival.observe([float(rng.random() < (0.1, 0.5, 0.9)[int(confidence)])], [confidence])
    assert survival.chance(0.1) < 0.25
    assert survival.chance(2.5) > 0.8


def test_a_bad_text_shifts_all_levels_and_leaves_what_is_usual() -> None:
    """The drafter knows as well as ever what it is sure of; it is just worse at this."""
    survival = Survival("model")
    for _ in range(20):
        survival.observe([1.0, 1.0, 1.0, 1.0, 0.0], [0.1, 5.0, 5.0, 0.1, 0.1])
    before = [survival.chance(margin) for margin in (0.1, 5.0)]
    survival.observe([0.0] * 10, [0.1] * 10)
    worse = [survival.chance(margin) for margin in (0.1, 5.0)]
    assert all(now < was for now, was in zip(worse, before, strict=True))
    survival.fade(0.0)
    assert survival.chance(5.0) == pytest.approx(before[1], abs=0.05)


def test_survival_weights_never_overflow() -> None:
    survival = Survival("model")
    for _ in range(200):
        survival.observe([1.0] * 200, [0.0] * 200)
    assert survival.chance(0.0) > 0.9
    assert survival.num_recent == pytest.approx(1 / (1 - RECENT_DISCOUNT), rel=1e-3)
    assert max(survival.to_json()["tokens"]) == pytest.approx(1 / (1 - DISCOUNT), rel=1e-3)


def test_recent_evidence_weighs_no_more_than_it_is_faded_to() -> None:
    survival = Survival("model")
    survival.observe([1.0] * 40, [0.0] * 40)
    survival.fade(12.0)
    assert survival.num_recent == pytest.approx(12.0)
    survival.fade(20.0)
    assert survival.num_recent == pytest.approx(12.0)
