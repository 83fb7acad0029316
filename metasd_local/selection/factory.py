"""From what a user types after `--policy` to a policy."""

from __future__ import annotations

import math

import numpy as np

from metasd_local.errors import UsageError
from metasd_local.options import MAX_WINDOW, nearest_hint
from metasd_local.protocols import PLAIN, Policy
from metasd_local.selection import POLICIES
from metasd_local.selection.fixed import FixedPolicy
from metasd_local.selection.rewards import Reward, block_divergence, block_efficiency
from metasd_local.selection.specification import PolicySpecification
from metasd_local.selection.ucb import UcbPolicy
from metasd_local.selection.uniform import UniformPolicy

DEFAULT_POLICY = "ucb"
DEFAULT_WINDOW = 5
REWARDS: dict[str, Reward] = {"bd": block_divergence, "be": block_efficiency}


def policy_window(specification: PolicySpecification, window: int | None) -> int:
    """Return the window a policy is to ask for; `window` is what holds if it names none."""
    return specification.value("window", _whole_window, window or DEFAULT_WINDOW)


def needs_overlaps(specification: PolicySpecification) -> bool:
    """Tell whether the policy looks at the overlaps of the laws."""
    return specification.name == "ucb" and specification.parameters.get("reward", "bd") == "bd"


def is_informed(specification: PolicySpecification) -> bool:
    """Tell whether the policy asks what idle drafters would have done."""
    return specification.name in ("auto", "hedge")


def make_policy(specification: PolicySpecification, window: int, seed: int | None) -> Policy:
    """Return the policy; raise UsageError for an unknown name or parameter."""
    match specification.name:
        case "plain":
            specification.check_keys()
            return FixedPolicy(PLAIN, window=window)
        case "fixed":
            specification.check_keys("window")
            assert specification.drafter is not None
            return FixedPolicy(specification.drafter, window=window)
        case "random":
            specification.check_keys("window")
            return UniformPolicy(np.random.default_rng(seed), window=window)
        case "ucb":
            specification.check_keys("beta", "reward", "window")
            beta = specification.value("beta", _positive, 1.0)
            reward = specification.value("reward", _reward, REWARDS["bd"])
            return UcbPolicy(reward, beta=beta, window=window)
    names = [policy.name for policy in POLICIES]
    hint = nearest_hint(specification.name, names)
    found = f"--policy: found {specification.text!r}, expected one of {', '.join(names)}"
    raise UsageError(found + hint)


def _whole_window(text: str) -> int:
    window = int(text)
    if not 1 <= window <= MAX_WINDOW:
        raise ValueError(f"found {window}, expected 1 to {MAX_WINDOW}")
    return window


def _positive(text: str) -> float:
    value = float(text)
    if not 0.0 < value < math.inf:
        raise ValueError(f"found {value}, expected a number above 0")
    return value


def _reward(text: str) -> Reward:
    if text not in REWARDS:
        raise ValueError(f"found {text!r}, expected {' or '.join(REWARDS)}")
    return REWARDS[text]
