"""What idle drafters would have done: right under every scheme, and without effect on the text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from metasd_local.backend.scripted import ScriptedModel
from metasd_local.drafters.model import ModelDrafter
from metasd_local.engine import Engine
from metasd_local.events import Notice, RoundDone
from metasd_local.interrupt import Interrupt
from metasd_local.protocols import (
    PLAIN,
    Arms,
    Choice,
    Draft,
    Logits,
    RoundFeedback,
    Scheme,
    Verdict,
)
from metasd_local.sampling import SamplerChain, SamplerSettings
from metasd_local.verify import Chance, Coupled, Greedy, Match, Rejection, seeded_chance
from tests.enumeration import (
    MAX_WINDOW,
    PROMPT,
    SETTINGS,
    VOCAB_SIZE,
    Branches,
    Rule,
    ScriptedSampler,
    error_of,
    near_drafter,
    softmax,
    target,
)


def far(tokens: tuple[int, ...]) -> Logits:
    """Return logits that have nothing to do with the target's."""
    own = np.random.default_rng([4, *tokens]).normal(size=VOCAB_SIZE) * 1.5
    return own.astype(np.float32)


RULES: Mapping[str, Rule] = {"near": near_drafter, "far": far}
LONG_PROMPT = (2, 0, 1, 1, 0, 2, 1, 0, 0, 1)


class Asking:
    """Choose given arms in turn; evaluate the others after every `every`-th round and note it."""

    def __init__(self, arms: Sequence[str], *, every: int, window: int = MAX_WINDOW) -> None:
        self._turn = arms
        self._every = every
        self._window = window
        self._num_rounds = 0
        self._num_emitted = 0
        self._idle: Sequence[str] = ()
        self.noted: dict[tuple[str, int], float] = {}
        """By arm and position after the prompt's end; negative inside the prompt."""

    def begin(self, arms: Sequence[str]) -> None:
        self._arms = [arm for arm in arms if arm != PLAIN]
        self._idle = ()

    def choose(self, arms: Arms) -> Choice:
        for name in self._idle:
            evidence = arms.evaluate(name)
            first = self._num_emitted - len(evidence.matches)
            for position, match in enumerate(evidence.matches, first):
                assert (name, position) not in self.noted, "no position is told twice"
                self.noted[name, position] = match
        self._num_rounds += 1
        arm = self._turn[self._num_rounds % len(self._turn)]
        is_time = self._every and self._num_rounds % self._every == 0
        self._idle = [other for other in self._arms if other != arm] if is_time else ()
        return Choice(arm, self._window)

    def observe(self, arm: str, feedback: RoundFeedback) -> float:
        assert len(feedback.overlaps()) == min(feedback.accepted + 1, feedback.drafted)
        self._num_emitted += feedback.emitted
        return 0.0

    def scores(self) -> Mapping[str, float]:
        return {}


def make_match(settings: SamplerSettings) -> Scheme:
    class Seeded(ScriptedSampler):
        def begin(self, seed: int, context: Sequence[int]) -> None:
            super().begin(seed, context)
            self._chance = seeded_chance(seed)

    return Match(Seeded(settings, seeded_chance(0)), settings, VOCAB_SIZE)


MAKERS: Mapping[str, Callable[[SamplerSettings], Scheme]] = {
    "greedy": lambda settings: Greedy(settings, VOCAB_SIZE, MAX_WINDOW),
    "coupled": lambda settings: Coupled(settings, VOCAB_SIZE, MAX_WINDOW),
    "match": make_match,
    "rejection": lambda settings: Rejection(settings, VOCAB_SIZE, MAX_WINDOW),
}


