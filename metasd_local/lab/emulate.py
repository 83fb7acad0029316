"""Emulated acceptance on real compute: what the models say is computed, then ignored.

Real: every decode call of target and drafters, catch-up, rewinding, the engine, the policy and
what the scheme does with each logits row it would look at, BD included. Emulated: whether a
drafter's token is right, one draw per (prompt, drafter, position), made before the answer and
shared by all policies. Not paid: the n-gram index, and making text of tokens. The context is
random tokens, so experts of a mixture are chosen as by no text.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from metasd_local.bench.prompts import Prompt
from metasd_local.costs import RunningCosts
from metasd_local.drafters.model import EVALUATED_ROWS, ModelDrafter
from metasd_local.drafters.none import NoDrafter
from metasd_local.engine import Engine
from metasd_local.errors import Cancelled, UsageError
from metasd_local.events import Event, FinishReason, GenerationDone, PromptRead, RoundDone
from metasd_local.interrupt import Interrupt
from metasd_local.lab.fates import NUM_PSEUDO_POSITIONS, EmulatedAnswer, draw_answer
from metasd_local.lab.profile import Profile
from metasd_local.protocols import (
    NGRAM,
    PLAIN,
    Draft,
    Drafter,
    Evidence,
    Keeps,
    Logits,
    Offer,
    Policy,
    Probabilities,
    Scheme,
    TokenModel,
    Verdict,
)
from metasd_local.selection.factory import is_informed, make_policy, policy_window
from metasd_local.selection.specification import parse_policy

_NO_DRAFT = Draft(tokens=(), is_point_mass=True)


class EmulatedScheme:
    """Do the work of a real scheme, then judge drafts by what was decided beforehand.

    Every row the real scheme would read is given to it as a row of its own, so that what it pays
    per token is paid: with `Greedy` the likeliest token of each row, on both sides.
    """

    def __init__(self, real: Scheme, answer: EmulatedAnswer) -> None:
        self._real = real
        self._answer = answer
        self._context: Sequence[int] = ()
        self._arm = PLAIN
        self._verified_from = 0

    def begin(self, seed: int, context: list[int]) -> None:
        """Start the answer, whose prompt is `context`."""
        self._context = context
        self._real.begin(seed, context)

    def is_drafting(self, arm: str) -> bool:
        """Take the drafts that follow as those of `arm`; tell if it has any at this position."""
        self._arm = arm
        return self._answer.fates[arm].has_draft(self._position())

    def drafted_token(self, offset: int) -> int:
        """Return the drafter's token `offset` positions after the context."""
        position = self._position() + offset
        token = self._answer.tokens[position]
        if self._answer.fates[self._arm].is_right[position + NUM_PSEUDO_POSITIONS]:
            return token
        return 0 if token else 1

    def draft(self, logits: Logits, drafted: Sequence[int]) -> int:
        """Let the real scheme draw, and return the token that was decided on."""
        self._real.draft(logits, drafted)
        return self.drafted_token(len(drafted))

    def verify(self, rows: Logits, draft: Draft) -> Verdict:
        """Accept up to the first token that is wrong."""
        self._verified_from = position = self._position()
        own_tokens = self._answer.tokens
        verify = self._real.verify
        for i, token in enumerate(draft.tokens):
            verify(rows[i : i + 1], _NO_DRAFT)
            if token != own_tokens[position + i]:
                return Verdict(i, own_tokens[position + i], "recovered")
        num_drafted = len(draft.tokens)
        verify(rows[num_drafted:], _NO_DRAFT)
        return Verdict(num_drafted, own_tokens[position + num_drafted], "bonus")

    def overlaps(self, rows: Logits, draft: Draft, num_positions: int) -> Probabilities:
        """Let the real scheme compare the laws, and return the profile's probabilities."""
        for i in range(num_positions):
            single = Draft(draft.tokens[i : i + 1], draft.is_point_mass)
            self._real.overlaps(rows[i : i + 1], single, 1)
        first = self._verified_from + NUM_PSEUDO_POSITIONS
        return self._answer.fates[self._arm].probabilities[first : first + num_positions]

    def expect(self, rows: Logits, first: int) -> None:
        """Let the real scheme note what it would."""
        self._real.expect(rows, first)

    def matches(self, rows: Logits, first: int) -> Sequence[float]:
        """Let the real scheme compare, and return what was decided."""
        self._real.matches(rows, first)
        return self.decided(self._arm, first, len(rows))

    def margins(self) -> Sequence[float]:
        """Return nothing: the profile does not say how sure a drafter is."""
        return ()

    def decided(self, arm: str, first: int, num_tokens: int) -> Sequence[float]:
        """Return for `num_tokens` positions of the context whether the drafter is right there."""
        begin = first - len(self._answer.prompt) + NUM_PSEUDO_POSITIONS
        return [float(right) for right in self._answer.fates[arm].is_right[begin:][:num_tokens]]

    def match_lengths(self, first: int, num_tokens: int) -> Sequence[int]:
        """Return how long a match prompt lookup has at `num_tokens` positions of the context."""
        begin = first - len(self._answer.prompt) + NUM_PSEUDO_POSITIONS
        return self._answer.fates[NGRAM].match_lengths[begin:][:num_tokens]

    def _position(self) -> int:
        return len(self._context) - len(self._answer.prompt)


