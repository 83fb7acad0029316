"""Rules that choose the arm of every round, and the rewards they learn from.

One policy per file. This file only names them: it is read for `--policy help` without loading
anything.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PolicySummary:
    """One line of `--policy help`."""

    name: str
    summary: str


FOR_USE = (
    PolicySummary("auto", "most tokens per second, from what every drafter would do (window=8)"),
    PolicySummary("plain", "decode without drafts"),
    PolicySummary("fixed:DRAFTER", "always the same drafter (fixed:code:window=3)"),
)
FOR_STUDY = (
    PolicySummary("random", "a drafter drawn at random every round, for comparison (window=N)"),
    PolicySummary("ucb", "MetaSD-UCB, restarted every query (beta=1, reward=bd or be)"),
    PolicySummary("ducb", "UCB on rewards that fade (discount=0.98, beta, reward)"),
    PolicySummary("swucb", "UCB on the last rounds (rounds=130, beta, reward)"),
    PolicySummary("thompson", "Thompson sampling (reward)"),
    PolicySummary("exp3", "MetaSD-EXP3, exponential weights (gamma, reward)"),
    PolicySummary("halving", "MetaSD-SH, then commit to one drafter (budget=40, reward)"),
    PolicySummary("ucbspec", "BanditSpec's UCB (delta=0.1, arms=drafter or window)"),
    PolicySummary("exp3spec", "BanditSpec's EXP3 (arms=drafter or window)"),
    PolicySummary("hedge", "HedgeSpec, scores idle drafters too (loss=token or length, every=1)"),
)
POLICIES = (*FOR_USE, *FOR_STUDY)

COMPARED = ("random", "ucb", "ucb:reward=be", "hedge", "auto")
"""What `metasd bench` compares besides `plain` and every drafter, if nothing else is asked for."""
