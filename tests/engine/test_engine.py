"""The round loop on scripted models: what any drafter and any policy must not be able to break."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from metasd_local.backend.scripted import LogitsRule, ScriptedModel
from metasd_local.costs import CostCurve, RunningCosts
from metasd_local.drafters.model import ModelDrafter
from metasd_local.drafters.ngram import NgramDrafter
from metasd_local.engine import Engine
from metasd_local.errors import BackendError, Cancelled
from metasd_local.events import Notice, PromptRead, RoundDone
from metasd_local.interrupt import Interrupt
from metasd_local.protocols import PLAIN, Arms, Choice, Drafter, Policy, RoundFeedback
from metasd_local.sampling import SamplerSettings
from metasd_local.selection import POLICIES
from metasd_local.selection.factory import choose_policy
from metasd_local.selection.fixed import FixedPolicy
from metasd_local.selection.rewards import block_divergence
from metasd_local.verify import Greedy

VOCAB_SIZE = 12
GREEDY = SamplerSettings(temperature=0.0)


def hashed_logits(salt: int, share: float) -> LogitsRule:
    """Return a rule whose argmax depends on the last two tokens, agreeing with salt 0 partly."""

    def rule(tokens: tuple[int, ...]) -> NDArray[np.float32]:
        key = hash(tokens[-2:])
        rng = np.random.default_rng(abs(key))
        own = np.random.default_rng([abs(key), salt])
        base = rng.normal(size=VOCAB_SIZE) * 3
        return (share * base + (1 - share) * own.normal(size=VOCAB_SIZE) * 3).astype(np.float32)

    return rule


def with_likely_padding(rule: LogitsRule) -> LogitsRule:
    """Return a rule that prefers four ids the target does not have."""
    return lambda tokens: np.concatenate([rule(tokens), np.full(4, 99, np.float32)])


class Scramble:
    """A policy that draws arm and window at random, `plain` included."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._arms: Sequence[str] = ()

    def begin(self, arms: Sequence[str]) -> None:
        self._arms = arms

    def choose(self, arms: Arms) -> Choice:
        arm = self._arms[int(self._rng.integers(len(self._arms)))]
        return Choice(arm, int(self._rng.integers(1, 6)))

    def observe(self, arm: str, feedback: RoundFeedback) -> float:
        reward = block_divergence(feedback)
        assert 0.0 <= reward <= 1.0
        assert feedback.seconds >= 0.0
        return reward

    def scores(self) -> Mapping[str, float]:
        return {}


def make_engine(
    policy: Policy,
    *,
    target: ScriptedModel | None = None,
    extra: Sequence[Drafter] = (),
    interrupt: Interrupt | None = None,
) -> tuple[Engine, ScriptedModel]:
    interrupt = interrupt or Interrupt()
    target = target or ScriptedModel(
        hashed_logits(0, 1.0), vocab_size=VOCAB_SIZE, interrupt=interrupt
    )
    good = ScriptedModel(hashed_logits(1, 0.8), vocab_size=VOCAB_SIZE, interrupt=interrupt)
    poor = ScriptedModel(
        with_likely_padding(hashed_logits(2, 0.1)), vocab_size=VOCAB_SIZE + 4, interrupt=interrupt
    )
    drafters: list[Drafter] = [
        ModelDrafter("good", good, target_vocab_size=VOCAB_SIZE, max_rows=8),
        ModelDrafter("poor", poor, target_vocab_size=VOCAB_SIZE, max_rows=8),
        NgramDrafter(),
        *extra,
    ]
    engine = Engine(
        target=target,
        drafters=drafters,
        policy=policy,
        scheme=Greedy(GREEDY, vocab_size=VOCAB_SIZE, max_window=16),
        interrupt=interrupt,
    )
    return engine, target


def run(
    engine: Engine, prompt: Sequence[int], max_tokens: int = 40, end: int | None = None
) -> tuple[list[int], list[PromptRead | RoundDone | Notice]]:
    def count_kept(emitted: Sequence[int]) -> int | None:
        return emitted.index(end) + 1 if end in emitted else None

    events = list(engine.generate(prompt, seed=1, max_tokens=max_tokens, count_kept=count_kept))
    tokens = [t for event in events if isinstance(event, RoundDone) for t in event.emitted]
    return tokens, events


PROMPT = [3, 1, 4, 1, 5]
NAMES = (
    *(policy.name for policy in POLICIES if ":" not in policy.name),
    *("hedge:loss=length,every=3", "ucbspec:arms=window", "exp3spec:arms=window"),
)


def named_policy(text: str) -> Policy:
    costs = RunningCosts(CostCurve({1: 1.0, 9: 1.1}))
    return choose_policy(text, window=5, seed=0, costs=costs).policy


def plain_tokens(max_tokens: int = 40, end: int | None = None) -> list[int]:
    rule = hashed_logits(0, 1.0)
    context = list(PROMPT)
    for _ in range(max_tokens):
        context.append(int(np.argmax(rule(tuple(context)))))
        if context[-1] == end:
            break
    return context[len(PROMPT) :]


