"""Policies by exact arithmetic, and rewards by definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from metasd_local.errors import UsageError
from metasd_local.protocols import Offer, RoundFeedback
from metasd_local.selection.fixed import FixedPolicy
from metasd_local.selection.rewards import block_divergence, block_efficiency
from metasd_local.selection.specification import parse_policy
from metasd_local.selection.ucb import UcbPolicy
from metasd_local.selection.uniform import UniformPolicy

ARMS = ("plain", "a", "b", "c")


def offer(arm: str) -> Offer:
    return Offer(unread=0, match_length=None)


def earning(block_efficiency: float) -> RoundFeedback:
    """Return a round of 100 draft tokens with a given share of them accepted."""
    return feedback(100, round(100 * block_efficiency), [], window=100)


def test_ucb_scores_are_the_papers_formula() -> None:
    policy = UcbPolicy(block_efficiency, beta=0.5, window=5)
    policy.begin(ARMS)
    for arm, rewards in {"a": [1.0, 0.5], "b": [0.25], "c": [0.0, 0.0, 0.3]}.items():
        for reward in rewards:
            policy.observe(arm, earning(reward))
    policy.choose(offer)
    bonus = 0.5 * math.sqrt(2 * math.log(6))
    assert policy.scores() == pytest.approx(
        {
            "a": 0.75 + bonus / math.sqrt(2),
            "b": 0.25 + bonus,
            "c": 0.1 + bonus / math.sqrt(3),
        }
    )


def test_ucb_tries_every_drafter_once_and_never_plain() -> None:
    policy = UcbPolicy(block_efficiency, beta=1.0, window=5)
    policy.begin(ARMS)
    tried = []
    for _ in range(3):
        choice = policy.choose(offer)
        tried.append(choice.arm)
        policy.observe(choice.arm, earning(0.0))
    assert tried == ["a", "b", "c"]


def test_ucb_bonus_of_an_arm_falls_as_that_arm_is_chosen() -> None:
    policy = UcbPolicy(block_efficiency, beta=1.0, window=5)
    policy.begin(ARMS)
    for arm in ("a", "b", "c"):
        policy.observe(arm, earning(0.5))
    for _ in range(20):
        policy.observe("a", earning(0.5))
    policy.choose(offer)
    scores = policy.scores()
    assert scores["a"] < scores["b"] == scores["c"]


def test_ucb_starts_every_query_from_nothing() -> None:
    policy = UcbPolicy(block_efficiency, beta=1.0, window=5)
    policy.begin(ARMS)
    policy.observe("a", earning(1.0))
    policy.begin(ARMS)
    policy.choose(offer)
    assert set(policy.scores().values()) == {math.inf}


def regret_of(policy_seed: int, rounds: int) -> float:
    means = {"a": 0.8, "b": 0.7, "c": 0.3}
    rng = np.random.default_rng(policy_seed)
    policy = UcbPolicy(block_efficiency, beta=1.0, window=5)
    policy.begin(ARMS)
    regret = 0.0
    for _ in range(rounds):
        arm = policy.choose(offer).arm
        policy.observe(arm, earning(float(rng.random() < means[arm])))
        regret += 0.8 - means[arm]
    return regret


def test_ucb_regret_grows_like_a_logarithm() -> None:
    """Twice the rounds: a policy that never learns doubles its regret, UCB adds far less."""
    seeds = range(12)
    short = np.array([regret_of(seed, 1000) for seed in seeds])
    long = np.array([regret_of(seed, 2000) for seed in seeds])
    assert long.mean() / short.mean() < 1.6
    assert long.max() < 2000 * 0.1


def test_uniform_draws_every_drafter_and_never_plain() -> None:
    policy = UniformPolicy(np.random.default_rng(0), window=3)
    policy.begin(ARMS)
    counts = dict.fromkeys(ARMS, 0)
    for _ in range(3000):
        counts[policy.choose(offer).arm] += 1
    assert counts.pop("plain") == 0
    assert all(900 < count < 1100 for count in counts.values())


@pytest.mark.parametrize(
    "policy",
    [
        FixedPolicy("a", window=5),
        UcbPolicy(block_efficiency, beta=1.0, window=5),
        UniformPolicy(np.random.default_rng(0), window=5),
    ],
)
def test_without_drafters_every_policy_decodes_plainly(policy: FixedPolicy) -> None:
    policy.begin(("plain",))
    for _ in range(3):
        assert policy.choose(offer).arm == "plain"
        policy.observe("plain", earning(0.0))


def feedback(drafted: int, accepted: int, overlaps: list[float], window: int = 5) -> RoundFeedback:
    return RoundFeedback(
        window=window,
        drafted=drafted,
        accepted=accepted,
        emitted=accepted + 1,
        catch_up_s=0.0,
        draft_s=0.01,
        verify_s=0.01,
        overlaps=lambda: np.array(overlaps),
    )


@pytest.mark.parametrize(
    ("round_", "divergence", "efficiency"),
    [
        (feedback(5, 2, [0.9, 0.8, 0.1]), 0.6, 0.4),
        (feedback(5, 5, [1.0] * 5), 1.0, 1.0),
        (feedback(5, 0, [0.25]), 0.25, 0.0),
        (feedback(2, 2, [0.5, 0.7]), 0.6, 0.4),
        (feedback(0, 0, []), 0.0, 0.0),
    ],
)
def test_rewards_by_definition(round_: RoundFeedback, divergence: float, efficiency: float) -> None:
    assert block_divergence(round_) == pytest.approx(divergence)
    assert block_efficiency(round_) == pytest.approx(efficiency)


def test_policy_text_is_split_into_name_drafter_and_parameters() -> None:
    specification = parse_policy("fixed:a b:window=3")
    assert (specification.name, specification.drafter) == ("fixed", "a b")
    assert specification.value("window", int, 5) == 3
    assert parse_policy("ucb:beta=0.5").value("beta", float, 1.0) == 0.5
    assert parse_policy("ucb").value("beta", float, 1.0) == 1.0


@pytest.mark.parametrize(
    "text", ["fixed", "fixed:", "ucb:beta", "ucb:=1", "ucb:beta=", "fixed:a:b", "fixed:window=2"]
)
def test_malformed_policy_texts_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_policy(text)


def test_unknown_and_wrong_parameters_are_named() -> None:
    specification = parse_policy("ucb:bata=1,beta=x")
    with pytest.raises(UsageError, match="bata"):
        specification.check_keys("beta", "reward", "window")
    with pytest.raises(UsageError, match="beta"):
        specification.value("beta", float, 1.0)
