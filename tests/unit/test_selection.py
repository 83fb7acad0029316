"""Policies by exact arithmetic, and rewards by definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from metasd_local.protocols import Policy, RoundFeedback
from metasd_local.selection.bandit import drafters, windows
from metasd_local.selection.ducb import DiscountedUcbPolicy
from metasd_local.selection.exp3 import Exp3Policy
from metasd_local.selection.exp3spec import Exp3SpecPolicy
from metasd_local.selection.factory import choose_policy
from metasd_local.selection.halving import HalvingPolicy
from metasd_local.selection.rewards import ScaledThroughput, block_divergence, block_efficiency
from metasd_local.selection.swucb import SlidingUcbPolicy
from metasd_local.selection.thompson import ThompsonPolicy
from metasd_local.selection.ucb import UcbPolicy
from metasd_local.selection.ucbspec import UcbSpecPolicy
from metasd_local.selection.uniform import UniformPolicy
from tests.answers import Answers

ARMS = ("plain", "a", "b", "c")
BANDITS = ("ucb", "ducb", "swucb", "thompson", "exp3", "halving", "ucbspec", "exp3spec")
"""What learns from the reward of the chosen arm alone."""


def earning(block_efficiency: float) -> RoundFeedback:
    """Return a round of 100 draft tokens with a given share of them accepted."""
    return feedback(100, round(100 * block_efficiency), [], window=100)


def make(text: str, seed: int = 0) -> Policy:
    """Return the policy as typed, with block efficiency for a reward where there is a choice."""
    name = text.partition(":")[0]
    if name in BANDITS and not name.endswith("spec"):
        text += ("," if ":" in text else ":") + "reward=be"
    return choose_policy(text, window=5, seed=seed).policy


def tell(policy: Policy, *rounds: tuple[str, float]) -> None:
    for arm, reward in rounds:
        policy.observe(arm, earning(reward))


def test_ucb_scores_are_the_papers_formula() -> None:
    policy = UcbPolicy(block_efficiency, beta=0.5, window=5)
    policy.begin(ARMS)
    for arm, rewards in {"a": [1.0, 0.5], "b": [0.25], "c": [0.0, 0.0, 0.3]}.items():
        for reward in rewards:
            policy.observe(arm, earning(reward))
    policy.choose(Answers())
    bonus = 0.5 * math.sqrt(2 * math.log(6))
    assert policy.scores() == pytest.approx(
        {
            "a": 0.75 + bonus / math.sqrt(2),
            "b": 0.25 + bonus,
            "c": 0.1 + bonus / math.sqrt(3),
        }
    )


def test_discounted_ucb_multiplies_sums_and_counts_in_every_round() -> None:
    policy = DiscountedUcbPolicy(block_efficiency, beta=0.5, discount=0.8, window=5)
    policy.begin(ARMS)
    tell(policy, ("a", 1.0), ("b", 0.5), ("a", 0.25), ("c", 0.75))
    policy.choose(Answers())
    counts = {"a": 0.8**3 + 0.8, "b": 0.8**2, "c": 1.0}
    sums = {"a": 0.8**3 + 0.8 * 0.25, "b": 0.8**2 * 0.5, "c": 0.75}
    bonus = 0.5 * math.sqrt(2 * math.log(sum(counts.values())))
    assert policy.scores() == pytest.approx(
        {arm: sums[arm] / n + bonus / math.sqrt(n) for arm, n in counts.items()}
    )


def test_sliding_ucb_knows_the_last_rounds_only() -> None:
    policy = SlidingUcbPolicy(block_efficiency, beta=0.5, rounds=3, window=5)
    policy.begin(ARMS)
    tell(policy, ("c", 1.0), ("b", 0.75), ("a", 1.0), ("b", 0.25), ("a", 0.5))
    assert policy.choose(Answers()).arm == "c"
    bonus = 0.5 * math.sqrt(2 * math.log(3))
    assert policy.scores() == pytest.approx(
        {"a": 0.75 + bonus / math.sqrt(2), "b": 0.25 + bonus, "c": math.inf}
    )


def test_ucbspec_bonus_is_the_papers_radius_of_the_arm() -> None:
    policy = UcbSpecPolicy(arms=drafters, delta=0.2, window=5)
    policy.begin(ARMS)
    tell(policy, ("a", 0.5), ("a", 1.0), ("b", 0.25), ("c", 0.0), ("c", 0.25))
    policy.choose(Answers())

    def radius(n: int) -> float:
        logarithm = math.log(3 * 5**2 * (1 + n) ** 0.5 / 0.2)
        return 0.5 * math.sqrt((1 + n) / n**2 * (1 + 2 * logarithm))

    assert policy.scores() == pytest.approx(
        {"a": 0.75 + radius(2), "b": 0.25 + radius(1), "c": 0.125 + radius(2)}
    )


def test_exp3_mixes_exponential_weights_of_scaled_gains() -> None:
    policy = Exp3Policy(block_efficiency, np.random.default_rng(0), gamma=0.3, window=5)
    policy.begin(ARMS)
    arm = policy.choose(Answers()).arm
    assert policy.scores() == pytest.approx(dict.fromkeys("abc", 1 / 3))
    tell(policy, (arm, 0.5))
    policy.choose(Answers())
    weight = math.exp(0.3 * (0.5 / (1 / 3)) / 3)
    expected = {name: weight if name == arm else 1.0 for name in "abc"}
    total = weight + 2
    assert policy.scores() == pytest.approx(
        {name: 0.7 * each / total + 0.1 for name, each in expected.items()}
    )


def test_exp3_explores_less_with_every_round() -> None:
    policy = make("exp3")
    policy.begin(ARMS)
    for num_rounds in range(1, 60):
        arm = policy.choose(Answers()).arm
        gamma = min(1.0, math.sqrt(3 * math.log(3) / ((math.e - 1) * num_rounds)))
        assert min(policy.scores().values()) >= gamma / 3 - 1e-12
        tell(policy, (arm, float(arm == "a")))
    assert min(policy.scores().values()) < 0.1


def test_exp3spec_weighs_the_papers_losses() -> None:
    """Window 5, 2 of 5 accepted: the paper's loss is (5 + 1 - 3) / (5 p)."""
    policy = Exp3SpecPolicy(np.random.default_rng(0), arms=drafters, window=5)
    policy.begin(ARMS)
    arm = policy.choose(Answers()).arm
    tell(policy, (arm, 0.4))
    policy.choose(Answers())
    rate = math.sqrt(math.log(3) / (2 * 3))
    weight = math.exp(-rate * (5 + 1 - 3) / (5 / 3))
    expected = {name: (weight if name == arm else 1.0) / (weight + 2) for name in "abc"}
    assert policy.scores() == pytest.approx(expected)


