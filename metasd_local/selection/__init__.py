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


POLICIES = (
    PolicySummary("plain", "decode without drafts"),
    PolicySummary("fixed:DRAFTER", "always the same drafter (fixed:code:window=3)"),
    PolicySummary("ucb", "MetaSD-UCB, restarted every query (beta=1, reward=bd or be, window=N)"),
    PolicySummary("random", "a drafter drawn at random every round, for comparison (window=N)"),
)

COMPARED = ("random", "ucb", "ucb:reward=be")
"""What `metasd bench` compares besides `plain` and every drafter, if nothing else is asked for."""
