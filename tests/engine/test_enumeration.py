"""The whole round loop, exactly: with every policy and scheme the law is the target's own.

Every outcome of every random draw is replayed through the engine, with real drafters on scripted
models, ends inside drafts and maximal lengths included.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import pytest

from metasd_local.backend.scripted import ScriptedModel
from metasd_local.costs import CostCurve, RunningCosts
from metasd_local.drafters.model import ModelDrafter
from metasd_local.drafters.ngram import NgramDrafter
from metasd_local.engine import Engine
from metasd_local.events import RoundDone
from metasd_local.interrupt import Interrupt
from metasd_local.protocols import Arms, Choice, Policy, Scheme
from metasd_local.sampling import SamplerSettings
from metasd_local.selection import POLICIES as LISTED
from metasd_local.selection.factory import choose_policy
from metasd_local.selection.fixed import FixedPolicy
from metasd_local.verify import Chance, Coupled, Match, Rejection
from tests.enumeration import (
    MAX_WINDOW,
    PROMPT,
    SETTINGS,
    VOCAB_SIZE,
    Branches,
    Law,
    SchemeMaker,
    ScriptedSampler,
    near_drafter,
    small_drafter,
    target,
    target_law,
)

EXACT = 1e-12
NUM_TOKENS = 3
END = 1
DRAFTS_PAY = CostCurve({1: 100.0, 4: 101.0})

POLICIES = (
    *("fixed:near:window=3", "fixed:small", "fixed:ngram:window=3"),
    *(policy.name for policy in LISTED if ":" not in policy.name),
    *("hedge:loss=length,every=2", "ucbspec:arms=window", "exp3spec:arms=window"),
    *("drafts cut short", "drafts ended early"),
)


class CutShort(FixedPolicy):
    """End a draft before a token that barely won."""

    def choose(self, arms: Arms) -> Choice:
        return Choice("near", 3, keeps=lambda margin: margin > 1.0)


class EndedEarly(FixedPolicy):
    """End a draft after one token, whatever the next one is."""

    def choose(self, arms: Arms) -> Choice:
        answers = iter((True, False))
        return Choice("near", 3, keeps=lambda _margin: next(answers))


def policy_of(text: str) -> Policy:
    if text == "drafts ended early":
        return EndedEarly("near", window=3)
    if text == "drafts cut short":
        return CutShort("near", window=3)
    return choose_policy(text, window=2, seed=4, costs=RunningCosts(DRAFTS_PAY)).policy


def generate(policy: Policy, scheme: Scheme, end: int | None, seed: int = 0) -> tuple[int, ...]:
    def count_kept(emitted: Sequence[int]) -> int | None:
        return emitted.index(end) + 1 if end in emitted else None

    engine = Engine(
        target=ScriptedModel(target, vocab_size=VOCAB_SIZE),
        drafters=[
            ModelDrafter(
                "near",
                ScriptedModel(near_drafter, vocab_size=VOCAB_SIZE),
                target_vocab_size=VOCAB_SIZE,
                max_rows=NUM_TOKENS,
            ),
            ModelDrafter(
                "small",
                ScriptedModel(small_drafter, vocab_size=VOCAB_SIZE - 1),
                target_vocab_size=VOCAB_SIZE,
                max_rows=NUM_TOKENS,
            ),
            NgramDrafter(orders=(2, 1)),
        ],
        policy=policy,
        scheme=scheme,
        interrupt=Interrupt(),
        clock=count().__next__,  # some policies look at it, and replays must agree
    )
    events = engine.generate(PROMPT, seed=seed, max_tokens=NUM_TOKENS, count_kept=count_kept)
    return tuple(t for event in events if isinstance(event, RoundDone) for t in event.emitted)


def make_rejection(settings: SamplerSettings, chance: Chance) -> Scheme:
    return Rejection(settings, VOCAB_SIZE, MAX_WINDOW, chance=lambda _: chance)


def make_match(settings: SamplerSettings, chance: Chance) -> Scheme:
    return Match(ScriptedSampler(settings, chance), settings, VOCAB_SIZE)


@pytest.mark.parametrize("end", [None, END])
@pytest.mark.parametrize("settings", ["untruncated", "penalised and truncated"])
@pytest.mark.parametrize("make", [make_rejection, make_match])
@pytest.mark.parametrize("policy", POLICIES)
def test_rejection_and_match_emit_the_targets_law(
    policy: str, make: SchemeMaker, settings: str, end: int | None
) -> None:
    branches = Branches()
    scheme = make(SETTINGS[settings], branches.chance)
    law: Law = {}
    for tokens, weight in branches.replay(lambda: generate(policy_of(policy), scheme, end)):
        law[tokens] = law.get(tokens, 0.0) + weight
    expected = target_law(SETTINGS[settings], NUM_TOKENS, end)
    error = sum(abs(law.get(key, 0.0) - expected.get(key, 0.0)) for key in law | expected)
    assert error < EXACT


@pytest.mark.parametrize("end", [None, END])
@pytest.mark.parametrize("settings", ["untruncated", "penalised and truncated"])
def test_coupled_emits_the_same_tokens_with_every_policy(settings: str, end: int | None) -> None:
    scheme = Coupled(SETTINGS[settings], VOCAB_SIZE, MAX_WINDOW)
    texts = set()
    for seed in range(25):
        plain = generate(policy_of("plain"), scheme, end, seed)
        texts.add(plain)
        for policy in POLICIES:
            assert generate(policy_of(policy), scheme, end, seed) == plain
    assert len(texts) > 3
