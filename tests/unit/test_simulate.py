"""The simulator: it plays by the engine's rules and tells good selectors from bad ones."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from metasd_local.costs import CostCurve
from metasd_local.lab.replays import Replay
from metasd_local.lab.simulate import (
    DEFAULT_CURVE,
    LONG_ROUNDS,
    PolicyFactory,
    Result,
    Simulation,
    simulate,
)
from metasd_local.lab.traces import Trace, draw_trace
from metasd_local.protocols import PLAIN, Arms, Choice, Policy, RoundFeedback
from metasd_local.selection.bandit import drafters
from metasd_local.selection.fixed import FixedPolicy
from metasd_local.selection.hedge import HedgePolicy
from metasd_local.selection.rewards import block_divergence, block_efficiency
from metasd_local.selection.thompson import ThompsonPolicy
from metasd_local.selection.ucb import UcbPolicy
from metasd_local.selection.ucbspec import UcbSpecPolicy
from metasd_local.selection.uniform import UniformPolicy

POLICIES: Mapping[str, PolicyFactory] = {
    "random": lambda rng: UniformPolicy(rng, window=5),
    "ucb": lambda _: UcbPolicy(block_divergence, beta=1.0, window=5),
}
MORE_POLICIES: Mapping[str, PolicyFactory] = {
    **POLICIES,
    "ucbspec": lambda _: UcbSpecPolicy(arms=drafters, delta=0.1, window=5),
    "thompson": lambda rng: ThompsonPolicy(block_divergence, rng, window=5),
    "hedge": lambda rng: HedgePolicy(rng, loss="token", every=1, window=5),
}
"""`random`, and policies whose regret on one topic is claimed to be logarithmic or less."""
CURVE = CostCurve({1: 10.0, 2: 12.0, 3: 14.0, 10: 28.0})


class SharedBonus:
    """UCB whose bonus uses the total count, the same for all arms, so that nothing is explored."""

    def begin(self, arms: Sequence[str]) -> None:
        self._rewards: dict[str, list[float]] = {arm: [] for arm in arms if arm != PLAIN}

    def choose(self, arms: Arms) -> Choice:
        total = sum(len(rewards) for rewards in self._rewards.values())
        scores = {
            arm: sum(rewards) / len(rewards) + math.sqrt(2 * math.log(total) / total)
            if rewards
            else math.inf
            for arm, rewards in self._rewards.items()
        }
        return Choice(max(scores, key=scores.__getitem__), 5)

    def observe(self, arm: str, feedback: RoundFeedback) -> float:
        self._rewards[arm].append(block_efficiency(feedback))
        return 0.0

    def scores(self) -> Mapping[str, float]:
        return {}


def small_trace() -> Trace:
    """Ten tokens: `model` misses every fourth, `ngram` drafts from token 4 on."""
    matches = np.zeros((3, 10), dtype=np.bool_)
    matches[1] = [True, True, True, False] * 2 + [True, True]
    matches[2, 4:] = True
    has_draft = np.ones((3, 10), dtype=np.bool_)
    has_draft[0] = False
    has_draft[2, :4] = False
    probabilities = np.linspace(0.1, 0.9, 30).reshape(3, 10)
    return Trace((PLAIN, "model", "ngram"), probabilities, matches, has_draft)


def play(
    choices: Sequence[Choice], num_tokens: int = 10
) -> tuple[list[tuple[str, RoundFeedback]], list[float]]:
    """Return what a policy would be told, and the seconds of every round."""
    told: list[tuple[str, RoundFeedback]] = []
    left = iter(choices)
    replay = Replay(small_trace(), CURVE)
    done = replay.play(
        lambda *_: next(left),
        lambda arm, feedback: told.append((arm, feedback)),
        num_tokens=num_tokens,
        max_rounds=len(choices),
    )
    return told, done.seconds.tolist()


def test_nothing_after_the_first_mismatch_is_fed_back() -> None:
    ((_, feedback),), _ = play([Choice("model", 5)])
    assert (feedback.window, feedback.drafted) == (5, 5)
    assert (feedback.accepted, feedback.emitted) == (3, 4)
    np.testing.assert_array_equal(feedback.overlaps(), small_trace().probabilities[1, :4])


def test_a_wholly_accepted_draft_is_fed_back_to_its_end() -> None:
    ((_, feedback),), _ = play([Choice("model", 2)])
    assert (feedback.drafted, feedback.accepted, feedback.emitted) == (2, 2, 3)
    np.testing.assert_array_equal(feedback.overlaps(), small_trace().probabilities[1, :2])


def test_a_round_without_an_ngram_match_costs_one_token_and_earns_nothing() -> None:
    ((_, feedback),), seconds = play([Choice("ngram", 5)])
    assert seconds == [CURVE.seconds(1)]
    assert feedback.seconds == CURVE.seconds(1)
    assert (feedback.drafted, feedback.accepted, feedback.emitted) == (0, 0, 1)
    assert feedback.overlaps().size == 0
    assert block_divergence(feedback) == block_efficiency(feedback) == 0.0


def test_a_drafter_pays_for_the_prompt_and_for_what_was_emitted_while_it_was_idle() -> None:
    choices = [Choice("model", 1), Choice(PLAIN, 1), Choice(PLAIN, 1), Choice("model", 1)]
    _, seconds = play(choices)
    # A drafted token costs a tenth, a token caught up on a hundredth of the target's 10 s.
    assert seconds == pytest.approx([12 + 1 + 100 * 0.1, 10, 10, 12 + 1 + 2 * 0.1])


def test_an_ngram_draft_costs_the_target_only() -> None:
    _, seconds = play([Choice("model", 5), Choice("ngram", 2)])
    assert seconds[1] == CURVE.seconds(3)


def test_the_end_of_the_answer_shortens_the_draft_and_then_teaches_nothing() -> None:
    told, seconds = play([Choice("model", 9), Choice("model", 9), Choice("model", 9)], 9)
    assert [(arm, feedback.window, feedback.emitted) for arm, feedback in told] == [
        ("model", 8, 4),
        ("model", 4, 4),
    ]
    assert seconds[2] == CURVE.seconds(1)


def test_an_answer_emits_exactly_its_tokens() -> None:
    replay = Replay(small_trace(), CURVE)
    for arm in (PLAIN, "model", "ngram"):
        done = replay.play_fixed(arm, num_tokens=9)
        assert done.num_tokens == 9
        assert done.seconds_until(9) == pytest.approx(done.seconds.sum())
        assert done.seconds_until(0) == 0.0


def test_the_oracle_chooses_by_expected_tokens_per_second() -> None:
    """A sure expert wins; where no drafter is worth its time the oracle drafts nothing."""
    probabilities = np.zeros((3, 40))
    probabilities[1, :20] = 1.0
    has_draft = np.array([[False], [True], [True]]).repeat(40, axis=1)
    trace = Trace((PLAIN, "model", "other"), probabilities, probabilities > 0.5, has_draft)
    done = Replay(trace, CURVE).play_oracle(num_tokens=40)
    chosen = {int(at): int(arm) for at, arm in zip(done.positions, done.arms, strict=True)}
    assert {arm for at, arm in chosen.items() if at < 20} == {1}
    assert {arm for at, arm in chosen.items() if at >= 20} == {0}


def misleading_growth(policy: Policy) -> float:
    """Return how regret grows where the best arm is at its worst in the first 60 tokens."""
    halves = np.zeros(2)
    for seed in range(5):
        num_tokens = LONG_ROUNDS * 5
        probabilities = np.array([[0.0], [0.5], [0.5], [0.8]]).repeat(num_tokens, axis=1)
        probabilities[3, :60] = 0.02
        matches = np.random.default_rng(seed).random(probabilities.shape) < probabilities
        has_draft = np.array([[False], [True], [True], [True]]).repeat(num_tokens, axis=1)
        trace = Trace((PLAIN, "poor", "poor too", "best"), probabilities, matches, has_draft)
        replay = Replay(trace, DEFAULT_CURVE)
        done = replay.play_policy(policy, num_tokens=num_tokens, max_rounds=LONG_ROUNDS)
        regret_s = replay.regret_s(done, replay.play_fixed("best", num_tokens=num_tokens))
        assert len(regret_s) == LONG_ROUNDS
        halves += (regret_s[LONG_ROUNDS // 2 - 1], regret_s[-1])
    return float(halves[1] / halves[0])


def test_a_bonus_shared_by_all_arms_is_caught_by_the_growth_of_its_regret() -> None:
    assert misleading_growth(UcbPolicy(block_efficiency, beta=1.0, window=5)) < 1.6
    assert misleading_growth(SharedBonus()) > 1.9


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return simulate(POLICIES, arms=(4, 8), lengths=(600,), num_answers=30, seed=3)


def find(simulation: Simulation, policy: str, num_drafters: int, num_tokens: int | None) -> Result:
    (result,) = (
        result
        for result in simulation.results
        if (result.policy, result.num_drafters) == (policy, num_drafters)
        and (result.num_tokens, result.has_switch) == (num_tokens, False)
    )
    return result


@pytest.mark.parametrize("num_drafters", [4, 8])
@pytest.mark.parametrize("num_tokens", [600, None])
def test_random_ucb_and_the_oracle_come_out_in_that_order(
    simulation: Simulation, num_drafters: int, num_tokens: int | None
) -> None:
    worst, middle, best = (
        find(simulation, policy, num_drafters, num_tokens) for policy in ("random", "ucb", "oracle")
    )
    for lower, higher in ((worst, middle), (middle, best)):
        error = math.hypot(lower.standard_error, higher.standard_error)
        assert higher.of_best_fixed - lower.of_best_fixed > 3 * error
    assert best.of_best_fixed > 1.0 > middle.of_best_fixed


@pytest.mark.parametrize("num_drafters", [4, 8])
def test_regret_grows_linearly_for_random_and_slower_for_ucb(
    simulation: Simulation, num_drafters: int
) -> None:
    assert find(simulation, "random", num_drafters, None).regret_growth == pytest.approx(2, abs=0.1)
    growth = find(simulation, "ucb", num_drafters, None).regret_growth
    assert growth is not None
    assert 1.0 < growth < 1.6


@pytest.mark.full
@pytest.mark.parametrize("num_drafters", [4, 8])
def test_evidence_beats_every_bandit_where_one_arm_is_best(num_drafters: int) -> None:
    """Evaluations are paid for."""
    done = simulate(MORE_POLICIES, arms=(num_drafters,), lengths=(60, 200), num_answers=60, seed=1)
    for num_tokens in (60, 200):
        hedge = find(done, "hedge", num_drafters, num_tokens)
        for policy in MORE_POLICIES.keys() - {"hedge"}:
            rival = find(done, policy, num_drafters, num_tokens)
            error = math.hypot(hedge.standard_error, rival.standard_error)
            assert hedge.of_best_fixed - rival.of_best_fixed > 2 * error


@pytest.mark.full
@pytest.mark.parametrize("policy", sorted(MORE_POLICIES.keys() - {"random"}))
def test_regret_of_a_hundred_answers_is_logarithmic_and_none_is_an_exception(policy: str) -> None:
    """Relative to what choosing at random would lose in the same answer."""
    num_tokens = LONG_ROUNDS * 5
    shares = np.zeros((100, 2))
    for seed in range(100):
        rng = np.random.default_rng(seed)
        trace = draw_trace(rng, 4, num_tokens, topic_tokens=num_tokens)
        replay = Replay(trace, DEFAULT_CURVE)
        fixed = [replay.play_fixed(arm, num_tokens=num_tokens) for arm in trace.arms]
        best = min(fixed, key=lambda play: float(play.seconds.sum()))
        lost_s = {}
        for name in (policy, "random"):
            done = replay.play_policy(
                MORE_POLICIES[name](rng), num_tokens=num_tokens, max_rounds=LONG_ROUNDS
            )
            lost_s[name] = replay.regret_s(done, best)
        random_s = lost_s["random"][-1]
        shares[seed] = (
            lost_s[policy][LONG_ROUNDS // 2 - 1] / random_s,
            lost_s[policy][-1] / random_s,
        )
    half, whole = shares.mean(axis=0)
    assert whole < 1.6 * half
    assert shares[:, 1].max() < 0.5


def test_no_fixed_arm_beats_the_best_one(simulation: Simulation) -> None:
    for result in simulation.results:
        if result.policy == PLAIN or result.policy.startswith("fixed:"):
            assert result.of_best_fixed <= 1.0 + 1e-9
            assert result.regret_s is None


def test_a_policy_more_changes_no_other_figures() -> None:
    alone, both = (
        simulate(policies, arms=(2,), lengths=(60,), num_answers=2).results
        for policies in ({"random": POLICIES["random"]}, POLICIES)
    )
    assert [result for result in both if result.policy == "random"] == [
        result for result in alone if result.policy == "random"
    ]


def test_a_policy_plays_no_pool_that_lacks_its_only_arm() -> None:
    """Without this it would decode plainly there, under its name."""
    policies = {"only": lambda _: FixedPolicy("ngram", window=5)}
    found = simulate(
        policies, arms=(2, 4), lengths=(), num_answers=2, only_arms={"only": "ngram"}
    ).results
    assert {each.num_drafters for each in found} == {2, 4}
    assert {each.num_drafters for each in found if each.policy == "only"} == {4}


def test_the_text_fits_79_columns_and_shows_every_policy() -> None:
    names = ["ucb:beta=0.3,reward=be,window=4", "x" * 100]
    policies = dict.fromkeys(names, POLICIES["ucb"])
    simulation = simulate(policies, arms=(2,), lengths=(60, 200, 600), num_answers=2, curve=CURVE)
    lines = simulation.lines()
    assert max(map(len, lines)) <= 79
    text = "\n".join(lines)
    for shown in (names[0], "fixed:expert1", "oracle", PLAIN, "4000 rd", "2/2/2/2 answers"):
        assert shown in text
    assert "10000.0 ms for 1 token" in text
    assert "MI50" not in text


def test_the_document_is_json_and_holds_every_result(simulation: Simulation) -> None:
    document = json.loads(json.dumps(simulation.to_json(), allow_nan=False))
    assert document["seed"] == 3
    assert document["cost_curve"]["1"] == DEFAULT_CURVE.seconds(1)
    assert len(document["results"]) == len(simulation.results)
    first = find(simulation, "ucb", 8, None)
    (row,) = (
        row
        for row in document["results"]
        if (row["policy"], row["num_drafters"]) == ("ucb", 8)
        and (row["num_tokens"], row["has_switch"]) == (None, False)
    )
    assert row["of_best_fixed"] == first.of_best_fixed
    assert row["regret_growth"] == first.regret_growth
    assert row["num_answers"] == 3


def test_progress_rises_to_one() -> None:
    shares: list[float] = []
    simulate({}, arms=(2,), lengths=(10,), num_answers=2, on_progress=shares.append)
    assert shares == [0.25, 0.5, 0.75, 1.0]