def test_thompson_draws_from_the_posteriors_of_successes() -> None:
    """A reward of 1 or 0 is a success or failure for sure."""
    policy = ThompsonPolicy(block_efficiency, np.random.default_rng(5), window=5)
    policy.begin(ARMS)
    tell(policy, ("a", 1.0), ("a", 1.0), ("b", 0.0))
    chosen = policy.choose(Answers()).arm
    rng = np.random.default_rng(5)
    rng.random(3)
    expected = {"a": rng.beta(3, 1), "b": rng.beta(1, 2), "c": rng.beta(1, 1)}
    assert policy.scores() == expected
    assert chosen == max(expected, key=expected.__getitem__)


def test_halving_tries_all_drops_half_and_commits() -> None:
    """Four arms, two phases of eight rounds; what an arm earned before a phase is forgotten."""
    policy = HalvingPolicy(block_efficiency, budget=16, window=5)
    policy.begin(("plain", "a", "b", "c", "d"))
    first, second = {"a": 0.1, "b": 0.9, "c": 0.8, "d": 0.2}, {"b": 0.3, "c": 0.4}
    chosen = []
    for index in range(30):
        arm = policy.choose(Answers()).arm
        chosen.append(arm)
        tell(policy, (arm, first[arm] if index < 8 else second[arm]))
    assert "".join(chosen) == "aabbccdd" + "bbbbcccc" + "c" * 14


