"""The round: choose, catch up, propose, verify, rewind, observe.

Knows token ids only: no text, no template, no files. Losslessness rests on the scheme alone;
whatever a policy or a drafter does here changes speed and nothing else.

Invariant between rounds: the target's memory holds all but the last token of the context.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import NamedTuple

from metasd_local.errors import BackendError, Cancelled
from metasd_local.events import Notice, PromptRead, RoundDone
from metasd_local.interrupt import Interrupt
from metasd_local.protocols import (
    NO_EVIDENCE,
    PLAIN,
    Choice,
    Draft,
    Drafter,
    Evidence,
    Offer,
    Policy,
    RoundFeedback,
    Scheme,
    TokenModel,
    Verdict,
)
from metasd_local.stopwatch import Stopwatch

logger = logging.getLogger(__name__)

_NO_DRAFT = Draft(tokens=(), is_point_mass=True)

CountKept = Callable[[Sequence[int]], int | None]
"""Tell how many of a round's emitted tokens count if the generation ends among them, else None."""


class _Proposal(NamedTuple):
    arm: str
    window: int
    draft: Draft
    catch_up_s: float
    draft_s: float
    drafted_s: float
    """When the draft was there."""


class _Asked:
    """What a policy asks of the drafters of one generation, and what the answers took."""

    def __init__(
        self,
        drafters: Mapping[str, Drafter],
        context: Sequence[int],
        scheme: Scheme,
        failures: dict[str, BackendError],
        clock: Callable[[], float],
    ) -> None:
        """`drafters` and `context` are followed as they change; `failures` is added to."""
        self._drafters = drafters
        self._context = context
        self._scheme = scheme
        self._failures = failures
        self._clock = clock
        self.evaluate_s = 0.0
        """Seconds of all evaluations since it was last set."""

    def offer(self, arm: str) -> Offer:
        """Tell what an arm has; costs nothing."""
        return self._drafters[arm].offer(self._context)

    def evaluate(self, arm: str) -> Evidence:
        """Let an arm read what it has not, and tell what it would have done there."""
        evidence, begun_s = NO_EVIDENCE, self._clock()
        try:
            evidence = self._drafters[arm].evaluate(self._context, self._scheme)
        except BackendError as error:
            self._failures[arm] = error
        seconds = self._clock() - begun_s
        self.evaluate_s += seconds
        return evidence._replace(seconds=seconds)