def generate(
    policy: Asking,
    scheme: Scheme,
    *,
    seed: int = 0,
    num_tokens: int = 30,
    prompt: Sequence[int] = PROMPT,
    num_expected: int = 0,
    max_rows: int = 40,
    fails_at: int | None = None,
) -> tuple[list[int], list[ScriptedModel], list[Notice]]:
    models = [
        ScriptedModel(near_drafter, vocab_size=VOCAB_SIZE, fails_at=fails_at),
        ScriptedModel(far, vocab_size=VOCAB_SIZE),
    ]
    drafters = [
        ModelDrafter(name, model, target_vocab_size=VOCAB_SIZE, max_rows=max_rows)
        for name, model in zip(RULES, models, strict=True)
    ]
    engine = Engine(
        target=ScriptedModel(target, vocab_size=VOCAB_SIZE),
        drafters=drafters,
        policy=policy,
        scheme=scheme,
        interrupt=Interrupt(),
        num_expected=num_expected,
    )
    events = list(
        engine.generate(prompt, seed=seed, max_tokens=num_tokens, count_kept=lambda _: None)
    )
    tokens = [t for event in events if isinstance(event, RoundDone) for t in event.emitted]
    return tokens, models, [event for event in events if isinstance(event, Notice)]


def drafted_by(rule: Rule, make: Callable[[], Scheme], seed: int, context: Sequence[int]) -> int:
    """Return the token a drafter proposes after a context, asked for nothing but that."""
    scheme = make()
    scheme.begin(seed, list(context))
    return scheme.draft(rule(tuple(context)), ())


@pytest.mark.parametrize("scheme", ["greedy", "coupled", "match"])
@pytest.mark.parametrize("settings", ["untruncated", "penalised and truncated"])
@pytest.mark.parametrize("every", [1, 3])
def test_a_match_is_the_token_the_drafter_would_have_drafted(
    scheme: str, settings: str, every: int
) -> None:
    """Whoever drafts, every position told of agrees with asking the drafter there afresh."""

    def make() -> Scheme:
        return MAKERS[scheme](SETTINGS[settings])

    found: list[float] = []
    for seed in range(4):
        policy = Asking([PLAIN, "near"], every=every)
        tokens, _, _ = generate(policy, make(), seed=seed)
        text = [*PROMPT, *tokens]
        known = {key: match for key, match in policy.noted.items() if key[1] >= 0}
        for (name, index), match in known.items():
            position = len(PROMPT) + index
            drafted = drafted_by(RULES[name], make, seed, text[:position])
            assert match == float(drafted == text[position])
        found += known.values()
    assert {0.0, 1.0} == set(found)
    assert len(found) > 60


def law(rule: Rule, settings: SamplerSettings, context: Sequence[int]) -> NDArray[np.float64]:
    """Return the probabilities of all tokens after the sampler chain."""
    survivors = SamplerChain(settings, VOCAB_SIZE).survivors(rule(tuple(context)), context, ())
    probabilities = np.zeros(VOCAB_SIZE)
    probabilities[survivors.token_ids] = survivors.probabilities
    return probabilities


@pytest.mark.parametrize("arm", [PLAIN, "near"])
@pytest.mark.parametrize("name", ["untruncated", "penalised and truncated"])
def test_under_rejection_the_mean_match_of_a_position_is_one_minus_tv(name: str, arm: str) -> None:
    """Over every outcome of every draw, whoever drafted the token that was emitted."""
    settings, branches, policies = SETTINGS[name], Branches(), list[Asking]()
    scheme = Rejection(settings, VOCAB_SIZE, MAX_WINDOW, lambda _: branches.chance)

    def run() -> tuple[int, ...]:
        policies.append(Asking([arm], every=1, window=1))
        return tuple(generate(policies[-1], scheme, num_tokens=4)[0])

    means = np.zeros(2)
    for _, weight in branches.replay(run):
        policy = policies.pop()
        means += weight * np.array([policy.noted["far", index] for index in range(2)])

    def overlap(*emitted: int) -> float:
        laws = [law(rule, settings, (*PROMPT, *emitted)) for rule in (target, far)]
        return float(np.minimum(*laws).sum())

    first = law(target, settings, PROMPT)
    second = sum(share * overlap(token) for token, share in enumerate(first.tolist()))
    assert means == pytest.approx([overlap(), second], abs=1e-12)