@pytest.mark.parametrize("num_arms", range(1, 18))
def test_halving_ends_with_one_of_any_number_of_arms(num_arms: int) -> None:
    policy = HalvingPolicy(block_efficiency, budget=1, window=5)
    policy.begin(["plain", *(f"a{index}" for index in range(num_arms))])
    for _ in range(3 * num_arms + 1):
        arm = policy.choose(Answers()).arm
        tell(policy, (arm, 1.0 if arm == f"a{num_arms // 2}" else 0.5))
    assert policy.choose(Answers()).arm == f"a{num_arms // 2}"


@pytest.mark.parametrize("policy", ["ucb", "ducb", "swucb", "ucbspec"])
def test_bounds_try_every_drafter_once_and_never_plain(policy: str) -> None:
    chooser = make(policy)
    chooser.begin(ARMS)
    tried = []
    for _ in range(3):
        tried.append(chooser.choose(Answers()).arm)
        tell(chooser, (tried[-1], 0.0))
    assert tried == ["a", "b", "c"]


@pytest.mark.parametrize("policy", ["ucb", "ducb", "swucb", "ucbspec"])
def test_the_bonus_of_an_arm_falls_as_that_arm_is_chosen(policy: str) -> None:
    """A bonus shared by all arms, as in BanditSpec's code, would leave the scores equal."""
    chooser = make(policy)
    chooser.begin(ARMS)
    for chosen in "abc":
        tell(chooser, ("a", 0.5), ("b", 0.5), ("c", 0.5), *[(chosen, 0.5)] * 20)
        chooser.choose(Answers())
        scores = dict(chooser.scores())
        others = [scores[arm] for arm in "abc" if arm != chosen]
        assert scores[chosen] < min(others)
        chooser.begin(ARMS)


@pytest.mark.parametrize("policy", BANDITS)
def test_every_query_starts_from_nothing(policy: str) -> None:
    """What was learnt is forgotten: the first choice has the scores of a fresh policy's."""
    chooser, fresh = make(policy), make(policy)
    chooser.begin(ARMS)
    for _ in range(30):
        arm = chooser.choose(Answers()).arm
        tell(chooser, (arm, float(arm == "a")))
    chooser.begin(ARMS)
    fresh.begin(ARMS)
    assert chooser.scores() == fresh.scores()
    if policy not in ("thompson", "halving"):
        chooser.choose(Answers())
        fresh.choose(Answers())
        assert chooser.scores() == fresh.scores()


def test_windows_of_one_drafter_are_arms_rewarded_with_throughput() -> None:
    for text in ("ucbspec:arms=window", "exp3spec:arms=window"):
        policy = choose_policy(text, window=3, seed=0).policy
        policy.begin(ARMS)
        counts = [0, 0, 0, 0]
        for _ in range(400):
            choice = policy.choose(Answers())
            assert set(policy.scores()) == {"plain", "a:1", "a:2", "a:3"}
            window = 0 if choice.arm == "plain" else choice.window
            counts[window] += 1
            accepted = min(window, 2)
            done = feedback(window, accepted, [], window=window)
            slow = done._replace(draft_s=0.0, verify_s=0.05 + 0.01 * window)
            assert 0.0 < policy.observe(choice.arm, slow) <= 1.0
        # They emit 1 / 0.05, 2 / 0.06, 3 / 0.07 and 3 / 0.08 tokens/s.
        assert 0 < counts[0] == min(counts) < 80
    assert windows(("plain",), 3).keys() == {"plain"}