@pytest.mark.parametrize(
    "policy",
    [
        FixedPolicy("good", window=5),
        FixedPolicy("poor", window=1),
        FixedPolicy("ngram", window=7),
        FixedPolicy("missing", window=5),
        *map(named_policy, NAMES),
        *(Scramble(seed) for seed in range(20)),
    ],
)
def test_greedy_text_is_the_targets_own_for_every_policy(policy: Policy) -> None:
    engine, _ = make_engine(policy)
    for end in (None, 7):
        assert run(engine, PROMPT, end=end)[0] == plain_tokens(end=end)


def test_memory_holds_all_but_the_last_token_between_rounds() -> None:
    engine, target = make_engine(Scramble(3))
    length = len(PROMPT)
    for event in engine.generate(PROMPT, seed=1, max_tokens=30, count_kept=lambda _: None):
        length += len(event.emitted) if isinstance(event, RoundDone) else 0
        assert target.length == length - 1


def test_a_second_turn_feeds_the_target_only_what_is_new() -> None:
    engine, target = make_engine(FixedPolicy("good", window=5))
    tokens, _ = run(engine, PROMPT)
    fed = target.fed_tokens
    second = [*PROMPT, *tokens, 2, 7, 1]
    events = list(engine.generate(second, seed=1, max_tokens=0, count_kept=lambda _: None))
    read = events[0]
    assert isinstance(read, PromptRead)
    assert read.reused_tokens == len(PROMPT) + len(tokens) - 1
    assert target.fed_tokens - fed == 3


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 5, 8])
def test_max_tokens_is_met_exactly(max_tokens: int) -> None:
    engine, _ = make_engine(FixedPolicy("good", window=5))
    assert run(engine, PROMPT, max_tokens)[0] == plain_tokens(max_tokens=max_tokens)


@pytest.mark.parametrize("seed", range(5))
def test_generation_ends_where_the_context_does(seed: int) -> None:
    target = ScriptedModel(hashed_logits(0, 1.0), vocab_size=VOCAB_SIZE, context_size=20)
    engine, _ = make_engine(Scramble(seed), target=target)
    tokens, _ = run(engine, PROMPT, max_tokens=100)
    assert tokens == plain_tokens(max_tokens=16)


def test_counts_of_a_round_agree_with_its_tokens() -> None:
    engine, _ = make_engine(Scramble(5))
    for event in run(engine, PROMPT, end=7)[1]:
        if isinstance(event, RoundDone):
            assert event.accepted <= event.drafted <= event.window
            ended_inside = event.next_kind is None
            assert len(event.emitted) == event.accepted + (0 if ended_inside else 1)
            if event.next_kind == "bonus":
                assert event.accepted == event.drafted


@pytest.mark.parametrize("fails_at", [2, 6, 9, 17])
def test_a_failing_drafter_is_dropped_with_a_notice_and_the_text_goes_on(fails_at: int) -> None:
    broken = ScriptedModel(hashed_logits(1, 0.8), vocab_size=VOCAB_SIZE, fails_at=fails_at)
    drafter = ModelDrafter("broken", broken, target_vocab_size=VOCAB_SIZE)
    engine, _ = make_engine(FixedPolicy("broken", window=5), extra=[drafter])
    tokens, events = run(engine, PROMPT)
    assert tokens == plain_tokens()
    notices = [event for event in events if isinstance(event, Notice)]
    assert len(notices) == 1
    assert "broken" in notices[0].text
    assert "broken" not in engine.arms


@pytest.mark.parametrize("policy", [name for name in NAMES if name != PLAIN])
@pytest.mark.parametrize("fails_at", [2, 9, 29])
@pytest.mark.parametrize("others", [(), ("good",)])
def test_every_policy_goes_on_without_a_drafter_that_fails(
    policy: str, fails_at: int, others: Sequence[str]
) -> None:
    """The same text, one notice, no round missing; so the next answers, with whoever is left."""
    drafters: list[Drafter] = []
    for name in ("broken", *others):
        length = fails_at if name == "broken" else None
        model = ScriptedModel(hashed_logits(1, 0.8), vocab_size=VOCAB_SIZE, fails_at=length)
        drafters.append(ModelDrafter(name, model, target_vocab_size=VOCAB_SIZE, max_rows=8))
    engine = Engine(
        target=ScriptedModel(hashed_logits(0, 1.0), vocab_size=VOCAB_SIZE),
        drafters=drafters,
        policy=named_policy(policy),
        scheme=Greedy(GREEDY, vocab_size=VOCAB_SIZE, max_window=5),
        interrupt=Interrupt(),
    )
    num_notices = 0
    for _ in range(3):
        tokens, events = run(engine, PROMPT, 60)
        assert tokens == plain_tokens(60)
        rounds = [event for event in events if isinstance(event, RoundDone)]
        assert [done.index for done in rounds] == list(range(len(rounds)))
        num_notices += sum(isinstance(event, Notice) for event in events)
    assert num_notices == 1
    assert engine.arms == (PLAIN, *others)
    assert {done.arm for done in rounds} - {PLAIN} == set(others)


