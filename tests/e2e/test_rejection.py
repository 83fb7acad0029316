"""Rejection sampling on a real model: the texts depend on the drafter, their law does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from metasd_local.backend.llama import LlamaModel, LlamaWeights
from metasd_local.drafters.model import ModelDrafter
from metasd_local.engine import Engine
from metasd_local.events import RoundDone
from metasd_local.interrupt import Interrupt
from metasd_local.sampling import SamplerChain, SamplerSettings
from metasd_local.selection.fixed import FixedPolicy
from metasd_local.selftest.law import Law, p_value
from metasd_local.verify import Rejection
from tests.tiny_gguf import write_tiny_gguf

SETTINGS = SamplerSettings(temperature=1.5, top_k=4, top_p=1.0, min_p=0.0)
PROMPT = [3, 70, 90, 71]
NUM_SEEDS = 1000
LEAST_P_VALUE = 1e-4


class Pair:
    """A tiny target and a tiny drafter that agree now and then."""

    def __init__(self, folder: Path) -> None:
        paths = (
            write_tiny_gguf(folder / "target.gguf", vocab_size=262, seed=3),
            write_tiny_gguf(folder / "drafter.gguf", vocab_size=262, seed=3, disturbance=0.4),
        )
        self.weights = [LlamaWeights(path) for path in paths]
        self.target, drafter = (
            LlamaModel(weights, context_size=64, max_rows=4, num_threads=1, interrupt=Interrupt())
            for weights in self.weights
        )
        self.drafter = ModelDrafter("drafter", drafter, target_vocab_size=262)

    def two_tokens(self, engine: Engine, seed: int) -> tuple[tuple[int, ...], int]:
        """Return the first two tokens of a generation and how many drafts were accepted."""
        tokens: list[int] = []
        accepted = 0
        rounds = engine.generate(PROMPT, seed=seed, max_tokens=4, count_kept=lambda _: None)
        for event in rounds:
            if isinstance(event, RoundDone):
                tokens += event.emitted
                accepted += event.accepted
            if len(tokens) >= 2:
                break
        rounds.close()
        return (tokens[0], tokens[1]), accepted

    def law(self) -> Law:
        """Return the target's own law of two tokens."""
        chain = SamplerChain(SETTINGS, 262)

        def next_law(context: list[int]) -> dict[int, float]:
            self.target.rewind(0)
            law = chain.survivors(self.target.feed(context, 1)[0], context, ())
            return dict(zip(law.token_ids.tolist(), law.probabilities.tolist(), strict=True))

        return {
            (first, second): share * rest
            for first, share in next_law(PROMPT).items()
            for second, rest in next_law([*PROMPT, first]).items()
        }


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    opened = Pair(tmp_path_factory.mktemp("models"))
    yield opened
    for weights in opened.weights:
        weights.close()


def test_rejection_emits_the_targets_law_of_two_tokens(pair: Pair) -> None:
    """Drafts of three tokens are accepted in part; another temperature's law does not fit."""
    engine = Engine(
        target=pair.target,
        drafters=[pair.drafter],
        policy=FixedPolicy("drafter", window=3),
        scheme=Rejection(SETTINGS, 262, 3),
        interrupt=Interrupt(),
    )
    counts: dict[tuple[int, ...], int] = {}
    accepted = 0
    for seed in range(NUM_SEEDS):
        tokens, num_accepted = pair.two_tokens(engine, seed)
        counts[tokens] = counts.get(tokens, 0) + 1
        accepted += num_accepted
    assert 0.1 * NUM_SEEDS < accepted < 2.9 * NUM_SEEDS
    law = pair.law()
    assert p_value([(counts, law)]) > LEAST_P_VALUE
    cooler = {tokens: share**1.2 for tokens, share in law.items()}
    total = sum(cooler.values())
    wrong = {tokens: share / total for tokens, share in cooler.items()}
    assert p_value([(counts, wrong)]) < LEAST_P_VALUE
