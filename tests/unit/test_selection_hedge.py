"""Full information: NormalHedge's arithmetic, and which losses of which tokens it applies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from metasd_local.protocols import Evidence, RoundFeedback
from metasd_local.selection.hedge import HedgePolicy, Loss, normal_hedge
from tests.answers import Answers

ARMS = ("plain", "a", "b", "c")
NAN = math.nan


def make(loss: Loss = "token", *, every: int = 1, window: int = 3, seed: int = 0) -> HedgePolicy:
    policy = HedgePolicy(np.random.default_rng(seed), loss=loss, every=every, window=window)
    policy.begin(ARMS)
    return policy


def told(evidence: Mapping[str, Sequence[float]]) -> Answers:
    return Answers({arm: Evidence(matches) for arm, matches in evidence.items()})


def round_of(drafted: int, accepted: int, window: int = 3) -> RoundFeedback:
    return RoundFeedback(
        window=window,
        drafted=drafted,
        accepted=accepted,
        emitted=accepted + 1,
        catch_up_s=0.0,
        draft_s=0.01,
        verify_s=0.01,
        overlaps=lambda: np.empty(0),
    )


def after(*losses: Mapping[str, float]) -> dict[str, float]:
    """Return NormalHedge's weights after these losses, one step per loss."""
    regrets = dict.fromkeys("abc", 0.0)
    weights = normal_hedge(regrets)
    for loss in losses:
        mean = sum(weights[arm] * loss[arm] for arm in "abc")
        regrets = {arm: regrets[arm] + mean - loss[arm] for arm in "abc"}
        weights = normal_hedge(regrets)
    return weights


@pytest.mark.parametrize(
    "regrets", [(1.0, 0.5, -2.0), (3.0, 3.0, 3.0), (1e-200, 0.0, -1.0), (1e200, 1e200, 5e199)]
)
def test_weights_solve_the_equation_of_normal_hedge(regrets: tuple[float, ...]) -> None:
    """The ratio of two weights gives c back, and with it the mean of the potentials is e."""
    weights = list(normal_hedge(dict(zip("abc", regrets, strict=True))).values())
    scale = max(regrets)
    gains = [max(regret, 0.0) / scale for regret in regrets]
    assert sum(weights) == pytest.approx(1.0)
    low, high = 1e-6, 10.0
    for _ in range(200):
        middle = (low + high) / 2
        mean = np.mean([math.exp(gain**2 / (2 * middle)) for gain in gains])
        low, high = (middle, high) if mean > math.e else (low, middle)
    parts = [gain / high * math.exp(gain**2 / (2 * high)) for gain in gains]
    np.testing.assert_allclose(weights, np.array(parts) / sum(parts), rtol=1e-9)


def test_without_a_positive_regret_all_arms_are_alike() -> None:
    assert normal_hedge({"a": 0.0, "b": -1.0}) == {"a": 0.5, "b": 0.5}


def test_token_losses_of_one_round_are_applied_token_by_token() -> None:
    """The chosen arm knows its tokens up to the first rejection, the others know all."""
    policy = make()
    arm = policy.choose(Answers()).arm
    first, second = [other for other in "abc" if other != arm]
    policy.observe(arm, round_of(3, 1))
    policy.choose(told({first: [1.0, 0.25], second: [0.0, 1.0]}))
    expected = after({arm: 0.0, first: 0.0, second: 1.0}, {arm: 1.0, first: 0.75, second: 0.0})
    assert policy.scores() == pytest.approx(expected)


def test_the_token_after_a_wholly_accepted_draft_is_left_out() -> None:
    """Nobody knows what the drafter would have said there."""
    policy = make()
    arm = policy.choose(Answers()).arm
    first, second = [other for other in "abc" if other != arm]
    others = {first: [1.0, 0.0, 1.0, 0.0], second: [0.0, 1.0, 1.0, 1.0]}
    policy.observe(arm, round_of(3, 3))
    policy.choose(told(others))
    losses = [
        {arm: 0.0, first: 1 - others[first][i], second: 1 - others[second][i]} for i in range(3)
    ]
    assert policy.scores() == pytest.approx(after(*losses))


def test_length_losses_wait_until_the_window_is_known() -> None:
    """Window 3: one round accepts 1; the idle arm that agreed so far is judged a round later."""
    policy = make("length")
    arm = policy.choose(Answers()).arm
    first, second = [other for other in "abc" if other != arm]
    policy.observe(arm, round_of(3, 1))
    own = policy.choose(told({first: [1.0, 1.0], second: [0.5, 0.0]})).arm
    assert policy.scores() == pytest.approx(after())
    policy.observe(own, round_of(3, 0))
    policy.choose(told({other: [0.0] for other in "abc" if other != own}))
    # Lengths from the first round's beginning are 1 + 1, 1 + 2 and 1 + 0.5 of 4.
    expected = after(
        {arm: 1 - 2 / 4, first: 1 - 3 / 4, second: 1 - 1.5 / 4},
        dict.fromkeys("abc", 1 - 1 / 4),
    )
    assert policy.scores() == pytest.approx(expected)