class _EmulatedModelDrafter(ModelDrafter):
    """The real drafter; it only tells the scheme whose tokens it looks at."""

    def evaluate(self, context: Sequence[int], scheme: Scheme) -> Evidence:
        """Read all but the last token of `context` and compare what would have been drafted."""
        assert isinstance(scheme, EmulatedScheme)
        scheme.is_drafting(self.name)
        return super().evaluate(context, scheme)

    def propose(
        self, context: Sequence[int], window: int, scheme: Scheme, keeps: Keeps | None = None
    ) -> Draft:
        """Draw up to `window` tokens one by one."""
        assert isinstance(scheme, EmulatedScheme)
        scheme.is_drafting(self.name)
        return super().propose(context, window, scheme, keeps)


class _EmulatedNgramDrafter(NoDrafter):
    """Prompt lookup without an index."""

    name = NGRAM

    def __init__(self, scheme: EmulatedScheme) -> None:
        self._scheme = scheme
        self._num_seen = 0

    def begin(self, context: Sequence[int]) -> None:
        """Start after the prompt."""
        self._num_seen = len(context)

    def offer(self, context: Sequence[int]) -> Offer:
        """Tell how long the match is."""
        (match_length,) = self._scheme.match_lengths(len(context), 1) or (0,)
        return Offer(unread=0, match_length=match_length)

    def evaluate(self, context: Sequence[int], scheme: Scheme) -> Evidence:
        """Tell of the tokens emitted since the last call whether they were expected."""
        first, num_tokens = self._num_seen, len(context) - self._num_seen
        self._num_seen = len(context)
        lengths = self._scheme.match_lengths(first, num_tokens)
        decided = self._scheme.decided(NGRAM, first, num_tokens)
        matches = [
            match if length else math.nan for match, length in zip(decided, lengths, strict=True)
        ]
        return Evidence(matches, lengths)

    def propose(
        self, context: Sequence[int], window: int, scheme: Scheme, keeps: Keeps | None = None
    ) -> Draft:
        """Copy `window` tokens; none if nothing matches."""
        num_tokens = window if self._scheme.is_drafting(NGRAM) else 0
        tokens = [self._scheme.drafted_token(offset) for offset in range(num_tokens)]
        return Draft(tokens, is_point_mass=True)


def emulated_prompts(profile: Profile, num_per_domain: int) -> tuple[Prompt, ...]:
    """Return pseudo prompts: their texts only tell them apart."""
    return tuple(
        Prompt(domain, f"emulated prompt {number}")
        for number in range(1, num_per_domain + 1)
        for domain in profile.domains
    )


