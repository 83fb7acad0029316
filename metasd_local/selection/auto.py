"""`auto`: the arm and window with the most tokens per second, from what every arm would do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from metasd_local.costs import RunningCosts
from metasd_local.protocols import (
    LONGEST_EVALUATION,
    PLAIN,
    Choice,
    Evidence,
    Keeps,
    Offer,
    RoundFeedback,
)
from metasd_local.selection.experience import Experience
from metasd_local.selection.survival import MARGIN_SHARES, Survival

DRAFT_SHARE, READ_SHARE = 0.08, 0.05
"""A model drafter's seconds for a drafted token and for tokens read, in those of the target, before
they were measured."""
MOST_CHANGE = 2.0
"""One measurement counts as no more than this many times what was expected."""
COST_RATE = 0.2
"""Weight of a new measurement in a running mean of seconds."""
STAY_ROUNDS = 4.0
"""Rounds over which the cost of reading what was missed is spread."""
EVALUATED_SHARE = 0.008
"""Share of the decoding time that may be spent on evaluating idle drafters."""
PRIMED_SHARE = 0.004
"""The same at the beginning of an answer, in advance, of the time it is expected to take."""
HOPE, HOPE_TOKENS = 1.0, 6.0
"""An arm is tried at this over those and its evidence in tokens more than it is known for."""
LARGEST_CREDIT = 0.05
"""Most that is left for the next answer, in those of an expected answer."""
FEWEST_UNREAD = 24
"""Tokens that make an evaluation worth its fixed cost."""
PROMPT_SHARE = 0.1
"""What a token of the prompt tells, in tokens of the answer."""
PLANNED_ROUNDS, PRICED_ROUNDS = 4, 16
"""Rounds between two looks at plans and idle drafters, and at the target's costs."""
UNKNOWN_MARGIN = 0.75
"""Stands for the margin of a token where nobody asked for it."""
SHORTEST_ROUND_S = 1e-9


class _Arm:
    """What is known of one arm."""

    def __init__(self, name: str, survival: Survival) -> None:
        self.name = name
        self.has_index = survival.kind == "index"
        self.has_margins = False
        self.survival = survival
        self.draft_s: float | None = None
        """Seconds for a drafted token, once measured."""
        self.read_share = READ_SHARE
        """Seconds for reading tokens, in those of the target."""
        self.rate, self.window = 0.0, 1
        """Of the best plan: tokens per second, and tokens to draft."""
        self.hope = 0.0
        """The rate it may have, for all that is known."""
        self.read_until = 0
        """Tokens of the answer it has read; less than 0 where the prompt is still to be read."""
        self.is_planned = False
        """Whether the plan follows from the latest evidence and costs."""