def test_losses_come_late_where_evaluations_are_rare() -> None:
    """After the first of two rounds all are evaluated, after the second nobody."""
    policy = make(every=2)
    chosen = [policy.choose(Answers()).arm]
    losses: list[dict[str, float]] = []
    for index in range(3):
        arm = chosen[-1]
        policy.observe(arm, round_of(3, 0))
        # Every round emits one token; an arm has read all that was emitted when it last played.
        unread = {other: 1 if index == 0 or other == chosen[1] else 2 for other in "abc"}
        arms = told({other: [1.0] * num_tokens for other, num_tokens in unread.items()})
        chosen.append(policy.choose(arms).arm)
        assert arms.evaluated == ([] if index == 1 else [each for each in "abc" if each != arm])
        if index == 2 and arm == chosen[1]:
            losses.append({other: float(other == chosen[1]) for other in "abc"})
        if index != 1:
            losses.append({other: float(other == arm) for other in "abc"})
        assert policy.scores() == pytest.approx(after(*losses))


def test_evidence_about_the_prompt_is_left_aside() -> None:
    policy = make()
    arm = policy.choose(Answers()).arm
    first, second = [other for other in "abc" if other != arm]
    policy.observe(arm, round_of(3, 0))
    policy.choose(told({first: [NAN, 1.0, 0.5], second: [1.0]}))
    assert policy.scores() == pytest.approx(after({arm: 1.0, first: 0.5, second: 0.0}))


def test_a_drafter_that_would_have_proposed_nothing_has_the_full_loss() -> None:
    """NaN from an index without a match, no evidence from a model that cannot read on."""
    policy = make()
    arm = policy.choose(Answers()).arm
    first, second = [other for other in "abc" if other != arm]
    policy.observe(arm, round_of(3, 0))
    policy.choose(told({first: [NAN], second: []}))
    assert policy.scores() == pytest.approx(after(dict.fromkeys("abc", 1.0)))
    policy = make()
    arm = policy.choose(Answers()).arm
    first, second = [other for other in "abc" if other != arm]
    policy.observe(arm, round_of(0, 0))
    policy.choose(told({first: [1.0], second: [1.0]}))
    assert policy.scores()[arm] == 0.0


def test_a_round_that_no_choice_follows_changes_nothing() -> None:
    policy = make()
    arm = policy.choose(Answers()).arm
    policy.observe(arm, round_of(3, 1))
    assert policy.scores() == pytest.approx(after())


def play(policy: HedgePolicy, rates: Sequence[Mapping[str, float]], seed: int) -> list[str]:
    """Decode a text in which arms agree at given rates; return the arm of every round."""
    rng = np.random.default_rng(seed)
    truth = {arm: rng.random(len(rates)) < [rate[arm] for rate in rates] for arm in "abc"}
    num_read = dict.fromkeys("abc", 0)
    position, chosen = 0, []

    class Reading(Answers):
        def evaluate(self, arm: str) -> Evidence:
            begun_at, num_read[arm] = num_read[arm], position
            return Evidence(truth[arm][begun_at:position].astype(float).tolist())

    while position < len(rates) - 4:
        choice = policy.choose(Reading())
        run = truth[choice.arm][position : position + 3].tolist()
        accepted = [*run, False].index(False)
        position += accepted + 1
        num_read[choice.arm] = position
        policy.observe(choice.arm, round_of(3, accepted))
        chosen.append(choice.arm)
    return chosen


@pytest.mark.parametrize("loss", ["token", "length"])
@pytest.mark.parametrize("every", [1, 4])
def test_the_best_arm_is_found_by_evidence(loss: Loss, every: int) -> None:
    """With gaps of 0.2 the best arm plays nine rounds of ten after 300 tokens."""
    rates = [{"a": 0.5, "b": 0.8, "c": 0.6}] * 900
    late = [
        arm
        for seed in range(4)
        for arm in play(make(loss, every=every, seed=seed), rates, seed)[100:]
    ]
    assert late.count("b") > 0.9 * len(late)


def test_an_arm_is_judged_without_ever_being_chosen() -> None:
    """Its evidence alone makes it the only choice."""
    policy = make()
    arm = policy.choose(Answers()).arm
    best, other = [each for each in "abc" if each != arm]
    policy.observe(arm, round_of(3, 0))
    assert policy.choose(told({best: [1.0], other: [0.5]})).arm == best
    assert policy.scores()[best] == pytest.approx(1.0)