def test_throughput_is_scaled_by_the_largest_so_far() -> None:
    reward = ScaledThroughput()
    slow, fast = feedback(5, 1, []), feedback(5, 3, [])
    assert [reward(each) for each in (slow, fast, slow)] == pytest.approx([1.0, 1.0, 0.5])


@pytest.mark.parametrize("policy", ["exp3", "exp3spec"])
def test_exp3_probabilities_sum_to_one_and_never_underflow(policy: str) -> None:
    """100,000 rounds in which the best arm changes once and one arm earns nothing."""
    chooser = make(policy)
    chooser.begin(ARMS)
    num_rounds = 100_000
    rewards = [earning(share) for share in (0.0, 0.5, 1.0)]
    lowest, worst_sum = 1.0, 0.0
    for index in range(num_rounds):
        arm = chooser.choose(Answers()).arm
        shares = chooser.scores().values()
        lowest = min(lowest, *shares)
        worst_sum = max(worst_sum, abs(sum(shares) - 1.0))
        best = "a" if index < num_rounds // 2 else "b"
        chooser.observe(arm, rewards[2 if arm == best else 0 if arm == "c" else 1])
    assert lowest > 0.0
    assert worst_sum < 1e-9


def regrets_of(name: str, seed: int, num_rounds: int, *, switch: bool = False) -> np.ndarray:
    """Return the regret after every round against the best arm, which may change half-way."""
    means = {"a": 0.8, "b": 0.5, "c": 0.2}
    rng = np.random.default_rng(seed)
    policy = make(name, seed)
    policy.begin(ARMS)
    outcomes = (earning(0.0), earning(1.0))
    losses = np.empty(num_rounds)
    for index in range(num_rounds):
        arm = policy.choose(Answers()).arm
        is_second_half = switch and index >= num_rounds // 2
        mean = means[{"a": "c", "b": "b", "c": "a"}[arm]] if is_second_half else means[arm]
        policy.observe(arm, outcomes[rng.random() < mean])
        losses[index] = 0.8 - mean
    return losses.cumsum()


@pytest.mark.parametrize("policy", ["ucb", "thompson", "ucbspec"])
def test_regret_grows_like_a_logarithm(policy: str) -> None:
    """Twice the rounds: a policy that never learns doubles its regret, these add far less."""
    runs = np.array([regrets_of(policy, seed, 4000) for seed in range(3)])
    assert runs[:, -1].mean() / runs[:, 1999].mean() < 1.6


@pytest.mark.parametrize("policy", ["ducb", "swucb"])
def test_discounted_bounds_recover_when_the_best_arm_changes(policy: str) -> None:
    """In the 200 rounds after the change they lose far less than UCB, which has much to unlearn."""

    def lost_after(name: str) -> float:
        runs = [regrets_of(f"{name}:beta=0.2", seed, 1200, switch=True) for seed in range(4)]
        return float(np.mean([run[800] - run[600] for run in runs]))

    assert lost_after(policy) < 0.5 * lost_after("ucb")


def test_uniform_draws_every_drafter_and_never_plain() -> None:
    policy = UniformPolicy(np.random.default_rng(0), window=3)
    policy.begin(ARMS)
    counts = dict.fromkeys(ARMS, 0)
    for _ in range(3000):
        counts[policy.choose(Answers()).arm] += 1
    assert counts.pop("plain") == 0
    assert all(900 < count < 1100 for count in counts.values())


@pytest.mark.parametrize("policy", ["fixed:a", "random", *BANDITS, "ucbspec:arms=window", "hedge"])
def test_without_drafters_every_policy_decodes_plainly(policy: str) -> None:
    chooser = make(policy)
    chooser.begin(("plain",))
    for _ in range(60):
        arms = Answers()
        assert chooser.choose(arms).arm == "plain"
        assert arms.evaluated == []
        chooser.observe("plain", feedback(0, 0, [], window=0))


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