class AutoPolicy:
    """Choose argmax over arms and windows of expected tokens / expected seconds.

    Expected tokens come from discounted evidence of every arm, idle ones included; expected
    seconds from the target's cost curve and the drafters' own costs. `plain` is an arm like any
    other. A model's draft ends before the first token whose chance to stand, that of all before
    it included, earns less than the seconds its verification adds.

    Sources: full information, HedgeSpec, arXiv 2510.20064; stopping by confidence, AdaEDL and
    SpecDec++ in spirit; costs, and evidence by margin and by length of match, ours.
    """

    def __init__(
        self, costs: RunningCosts, experience: Experience | None = None, *, window: int
    ) -> None:
        """`costs` are the target's; `window` is the widest that is asked for.

        experience: what is known of the pool; it is added to.
        """
        self._costs = costs
        self._experience = experience or Experience()
        self._window = window
        self._names: Sequence[str] = ()
        self._known: dict[str, _Arm] = {}
        self._models: list[_Arm] = []
        """Arms of this query that are models."""
        self._indexes: list[_Arm] = []
        self._verify_s: list[float] = []
        """V(n) from n = 1 on."""
        self._marginal_s: list[float] = []
        """Least seconds per token, over all longer drafts, by which one token more adds to V."""
        self._scores: dict[str, float] = {}
        self._credit_s = 0.0
        self._num_rounds = self._num_tokens = 0
        self._is_started = False

    def begin(self, arms: Sequence[str]) -> None:
        """Start a query with these arms; a little of what is known of them is carried over."""
        self._experience.begin_answer()
        self._names = [arm for arm in arms if arm != PLAIN]
        self._num_rounds = self._num_tokens = 0
        self._is_started = False

    def choose(self, offer: Callable[[str], Offer]) -> Choice:
        """Choose the most tokens per second; name the idle drafters worth evaluating."""
        one_s = self._costs.seconds(1)
        if one_s is None:
            return Choice(PLAIN, 1)
        if not self._is_started:
            # The first token is decoded plainly: nothing is known yet, and the user waits for it.
            self._start(offer, one_s)
            return Choice(PLAIN, 1, self._evaluated(PLAIN))
        is_planning = self._num_rounds % PLANNED_ROUNDS == 1
        if self._num_rounds % PRICED_ROUNDS == 1:
            self._plan_all()
        elif is_planning:
            self._plan_new()
        best: _Arm | None = None
        rate, window = 1 / self._verify_s[0], 1
        scores = {PLAIN: rate}
        for arm in self._indexes:
            length = offer(arm.name).match_length
            if length:
                scores[arm.name], width = self._plan_copy(arm, length)
                if scores[arm.name] > rate:
                    best, rate, window = arm, scores[arm.name], width
        for arm in self._models:
            scores[arm.name] = arm.rate
            if arm.hope > rate:
                charged = arm.hope / (1 + arm.hope * self._read_s(arm) / STAY_ROUNDS / arm.window)
                if charged > rate:
                    best, rate, window = arm, charged, arm.window
        self._scores = scores
        evaluated = self._evaluated(best.name if best else PLAIN) if is_planning else self._free()
        if best is None:
            return Choice(PLAIN, 1, evaluated)
        if best.has_margins:
            return Choice(best.name, self._window, evaluated, self._keeper(best, rate))
        return Choice(best.name, window, evaluated)

    def observe(self, arm: str, feedback: RoundFeedback) -> float:
        """Learn from the round, and from what idle drafters would have done; return tokens/s."""
        self._num_rounds += 1
        self._num_tokens += feedback.emitted
        self._experience.num_tokens = self._num_tokens
        seconds = max(feedback.seconds, SHORTEST_ROUND_S)
        self._credit_s += EVALUATED_SHARE * seconds
        for name, evidence in feedback.evidence.items():
            self._learn_idle(self._known[name], evidence)
        chosen = self._known.get(arm)
        if chosen is not None and not chosen.has_index and feedback.window:
            num_reached = min(feedback.accepted + 1, feedback.drafted)
            matches = [1.0] * feedback.accepted + [0.0]
            self._learn(chosen, matches[:num_reached], feedback.margins[:num_reached])
            num_draws = len(feedback.margins) or feedback.drafted
            if num_draws:
                token_s = feedback.draft_s / num_draws
                known_s = chosen.draft_s or token_s
                chosen.draft_s = known_s + COST_RATE * (token_s - known_s)
            chosen.read_until = self._num_tokens - 1
        return feedback.emitted / seconds

    def scores(self) -> Mapping[str, float]:
        """Return every arm's expected tokens per second at the last choice."""
        return self._scores

    def _start(self, offer: Callable[[str], Offer], one_s: float) -> None:
        self._models.clear()
        self._indexes.clear()
        for name in self._names:
            offered = offer(name)
            survival = self._experience.survival(
                name, "model" if offered.match_length is None else "index"
            )
            arm = self._known.setdefault(name, _Arm(name, survival))
            arm.survival = survival
            arm.read_until = self._num_tokens - offered.unread
            arm.is_planned = False
            (self._indexes if arm.has_index else self._models).append(arm)
        self._is_started = True
        self._scores = {PLAIN: 1 / one_s}
        expected_s = self._experience.expected_tokens * one_s
        # What one answer spent too much, or had left, is saved or spent in the next.
        self._credit_s = (
            min(self._credit_s, LARGEST_CREDIT * expected_s) + PRIMED_SHARE * expected_s
        )
        self._plan_all()

    def _plan_all(self) -> None:
        costs = self._costs
        one_s = costs.seconds(1) or math.inf
        self._verify_s = verify_s = [costs.seconds(n) or one_s for n in range(1, self._window + 2)]
        self._marginal_s = [
            min((verify_s[m] - verify_s[n]) / (m - n) for m in range(n + 1, self._window + 1))
            for n in range(self._window)
        ]
        for arm in self._models:
            arm.is_planned = False
        self._plan_new()

    def _plan_new(self) -> None:
        for arm in self._models:
            if not arm.is_planned:
                self._plan(arm)

    def _plan_copy(self, arm: _Arm, match_length: int) -> tuple[float, int]:
        """Return tokens per second and window of copying on from a match."""
        survival, verify_s = arm.survival, self._verify_s
        tokens = standing = 1.0
        best_rate, best_window = 0.0, 1
        for window in range(1, self._window + 1):
            standing *= survival.chance(match_length + window - 1)
            tokens += standing
            rate = tokens / verify_s[window]
            if rate > best_rate:
                best_rate, best_window = rate, window
        return best_rate, best_window

    def _plan(self, arm: _Arm) -> None:
        """Find the levels and the window that promise most.

        A draft goes on while tokens are of a level worth verifying, which each is with
        probability `kept`, and stands as long as they match.
        """
        verify_s = self._verify_s
        draft_s = arm.draft_s or DRAFT_SHARE * verify_s[0]
        arm.is_planned = True
        arm.rate, arm.window = 0.0, 1
        kept = matched = 0.0
        for chance, share in arm.survival.mix(MARGIN_SHARES):
            kept += share
            matched += share * chance
            tokens = standing = drafting = 1.0
            seconds = verify_s[0]
            for window in range(1, self._window + 1):
                seconds += drafting * draft_s
                drafting *= kept
                seconds += drafting * (verify_s[window] - verify_s[window - 1])
                standing *= matched
                tokens += standing
                if tokens > arm.rate * seconds:
                    arm.rate, arm.window = tokens / seconds, window
        arm.hope = arm.rate * (1 + HOPE / (HOPE_TOKENS + arm.survival.num_tokens))

    def _keeper(self, arm: _Arm, rate: float) -> Keeps:
        """Return what keeps a token if its chance to stand is worth the seconds it costs."""
        chance = arm.survival.chance
        marginal_s = iter(self._marginal_s)
        standing = 1.0

        def keeps(margin: float) -> bool:
            nonlocal standing
            standing *= chance(margin)
            return standing >= rate * next(marginal_s)

        return keeps

    def _learn(
        self, arm: _Arm, matches: Sequence[float], confidences: Sequence[float], share: float = 1.0
    ) -> None:
        arm.is_planned = False
        arm.survival.observe(matches, confidences or [UNKNOWN_MARGIN] * len(matches), share)

    def _learn_idle(self, arm: _Arm, evidence: Evidence) -> None:
        matches, confidences = evidence.matches, evidence.match_lengths or evidence.margins
        if arm.has_index:
            self._learn(arm, matches, confidences)
            return
        arm.has_margins = arm.has_margins or bool(evidence.margins)
        num_read = min(max(self._num_tokens - arm.read_until, 1), LONGEST_EVALUATION)
        target_s = self._costs.seconds(num_read) or 1.0
        # The first calls of a model take far longer than those that follow.
        seconds = min(evidence.seconds, MOST_CHANGE * arm.read_share * target_s)
        arm.read_share += COST_RATE * (seconds / target_s - arm.read_share)
        num_prompt = len(matches) - self._num_tokens + max(arm.read_until, 0)
        if num_prompt > 0:
            self._learn(arm, matches[:num_prompt], confidences[:num_prompt], PROMPT_SHARE)
            matches, confidences = matches[num_prompt:], confidences[num_prompt:]
        self._learn(arm, matches, confidences)
        arm.read_until = self._num_tokens - 1
        self._credit_s -= seconds

    def _read_s(self, arm: _Arm) -> float:
        """Return the seconds an arm needs to read what it missed: batched as the target's are."""
        num_unread = min(self._num_tokens - arm.read_until - 1, LONGEST_EVALUATION)
        return arm.read_share * (self._costs.seconds(num_unread) or 0.0) if num_unread > 1 else 0.0

    def _free(self) -> list[str]:
        return [arm.name for arm in self._indexes]

    def _evaluated(self, chosen: str) -> list[str]:
        evaluated = self._free()
        left_s = self._credit_s
        stale = [
            arm
            for arm in self._models
            if arm.name != chosen and self._num_tokens - arm.read_until > FEWEST_UNREAD
        ]
        # Whoever has waited longest: those that cost less would leave nothing for the others.
        stale.sort(key=lambda arm: (arm.read_until, -arm.rate))
        for arm in stale:
            left_s -= self._read_s(arm)
            if left_s < 0.0:
                break
            evaluated.append(arm.name)
        return evaluated
