"""What a user types after `--policy`: names, parameters, defaults, and answers to mistakes."""

from __future__ import annotations

import pytest

from metasd_local.errors import UsageError
from metasd_local.selection import POLICIES
from metasd_local.selection.factory import choose_policy
from metasd_local.selection.specification import parse_policy


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


@pytest.mark.parametrize("policy", [each.name for each in POLICIES])
def test_every_listed_policy_can_be_made_and_names_a_wrong_parameter(policy: str) -> None:
    text = policy.replace("DRAFTER", "a")
    choose_policy(text)
    with pytest.raises(UsageError, match="unknown parameter 'widow'"):
        choose_policy(f"{text}:widow=3")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hege", "did you mean 'hedge'"),
        ("ucb:bata=1", "did you mean 'beta'"),
        ("hedge:loss=lenght", "did you mean 'length'"),
        ("ducb:discount=1.5", "found 1.5, expected a number above 0 and at most 1"),
        ("swucb:rounds=0", "found 0, expected 1 to"),
        ("ucb:beta=nan", "expected a number above 0"),
        ("ucbspec:reward=be", "ucbspec takes window, arms, delta"),
        ("plain:window=3", "plain takes none"),
    ],
)
def test_a_wrong_name_or_value_is_answered_with_what_would_do(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        choose_policy(text)


def test_what_a_policy_needs_follows_from_how_it_is_made() -> None:
    """Overlaps where the reward is the block divergence, evidence where idle drafters count."""
    learners = ["ucb", "ducb", "swucb", "thompson", "exp3", "halving"]
    for policy in POLICIES:
        chosen = choose_policy(policy.name.replace("DRAFTER", "a"))
        assert chosen.needs_overlaps == (policy.name in learners)
        assert chosen.is_informed == (policy.name in ("auto", "hedge"))
    for name in learners:
        assert not choose_policy(f"{name}:reward=be").needs_overlaps


def test_the_window_is_the_texts_own_else_what_holds_else_the_policys() -> None:
    assert choose_policy("auto:window=3", window=4).window == 3
    assert choose_policy("auto", window=4).window == 4
    assert (choose_policy("auto").window, choose_policy("ucb").window) == (8, 5)


def test_a_policy_that_plays_one_arm_only_has_to_find_it() -> None:
    choose_policy("ucb").check_arm([])
    choose_policy("plain").check_arm(["code"])
    choose_policy("fixed:code").check_arm(["code"])
    with pytest.raises(UsageError, match=r"named 'cod'; expected one of code, maths; did you mean"):
        choose_policy("fixed:cod").check_arm(["code", "maths"])