@pytest.mark.parametrize("scheme", MAKERS)
def test_inside_the_prompt_drafters_are_compared_with_what_the_target_would_have_said(
    scheme: str,
) -> None:
    """At the noted positions; of those before nothing is known."""
    settings = SETTINGS["untruncated"]
    policy = Asking([PLAIN], every=1)
    generate(policy, MAKERS[scheme](settings), seed=5, prompt=LONG_PROMPT, num_expected=6)
    for arm, rule in RULES.items():
        for position in range(1, len(LONG_PROMPT)):
            context = LONG_PROMPT[:position]
            match = policy.noted[arm, position - len(LONG_PROMPT)]
            if position < len(LONG_PROMPT) - 6:
                assert math.isnan(match)
            elif scheme == "rejection":
                laws = [law(each, settings, context) for each in (target, rule)]
                assert match == pytest.approx(np.minimum(*laws).sum())
            else:
                said, drafted = (
                    drafted_by(each, lambda: MAKERS[scheme](settings), 5, context)
                    for each in (target, rule)
                )
                assert match == float(said == drafted)


@pytest.mark.parametrize("scheme", MAKERS)
@pytest.mark.parametrize("settings", ["untruncated", "penalised and truncated"])
def test_evaluations_change_no_token(scheme: str, settings: str) -> None:
    texts = set()
    for seed in range(5):
        without, with_them = (
            generate(
                Asking([PLAIN, "near", "far"], every=every),
                MAKERS[scheme](SETTINGS[settings]),
                seed=seed,
            )[0]
            for every in (0, 1)
        )
        assert without == with_them
        texts.add(tuple(without))
    assert scheme == "greedy" or len(texts) > 1


def test_an_evaluation_reads_every_token_once_and_looks_at_the_last_ones() -> None:
    """What was read is not read again; older tokens than there are rows for stay unknown."""
    policy = Asking([PLAIN], every=7)
    tokens, models, _ = generate(policy, MAKERS["coupled"](SETTINGS["untruncated"]), max_rows=4)
    for arm, model in zip(RULES, models, strict=True):
        told = [index for name, index in policy.noted if name == arm]
        assert told == [index for index in range(28) if index % 7 in (3, 4, 5, 6)]
        assert model.fed_tokens == len(PROMPT) + 28 - 1
    assert len(tokens) == 30


def test_a_drafter_that_fails_in_an_evaluation_is_dropped_and_the_text_goes_on() -> None:
    scheme = MAKERS["coupled"](SETTINGS["untruncated"])
    undisturbed, _, _ = generate(Asking([PLAIN], every=0), scheme)
    tokens, _, notices = generate(Asking([PLAIN], every=1), scheme, fails_at=9)
    assert tokens == undisturbed
    assert ["near" in notice.text for notice in notices] == [True]


def drop_unlikely(context: Sequence[int], scheme: Scheme, window: int = 2) -> Draft:
    """Draw up to `window` tokens and leave out the one that was unlikely to be drawn."""
    tokens: list[int] = []
    while len(tokens) < window:
        row = near_drafter((*context, *tokens))
        token = scheme.draft(row, tokens)
        if softmax(row)[token] < 0.4:
            break
        tokens.append(token)
    return Draft(tokens, is_point_mass=False)


class Trusting(Rejection):
    """Rejection that does not notice that a drawn token is missing."""

    def verify(self, rows: Logits, draft: Draft) -> Verdict:
        self._num_drawn = len(draft.tokens)
        return super().verify(rows, draft)


@pytest.mark.parametrize("window", [1, 2])
def test_a_draft_must_not_depend_on_a_token_that_was_drawn_and_dropped(window: int) -> None:
    """It bends the law under rejection, which refuses it, and under the other schemes does not."""

    def make(kind: type[Rejection]) -> Callable[[SamplerSettings, Chance], Scheme]:
        return lambda settings, chance: kind(settings, VOCAB_SIZE, MAX_WINDOW, lambda _: chance)

    settings, drop = SETTINGS["untruncated"], partial(drop_unlikely, window=window)
    assert error_of(make(Trusting), settings, drop, 3) > 1e-3
    with pytest.raises(AssertionError, match="drawn token is lost"):
        error_of(make(Rejection), settings, drop, 3)

    def make_sampled_match(settings: SamplerSettings, chance: Chance) -> Scheme:
        return Match(ScriptedSampler(settings, chance), settings, VOCAB_SIZE)

    assert error_of(make_sampled_match, settings, drop, 3) < 1e-12
