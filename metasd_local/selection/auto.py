"""`auto`: the arm and window with the most tokens per second, from what every arm would do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from metasd_local.costs import RunningCosts
from metasd_local.protocols import (
    LONGEST_EVALUATION,
    PLAIN,
    Arms,
    Choice,
    Evidence,
    Keeps,
    RoundFeedback,
)
from metasd_local.selection.experience import Experience
from metasd_local.selection.prospect import MOST_CHANGE, Prospect, marginal_costs, possible_gain
from metasd_local.selection.survival import Kind

STAY_ROUNDS = 4.0
"""Rounds over which the cost of reading what was missed is spread."""
EVALUATED_SHARE, NOVEL_SHARE = 0.008, 0.1
"""Share of the decoding time that may be spent on evaluating idle drafters; while one is novel, of
what could be gained with drafts."""
PRIMED_SHARE = 0.004
"""The same at the beginning of an answer, in advance, of the time it is expected to take."""
LARGEST_CREDIT = 0.05
"""Most that is left for the next answer, in those of an expected answer."""
FEWEST_UNREAD = 24
"""Tokens that make an evaluation worth its fixed cost."""
PROMPT_SHARE = 0.1
"""What a token of the prompt tells, in tokens of the answer."""
PLANNED_ROUNDS, PRICED_ROUNDS = 3, 15
"""Rounds between two looks at plans and idle drafters, and at the target's costs."""
SAME_COST = 0.03
"""Changes of the target's costs, in those for one token, that change no plan."""
RECENT = 0.97
"""What a round counts for once the next one is there, in the rate that is reached."""
SHORTEST_ROUND_S = 1e-9


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
        self._known: dict[str, Prospect] = {}
        self._models: list[Prospect] = []
        """Arms of this query that are models."""
        self._indexes: list[Prospect] = []
        self._one_s = 1.0
        """V(1)."""
        self._verify: list[float] = []
        """V(n) / V(1) from n = 1 on."""
        self._marginal: dict[int, list[float]] = {}
        """`marginal_costs` by the length of the last draft."""
        self._last_length = 0
        self._recent_tokens = self._recent_s = 0.0
        """Of the last rounds, older ones counting less."""
        self._scores: dict[str, float] = {}
        self._favourite: tuple[Prospect | None, float] = None, 1.0
        """The model that promises most, and its rate, unless `plain` promises more."""
        self._credit_s, self._evaluated_share = 0.0, EVALUATED_SHARE
        self._num_rounds = self._num_tokens = 0
        self._is_started = False

    def begin(self, arms: Sequence[str]) -> None:
        """Start a query with these arms; a little of what is known of them is carried over."""
        self._experience.begin_answer()
        self._names = [arm for arm in arms if arm != PLAIN]
        self._num_rounds = self._num_tokens = 0
        self._is_started = False

    def choose(self, arms: Arms) -> Choice:
        """Choose the most tokens per second, once the idle drafters worth it were evaluated."""
        one_s = self._costs.seconds(1)
        if one_s is None:
            return Choice(PLAIN, 1)
        if not self._is_started:
            # The first token is decoded plainly: nothing is known yet, and the user waits for it.
            self._start(arms, one_s)
            return Choice(PLAIN, 1)
        if self._num_rounds % PRICED_ROUNDS == 1:
            self._price()
        if self._num_rounds % PLANNED_ROUNDS == 1:
            self._evaluate(arms)
            self._plan()
        best, rate = self._favourite
        window = best.window if best else 1
        for arm in self._indexes:
            length = arms.offer(arm.name).match_length
            if length:
                copying, width = arm.plan_copy(self._verify, length)
                self._scores = {**self._scores, arm.name: copying / self._one_s}
                if copying > rate:
                    best, rate, window = arm, copying, width
        if best is None:
            return Choice(PLAIN, 1)
        if best.has_margins:
            return Choice(best.name, self._window, self._keeper(best))
        return Choice(best.name, window)

    def observe(self, arm: str, feedback: RoundFeedback) -> float:
        """Learn from the round; return tokens per second."""
        self._num_rounds += 1
        self._num_tokens += feedback.emitted
        self._experience.num_tokens = self._num_tokens
        seconds = max(feedback.seconds, SHORTEST_ROUND_S)
        self._recent_tokens = RECENT * self._recent_tokens + feedback.emitted
        self._recent_s = RECENT * self._recent_s + seconds
        self._last_length = feedback.drafted
        self._credit_s += self._evaluated_share * seconds
        chosen = self._known.get(arm)
        if chosen is not None and not chosen.has_index and feedback.window:
            num_reached = min(feedback.accepted + 1, feedback.drafted)
            matches = [1.0] * feedback.accepted + [0.0]
            chosen.note(matches[:num_reached], feedback.margins[:num_reached])
            num_draws = len(feedback.margins) or feedback.drafted
            if num_draws:
                target_s = self._costs.seconds(1) or seconds
                chosen.draft_cost.observe(feedback.draft_s / num_draws / target_s)
            chosen.read_until = self._num_tokens - 1
        return feedback.emitted / seconds

    def scores(self) -> Mapping[str, float]:
        """Return every arm's expected tokens per second at the last choice."""
        return self._scores

    def _start(self, arms: Arms, one_s: float) -> None:
        self._models.clear()
        self._indexes.clear()
        for name in self._names:
            offered = arms.offer(name)
            if name not in self._known:
                kind: Kind = "model" if offered.match_length is None else "index"
                self._known[name] = Prospect(name, self._experience.survival(name, kind))
            arm = self._known[name]
            arm.begin_answer(self._num_tokens - offered.unread)
            (self._indexes if arm.has_index else self._models).append(arm)
        self._is_started, self._num_rounds = True, 0
        self._scores, self._favourite = {PLAIN: 1 / one_s}, (None, 1.0)
        expected_s = self._experience.expected_tokens * one_s
        # What one answer spent too much, or had left, is saved or spent in the next.
        self._credit_s = (
            min(self._credit_s, LARGEST_CREDIT * expected_s) + PRIMED_SHARE * expected_s
        )

    def _price(self) -> None:
        """Look at what evaluations and verifications may cost; other proportions, other plans."""
        costs = self._costs
        self._one_s = costs.seconds(1) or math.inf
        verify = [(costs.seconds(n) or 0.0) / self._one_s for n in range(1, self._window + 2)]
        self._marginal.clear()
        known = self._verify or [math.inf]
        if max(abs(new / old - 1) for new, old in zip(verify, known, strict=False)) > SAME_COST:
            self._verify = verify
            for arm in self._known.values():
                arm.is_planned = False
        self._evaluated_share = EVALUATED_SHARE
        if any(arm.is_novel for arm in self._models):
            gain = NOVEL_SHARE * possible_gain(self._verify)
            self._evaluated_share = max(gain, EVALUATED_SHARE)

    def _plan(self) -> None:
        """Look at the arms with new evidence, and find the favourite."""
        scores = {PLAIN: 1 / self._one_s}
        favourite, rate = None, 1.0
        for arm in self._indexes:
            arm.learn()
        for arm in self._models:
            arm.learn()
            if not arm.is_planned:
                arm.plan(self._verify)
            scores[arm.name] = arm.rate / self._one_s
            if arm.hope > rate:
                catch_up = self._read_s(arm) / self._one_s / STAY_ROUNDS / arm.window
                charged = arm.hope / (1 + arm.hope * catch_up)
                if charged > rate:
                    favourite, rate = arm, charged
        self._scores, self._favourite = scores, (favourite, rate)

    def _keeper(self, arm: Prospect) -> Keeps:
        """Return what keeps a token if its chance to stand is worth what verifying it costs."""
        chance = arm.survival.chance
        last = self._last_length
        if last not in self._marginal:
            change = self._costs.change_s / self._one_s
            self._marginal[last] = marginal_costs(self._verify, last, change)
        marginal = iter(self._marginal[last])
        # What is reached, not what is hoped for: the time could be spent at no better rate.
        rate = self._recent_tokens / self._recent_s * self._one_s
        standing = 1.0

        def keeps(margin: float) -> bool:
            nonlocal standing
            standing *= chance(margin)
            return standing >= rate * next(marginal)

        return keeps

    def _evaluate(self, arms: Arms) -> None:
        """Ask all indexes, and the models that wait, as far as the credit reaches."""
        for arm in self._indexes:
            evidence = arms.evaluate(arm.name)
            arm.note(evidence.matches, evidence.match_lengths)
        left_s = self._credit_s
        stale = [arm for arm in self._models if self._num_tokens - arm.read_until > FEWEST_UNREAD]
        # Whoever has waited longest: those that cost less would leave nothing for the others.
        stale.sort(key=lambda arm: (arm.read_until, -arm.rate))
        for arm in stale:
            left_s -= self._read_s(arm)
            if left_s < 0.0:
                break
            self._learn_idle(arm, arms.evaluate(arm.name))

    def _learn_idle(self, arm: Prospect, evidence: Evidence) -> None:
        matches, confidences = evidence.matches, evidence.margins
        arm.has_margins = arm.has_margins or bool(evidence.margins)
        num_read = min(max(self._num_tokens - arm.read_until, 1), LONGEST_EVALUATION)
        target_s = self._costs.seconds(num_read) or 1.0
        arm.is_evaluated = True
        arm.read_cost.observe(evidence.seconds / target_s)
        num_prompt = len(matches) - self._num_tokens + max(arm.read_until, 0)
        if num_prompt > 0:
            arm.learn_prompt(matches[:num_prompt], confidences[:num_prompt], PROMPT_SHARE)
            matches, confidences = matches[num_prompt:], confidences[num_prompt:]
        arm.note(matches, confidences)
        arm.read_until = self._num_tokens - 1
        # No more than it will usually take: one slow call must not end all evaluation.
        self._credit_s -= min(evidence.seconds, MOST_CHANGE * arm.read_cost.mean * target_s)

    def _read_s(self, arm: Prospect) -> float:
        """Return the seconds an arm needs to read what it missed: batched as the target's are."""
        num_unread = min(self._num_tokens - arm.read_until - 1, LONGEST_EVALUATION)
        if num_unread <= 1:
            return 0.0
        return arm.read_cost.mean * (self._costs.seconds(num_unread) or 0.0)