def test_a_failing_target_raises() -> None:
    target = ScriptedModel(hashed_logits(0, 1.0), vocab_size=VOCAB_SIZE, fails_at=12)
    engine, _ = make_engine(FixedPolicy("good", window=5), target=target)
    with pytest.raises(BackendError, match="scripted failure"):
        run(engine, PROMPT)


def test_an_interrupted_generation_can_be_continued_exactly() -> None:
    interrupt = Interrupt()
    engine, _ = make_engine(Scramble(1), interrupt=interrupt)
    events = engine.generate(PROMPT, seed=1, max_tokens=40, count_kept=lambda _: None)
    tokens: list[int] = []
    with pytest.raises(Cancelled):
        for event in events:
            tokens += event.emitted if isinstance(event, RoundDone) else ()
            if len(tokens) > 10:
                interrupt.set()
    interrupt.clear()
    rest, _ = run(engine, [*PROMPT, *tokens], max_tokens=40 - len(tokens))
    assert tokens + rest == plain_tokens()


def test_a_consumer_that_stops_early_leaves_the_models_consistent() -> None:
    engine, _ = make_engine(Scramble(2))
    events = engine.generate(PROMPT, seed=1, max_tokens=40, count_kept=lambda _: None)
    for _ in range(4):
        next(events)
    events.close()
    assert run(engine, PROMPT)[0] == plain_tokens()


def test_an_idle_drafter_reads_what_it_missed_once() -> None:
    """A drafter's memory is caught up, never rebuilt: it reads each context token once."""
    model = ScriptedModel(hashed_logits(0, 1.0), vocab_size=VOCAB_SIZE)
    drafter = ModelDrafter("own", model, target_vocab_size=VOCAB_SIZE)

    class EveryThirdRound(Scramble):
        num_rounds = 0

        def choose(self, arms: Arms) -> Choice:
            self.num_rounds += 1
            return Choice("own" if self.num_rounds % 3 == 0 else "ngram", 4)

    engine, _ = make_engine(EveryThirdRound(0), extra=[drafter])
    tokens, events = run(engine, PROMPT, max_tokens=60)
    drafted = sum(e.drafted for e in events if isinstance(e, RoundDone) and e.arm == "own")
    assert drafted > 0
    assert model.fed_tokens <= len(PROMPT) + len(tokens) + drafted


def test_a_round_is_told_before_an_idle_drafter_reads_what_it_emitted() -> None:
    """Nobody waits for text until it is known what idle drafters would have done."""
    model = ScriptedModel(hashed_logits(0, 1.0), vocab_size=VOCAB_SIZE)
    drafter = ModelDrafter("own", model, target_vocab_size=VOCAB_SIZE)

    class Evaluating(FixedPolicy):
        def choose(self, arms: Arms) -> Choice:
            if arms.offer("own").unread > len(PROMPT):
                arms.evaluate("own")
            return super().choose(arms)

    engine, _ = make_engine(Evaluating(PLAIN, window=1), extra=[drafter])
    num_read = []
    for event in engine.generate(PROMPT, seed=1, max_tokens=4, count_kept=lambda _: None):
        num_read += [model.fed_tokens] if isinstance(event, RoundDone) else []
    first = len(PROMPT)
    assert num_read == [0, 0, first + 1, first + 1]


def test_a_drafter_that_lacks_a_token_of_the_text_abstains_and_is_not_dropped() -> None:
    """Compatible vocabularies may differ by some ids at the end."""
    small = ScriptedModel(lambda _: np.zeros(7, np.float32), vocab_size=7)
    drafter = ModelDrafter("small", small, target_vocab_size=VOCAB_SIZE)
    engine, _ = make_engine(FixedPolicy("small", window=4), extra=[drafter])
    tokens, events = run(engine, PROMPT)
    assert tokens == plain_tokens()
    assert max(tokens) >= 7
    assert "small" in engine.arms
    drafted = [event.drafted for event in events if isinstance(event, RoundDone)]
    assert drafted[0] > 0
    assert drafted[-1] == 0


def test_the_watch_sees_every_verification_and_speaks_through_a_notice() -> None:
    """Number of tokens and seconds; its text follows the round it came from."""
    seen: list[tuple[int, float]] = []

    def watch(num_tokens: int, seconds: float) -> str | None:
        seen.append((num_tokens, seconds))
        return "slow" if len(seen) == 2 else None

    engine = Engine(
        target=ScriptedModel(hashed_logits(0, 1.0), vocab_size=VOCAB_SIZE),
        drafters=[NgramDrafter("ngram", orders=[1])],
        policy=FixedPolicy("ngram", window=3),
        scheme=Greedy(GREEDY, VOCAB_SIZE, 3),
        interrupt=Interrupt(),
        watch=watch,
    )
    _, events = run(engine, PROMPT, 20)
    rounds = [event for event in events if isinstance(event, RoundDone)]
    assert seen == [(each.drafted + 1, each.verify_s) for each in rounds]
    place = events.index(Notice("slow"))
    assert events[place - 1] is rounds[1]