class Emulation:
    """Decode pseudo prompts of a profile with real models, from cold memories every time.

    models: a token model for every drafter of the profile; they may share weights.
    costs: the target's, which `watch` is told of.
    scheme: what is paid per logits row; it must take the widest window of any policy.
    window: what holds for a policy that names none.
    The same prompt has the same tokens, answer and drafts under every policy.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        target: TokenModel,
        models: Mapping[str, TokenModel],
        scheme: Scheme,
        interrupt: Interrupt,
        costs: RunningCosts | None = None,
        watch: Callable[[int, float], str | None] = lambda *_: None,
        window: int | None = None,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.prompt_tokens: Sequence[int] = ()
        self._profile = profile
        self._target = target
        self._models = {name: models[name] for name in profile.drafters}
        self._scheme = scheme
        self._interrupt = interrupt
        self._costs = costs or RunningCosts()
        self._watch = watch
        self._window = window
        self._seed = seed
        self._clock = clock

    @property
    def label(self) -> str:
        """Return what every table of these figures must say."""
        return f"emulated acceptance, profile {self._profile.name}"

    @property
    def arms(self) -> Sequence[str]:
        """Return the names of the drafters."""
        return (*self._profile.drafters, *([NGRAM] * self._profile.has_ngram))

    def make_policy(self, text: str, seed: int = 0) -> Policy:
        """Return the policy typed as `text`; raise UsageError if it cannot be."""
        specification = parse_policy(text)
        if specification.drafter not in (None, PLAIN, *self.arms):
            raise UsageError(
                f"--policy {text}: profile {self._profile.name} has no drafter "
                f"{specification.drafter!r}; expected one of {', '.join(self.arms)}"
            )
        return make_policy(
            specification, policy_window(specification, self._window), seed, self._costs
        )

    def decode(self, policy: str, prompt: Prompt, max_tokens: int) -> Iterator[Event]:
        """Yield the events of one answer of exactly `max_tokens`, if nobody interrupts it.

        Raises UsageError if the policy cannot be, or the answer does not fit into the context.
        """
        needed = self._profile.prompt_tokens + max_tokens
        if needed > self._target.context_size:
            raise UsageError(
                f"profile {self._profile.name}: prompt and answer need {needed} tokens, the "
                f"context has {self._target.context_size}; raise --ctx or lower --max-tokens"
            )
        models = (self._target, *self._models.values())
        answer = draw_answer(
            self._profile,
            prompt,
            vocab_size=min(model.vocab_size for model in models),
            num_tokens=max_tokens,
            seed=self._seed,
        )
        self.prompt_tokens = answer.prompt
        engine = self._make_engine(policy, answer)
        for model in models:
            model.rewind(0)
        started_s = self._clock()
        read_s = first_token_s = None
        inside_s = 0.0
        reason: FinishReason = "length"
        try:
            for event in engine.generate(
                answer.prompt, seed=self._seed, max_tokens=max_tokens, count_kept=lambda _: None
            ):
                if isinstance(event, PromptRead):
                    read_s, inside_s = self._clock(), engine.seconds_inside
                elif isinstance(event, RoundDone) and first_token_s is None:
                    first_token_s = self._clock() - started_s
                yield event
        except Cancelled:
            reason = "cancelled"
        yield GenerationDone(
            finish_reason=reason,
            seconds_to_first_token=first_token_s,
            seconds_decode=0.0 if read_s is None else self._clock() - read_s,
            seconds_inside=0.0 if read_s is None else engine.seconds_inside - inside_s,
        )

    def _make_engine(self, policy_text: str, answer: EmulatedAnswer) -> Engine:
        # Every prompt has its own, so that a random policy does not repeat itself on all of them.
        policy_seed = sum(answer.prompt) + self._seed
        policy = self.make_policy(policy_text, policy_seed)
        specification = parse_policy(policy_text)
        scheme = EmulatedScheme(self._scheme, answer)
        drafters: list[Drafter] = [NoDrafter()]
        for name, model in self._models.items():
            drafters.append(
                _EmulatedModelDrafter(
                    name,
                    model,
                    target_vocab_size=self._target.vocab_size,
                    max_rows=EVALUATED_ROWS,
                )
            )
        if self._profile.has_ngram:
            drafters.append(_EmulatedNgramDrafter(scheme))
        return Engine(
            target=self._target,
            drafters=drafters,
            policy=policy,
            scheme=scheme,
            num_expected=EVALUATED_ROWS if is_informed(specification) else 0,
            interrupt=self._interrupt,
            watch=self._watch,
            clock=self._clock,
        )
