"""What an arm promises: tokens in the time that the target needs for one."""

from __future__ import annotations

from collections.abc import Sequence

from metasd_local.selection.survival import MARGIN_SHARES, Survival

DRAFT_SHARE, READ_SHARE = 0.08, 0.05
"""A model drafter's seconds for a drafted token and for tokens read, in those of the target, before
they were measured."""
MOST_CHANGE = 2.0
"""One measurement counts as no more than this many times what was expected."""
COST_RATE = 0.05
"""Least weight of a new measurement in a running mean: a drafter that is dropped for what it cost
while the machine was slow would not be measured again."""
HOPE, HOPE_TOKENS = 1.0, 6.0
"""An arm is tried at this over those and its evidence in tokens more than it is known for."""
CARRIED_TOKENS = 12.0
"""What is carried over of how drafters did in the last answer: soon overruled by what happens."""
GOOD_CHANCE = 0.85
"""That a token of a good drafter stands."""
NOVEL_TOKENS = 64.0
"""A drafter is novel until it was evaluated once, unless so much is known of it."""
CONTINUED = tuple(sum(0.8**i for i in range(num_tokens)) for num_tokens in range(17))
"""Tokens expected to stand of so many more, once the one before them does."""
UNKNOWN_MARGIN = 0.75
"""Stands for the margin of a token where nobody asked for it."""


class RelativeCost:
    """A running mean of a drafter's seconds in those of the target for the same at that time."""

    def __init__(self, prior: float) -> None:
        self.mean = prior
        self._num_seen = 0

    def observe(self, share: float) -> None:
        """Learn from one call; the first calls of a model take far longer than those after."""
        self._num_seen += 1
        change = min(share, MOST_CHANGE * self.mean) - self.mean
        self.mean += max(COST_RATE, 1 / self._num_seen) * change


class Prospect:
    """What is known of one arm, and the best that can be made of it.

    Costs, `verify`, are the target's seconds by tokens drafted, in those for none.
    """

    def __init__(self, name: str, survival: Survival) -> None:
        self.name = name
        self.has_index = survival.kind == "index"
        self.has_margins = False
        self.survival = survival
        self.draft_cost, self.read_cost = RelativeCost(DRAFT_SHARE), RelativeCost(READ_SHARE)
        """For a drafted token, and for reading tokens."""
        self.rate, self.window = 0.0, 1
        """Of the best plan: tokens in the time of a plain one, and tokens to draft."""
        self.hope = 0.0
        """The rate it may have, for all that is known."""
        self.read_until = 0
        """Tokens of the answer it has read; less than 0 where the prompt is still to be read."""
        self.is_evaluated = False
        self.is_planned = False
        """Whether the plan follows from the latest evidence and costs."""
        self._matches: list[float] = []
        self._confidences: list[float] = []
        """Of tokens of the answer that are still to be learned from."""

    @property
    def is_novel(self) -> bool:
        """Whether so little is known that finding out is worth more than usual."""
        return not self.is_evaluated and self.survival.num_tokens < NOVEL_TOKENS

    def begin_answer(self, read_until: int) -> None:
        """Carry a little of what is known over to an answer."""
        self.learn()
        self.read_until = read_until
        if self.survival.fade(CARRIED_TOKENS):
            self.is_planned = False

    def note(self, matches: Sequence[float], confidences: Sequence[float]) -> None:
        """Keep evidence for `learn`: to learn from several rounds at once takes less time."""
        self._matches += matches
        self._confidences += confidences or [UNKNOWN_MARGIN] * len(matches)

    def learn(self) -> None:
        """Learn from the evidence noted."""
        if self._matches:
            self.is_planned = False
            self.survival.observe(self._matches, self._confidences)
            self._matches, self._confidences = [], []

    def learn_prompt(
        self, matches: Sequence[float], confidences: Sequence[float], share: float
    ) -> None:
        """Learn from tokens of the prompt, each worth a share of one of the answer."""
        self.is_planned = False
        self.survival.observe(matches, confidences or [UNKNOWN_MARGIN] * len(matches), share)

    def plan(self, verify: Sequence[float]) -> None:
        """Find the levels and the window that promise most.

        A draft goes on while tokens are of a level worth verifying, which each is with
        probability `kept`, and stands as long as they match.
        """
        self.is_planned = True
        self.rate, self.window = 0.0, 1
        kept = matched = 0.0
        for chance, share in self.survival.mix(MARGIN_SHARES):
            kept += share
            matched += share * chance
            tokens = standing = drafting = cost = 1.0
            for window in range(1, len(verify)):
                cost += drafting * self.draft_cost.mean
                drafting *= kept
                cost += drafting * (verify[window] - verify[window - 1])
                standing *= matched
                tokens += standing
                if tokens > self.rate * cost:
                    self.rate, self.window = tokens / cost, window
        self.hope = self.rate * (1 + HOPE / (HOPE_TOKENS + self.survival.num_recent))

    def plan_copy(self, verify: Sequence[float], match_length: int) -> tuple[float, int]:
        """Return rate and window of copying on from a match."""
        tokens = standing = 1.0
        best_rate, best_window = 0.0, 1
        for window in range(1, len(verify)):
            standing *= self.survival.chance(match_length + window - 1)
            tokens += standing
            rate = tokens / verify[window]
            if rate > best_rate:
                best_rate, best_window = rate, window
        return best_rate, best_window


def marginal_costs(verify: Sequence[float], last_length: int, change: float) -> list[float]:
    """Return by tokens drafted the least cost per standing token, over all longer drafts.

    change: what a draft of another length than the last costs the target more.
    """
    costs = [cost + change * (length != last_length) for length, cost in enumerate(verify)]
    return [
        min(
            (costs[longer] - costs[drafted]) / CONTINUED[longer - drafted]
            for longer in range(drafted + 1, len(costs))
        )
        for drafted in range(len(costs) - 1)
    ]


def possible_gain(verify: Sequence[float]) -> float:
    """Return the gain over plain decoding with a good drafter of usual costs, as a share."""
    rates = [
        (1 - GOOD_CHANCE ** (window + 1)) / (1 - GOOD_CHANCE) / (cost + window * DRAFT_SHARE)
        for window, cost in enumerate(verify)
    ]
    return max(rates) - 1
