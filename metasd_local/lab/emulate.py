"""Emulated acceptance on real compute: what the models say is computed, then ignored.

Real: every decode call of target and drafters, catch-up, rewinding, the engine, the policy and
what the scheme does with each logits row it would look at, BD included. Emulated: whether a
drafter's token is right, one draw per (prompt, drafter, position), made before the answer and
shared by all policies. Not paid: the n-gram index, and making text of tokens. The context is
random tokens, so experts of a mixture are chosen as by no text.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from metasd_local.bench.prompts import Prompt
from metasd_local.costs import RunningCosts
from metasd_local.drafters.model import EVALUATED_ROWS
from metasd_local.engine import Engine
from metasd_local.errors import Cancelled, UsageError
from metasd_local.events import Event, FinishReason, GenerationDone, PromptRead, RoundDone
from metasd_local.interrupt import Interrupt
from metasd_local.lab.answers import EmulatedAnswer, draw_answer
from metasd_local.lab.decided import EmulatedModelDrafter, EmulatedNgramDrafter, EmulatedScheme
from metasd_local.lab.profile import Profile
from metasd_local.protocols import Drafter, Scheme, TokenModel
from metasd_local.selection.factory import ChosenPolicy, choose_policy
from metasd_local.stopwatch import Stopwatch


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
        inside: Stopwatch | None = None,
        costs: RunningCosts | None = None,
        watch: Callable[[int, float], str | None] = lambda *_: None,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.prompt_tokens: Sequence[int] = ()
        self._profile = profile
        self._target = target
        self._models = {name: models[name] for name in profile.drafters}
        self._scheme = scheme
        self._interrupt = interrupt
        self._inside = inside
        self._costs = costs
        self._watch = watch
        self._seed = seed
        self._clock = clock

    @property
    def label(self) -> str:
        """Return what every table of these figures must say."""
        return f"emulated acceptance, profile {self._profile.name}"

    @property
    def arms(self) -> Sequence[str]:
        """Return the names of the drafters."""
        return self._profile.arms

    def make_policy(self, text: str, seed: int = 0) -> ChosenPolicy:
        """Return the policy typed as `text`; raise UsageError if it cannot be."""
        chosen = choose_policy(text, seed=seed, costs=self._costs)
        chosen.check_arm(self.arms)
        return chosen

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

    def _make_engine(self, policy: str, answer: EmulatedAnswer) -> Engine:
        # Every prompt has its own, so that a random policy does not repeat itself on all of them.
        policy_seed = sum(answer.prompt) + self._seed
        chosen = self.make_policy(policy, policy_seed)
        scheme = EmulatedScheme(self._scheme, answer)
        size = self._target.vocab_size
        drafters: list[Drafter] = [
            *(
                EmulatedModelDrafter(name, model, scheme, target_vocab_size=size)
                for name, model in self._models.items()
            ),
        ]
        if self._profile.has_ngram:
            drafters.append(EmulatedNgramDrafter(scheme))
        return Engine(
            target=self._target,
            drafters=drafters,
            policy=chosen.policy,
            scheme=scheme,
            num_expected=EVALUATED_ROWS if chosen.is_informed else 0,
            interrupt=self._interrupt,
            inside=self._inside,
            watch=self._watch,
            clock=self._clock,
        )