class Engine:
    """Decode with one target, any number of drafters and the policy that chooses among them.

    The arms are `plain`, which drafts nothing, and the drafters. A drafter that fails is dropped
    for good, with a Notice; a target that fails raises. Every drafter learns every emitted token.
    inside: of target and drafters; None: they spend no time inside a library.
    num_expected: at the end of a prompt, positions at which the scheme is told what the target
    would have said, for evaluations to compare with.
    watch: told number of tokens and seconds of every verification; may return a Notice's text.
    """

    def __init__(
        self,
        *,
        target: TokenModel,
        drafters: Sequence[Drafter],
        policy: Policy,
        scheme: Scheme,
        interrupt: Interrupt,
        inside: Stopwatch | None = None,
        num_expected: int = 0,
        watch: Callable[[int, float], str | None] = lambda *_: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._target = target
        self._drafters = {drafter.name: drafter for drafter in drafters}
        assert PLAIN not in self._drafters
        self._policy = policy
        self._scheme = scheme
        self._interrupt = interrupt
        self._inside = inside or Stopwatch()
        self._num_expected = num_expected
        self._watch = watch
        self._clock = clock

    @property
    def arms(self) -> Sequence[str]:
        """Return `plain` and the names of the drafters still in use."""
        return PLAIN, *self._drafters

    @property
    def context_size(self) -> int:
        """Return the most tokens prompt and answer may have together."""
        return self._target.context_size

    @property
    def seconds_inside(self) -> float:
        """Return the seconds spent inside the models' library so far, dropped drafters' too."""
        return self._inside.seconds

    def forget(self) -> None:
        """Empty the memories of target and drafters: the next generation starts cold."""
        self._target.rewind(0)
        for drafter in self._drafters.values():
            drafter.begin(())

    def generate(
        self, prompt: Sequence[int], *, seed: int, max_tokens: int, count_kept: CountKept
    ) -> Generator[PromptRead | RoundDone | Notice]:
        """Yield PromptRead and then a RoundDone for every round until the generation ends.

        It ends when `count_kept` says so, after `max_tokens` tokens, or when the context is full.
        `prompt` has at least one token. Raises Cancelled between rounds and inside the models;
        the models then hold what the next generation can continue from.
        """
        context = list(prompt)
        failures: dict[str, BackendError] = {}
        asked = _Asked(self._drafters, context, self._scheme, failures, self._clock)
        self._scheme.begin(seed, context)
        yield self._read_prompt(context)
        for name, drafter in self._drafters.items():
            try:
                drafter.begin(context)
            except BackendError as error:
                failures[name] = error
        yield from self._begin_policy(failures)
        num_left = min(max_tokens, self._target.context_size - len(context) + 1)
        index = 0
        while num_left > 0:
            if self._interrupt.is_set:
                raise Cancelled("the generation was stopped")
            started_s, inside_s = self._clock(), self._inside.seconds
            choice = self._policy.choose(asked)
            scores = self._policy.scores()
            if not failures:
                try:
                    proposal = self._propose(choice, context, num_left)
                except BackendError as error:
                    failures[choice.arm] = error
            if failures:
                yield from self._begin_policy(failures)
                continue
            verdict, emitted, feedback = self._verify(proposal, context)
            num_kept = count_kept(emitted)
            if num_kept is not None:
                del emitted[num_kept:]
            context += emitted
            num_left -= len(emitted)
            self._target.rewind(min(self._target.length, len(context) - 1))
            for name, drafter in self._drafters.items():
                try:
                    drafter.observe(emitted)
                except BackendError as error:
                    failures[name] = error
            # The end of the answer may have left the drafter no room to show itself.
            has_shown = proposal.window or proposal.arm == PLAIN
            reward = self._policy.observe(proposal.arm, feedback) if has_shown else 0.0
            finished_s = self._clock()
            yield RoundDone(
                index=index,
                arm=choice.arm,
                window=proposal.window,
                drafted=feedback.drafted,
                accepted=min(verdict.accepted, len(emitted)),
                emitted=tuple(emitted),
                next_kind=verdict.next_kind if len(emitted) > verdict.accepted else None,
                catch_up_s=proposal.catch_up_s,
                draft_s=proposal.draft_s,
                verify_s=feedback.verify_s,
                evaluate_s=asked.evaluate_s,
                own_s=finished_s - started_s - (self._inside.seconds - inside_s),
                reward=reward,
                scores=scores,
            )
            asked.evaluate_s = 0.0
            notice = self._watch(feedback.drafted + 1, feedback.verify_s)
            if notice is not None:
                yield Notice(notice)
            if failures:
                yield from self._begin_policy(failures)
            if num_kept is not None:
                return
            index += 1

    def _read_prompt(self, context: Sequence[int]) -> PromptRead:
        started_s = self._clock()
        num_reused = self._target.keep_prefix(context[:-1])
        unread = context[num_reused:-1]
        if unread:
            num_rows = min(self._num_expected, len(unread))
            rows = self._target.feed(unread, num_rows)
            if num_rows:
                self._scheme.expect(rows, len(context) - num_rows)
        return PromptRead(len(context), num_reused, self._clock() - started_s)

    def _propose(self, choice: Choice, context: Sequence[int], num_left: int) -> _Proposal:
        """Ask for no more than fits: a full acceptance emits one token beyond the draft."""
        num_free = self._target.context_size - len(context)
        window = min(choice.window, num_left - 1, num_free) if choice.arm != PLAIN else 0
        started_s = self._clock()
        if window < 1:
            return _Proposal(choice.arm, 0, _NO_DRAFT, 0.0, 0.0, started_s)
        drafter = self._drafters[choice.arm]
        drafter.catch_up(context)
        caught_up_s = self._clock()
        draft = drafter.propose(context, window, self._scheme, choice.keeps)
        drafted_s = self._clock()
        return _Proposal(
            choice.arm, window, draft, caught_up_s - started_s, drafted_s - caught_up_s, drafted_s
        )

    def _verify(
        self, proposal: _Proposal, context: Sequence[int]
    ) -> tuple[Verdict, list[int], RoundFeedback]:
        draft = proposal.draft
        num_drafted = len(draft.tokens)
        rows = self._target.feed([context[-1], *draft.tokens], num_drafted + 1)
        verdict = self._scheme.verify(rows, draft)
        emitted = [*draft.tokens[: verdict.accepted], verdict.next_token]
        num_reached = min(verdict.accepted + 1, num_drafted)
        feedback = RoundFeedback(
            window=proposal.window,
            drafted=num_drafted,
            accepted=verdict.accepted,
            emitted=len(emitted),
            catch_up_s=proposal.catch_up_s,
            draft_s=proposal.draft_s,
            verify_s=self._clock() - proposal.drafted_s,
            margins=draft.margins,
            overlaps=lambda: self._scheme.overlaps(rows, draft, num_reached),
        )
        return verdict, emitted, feedback

    def _begin_policy(self, failures: dict[str, BackendError]) -> Iterator[Notice]:
        """Drop the drafters that failed, empty `failures`, and let the policy start anew."""
        for name, error in failures.items():
            del self._drafters[name]
            logger.info("drafter %s dropped: %s", name, error)
            yield Notice(f"drafter {name} failed and is no longer used: {error}", dropped=name)
        failures.clear()
        self._policy.begin(self.arms)
