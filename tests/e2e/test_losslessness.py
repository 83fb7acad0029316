"""On the starter pool: no policy, drafter or scheme changes a text that plain decoding gives.

One thread: two would fight with whatever else runs on the machine, and change no token.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from metasd_local.backend.llama import LlamaModel, LlamaWeights
from metasd_local.catalogue import read_catalogue
from metasd_local.compose import open_session
from metasd_local.config import Options
from metasd_local.events import Notice, RoundDone
from metasd_local.interrupt import Interrupt
from metasd_local.protocols import Logits
from metasd_local.sampling import KeyedNoise, SamplerChain, SamplerSettings
from metasd_local.session import Session
from tests.near_ties import Scores, explain

PROMPTS = [
    json.loads(line)["prompt"]
    for line in (Path(__file__).parents[1] / "data" / "prompts.jsonl").read_text().splitlines()
]
MAX_TOKENS = 64
SEED = 7
DRAFTERS = tuple(entry.name for entry in read_catalogue()["starter"].drafters)
POLICIES = (*(f"fixed:{name}" for name in (*DRAFTERS, "ngram")), "random", "ucb")
MAX_EXPLAINED_SHARE = 0.05

Rounds = list[RoundDone]


def open_pool(policy: str, scheme: str, temperature: float) -> Session:
    return open_session(
        Options(policy=policy, scheme=scheme, temperature=temperature, seed=SEED, threads=1),
        "starter",
    )


def answer(session: Session, prompt: str, seed: int = SEED) -> Rounds:
    session.clear()
    rounds: Rounds = []
    for event in session.send(prompt, seed=seed, max_tokens=MAX_TOKENS):
        assert not isinstance(event, Notice)
        if isinstance(event, RoundDone):
            rounds.append(event)
    return rounds


def tokens_of(rounds: Rounds) -> list[int]:
    return [token for done in rounds for token in done.emitted]


@pytest.fixture(scope="module")
def target() -> Iterator[LlamaModel]:
    """Return a memory of the starter's target that never saw a draft."""
    weights = LlamaWeights(read_catalogue()["starter"].target)
    yield LlamaModel(weights, context_size=1024, max_rows=17, num_threads=1, interrupt=Interrupt())
    weights.close()


def greedy_scores(row: Logits, _: Sequence[int]) -> Sequence[float]:
    values: list[float] = row.tolist()
    return values


def coupled_scores(settings: SamplerSettings, vocab_size: int) -> Scores:
    chain, noise = SamplerChain(settings, vocab_size), KeyedNoise(vocab_size)

    def scores(row: Logits, context: Sequence[int]) -> Sequence[float]:
        law = chain.survivors(row, context, ())
        exponentials = noise.exponentials(SEED, len(context), law.token_ids)
        values = np.full(vocab_size, -np.inf)
        values[law.token_ids] = np.log(law.probabilities) - np.log(exponentials)
        listed: list[float] = values.tolist()
        return listed

    return scores


def check_identity(
    scheme: str, temperature: float, prompts: Sequence[str], target: LlamaModel
) -> None:
    with closing(open_pool("plain", scheme, temperature)) as session:
        sampling = session.setup.sampling
        plain = []
        prompt_tokens = []
        for prompt in prompts:
            plain.append(tokens_of(answer(session, prompt)))
            prompt_tokens.append(list(session.prompt_tokens))
    scores = greedy_scores if scheme == "greedy" else coupled_scores(sampling, target.vocab_size)
    for policy in POLICIES:
        num_explained = 0
        num_drafted = 0
        with closing(open_pool(policy, scheme, temperature)) as session:
            for prompt, own_tokens, own_prompt in zip(prompts, plain, prompt_tokens, strict=True):
                rounds = answer(session, prompt)
                num_drafted += sum(done.drafted for done in rounds)
                divergence = explain(target, scores, own_prompt, own_tokens, rounds)
                if divergence is not None:
                    assert divergence.is_near_tie, (policy, prompt, divergence)
                    num_explained += 1
        assert num_drafted > 0
        assert num_explained <= MAX_EXPLAINED_SHARE * len(prompts)


@pytest.mark.parametrize(
    ("scheme", "temperature"), [("greedy", 0.0), ("coupled", 0.8), ("match", 0.8)]
)
def test_every_policy_gives_the_plain_text(
    scheme: str, temperature: float, target: LlamaModel
) -> None:
    check_identity(scheme, temperature, PROMPTS[:5], target)


@pytest.mark.full
@pytest.mark.parametrize(
    ("scheme", "temperature"), [("greedy", 0.0), ("coupled", 0.8), ("match", 0.8)]
)
def test_every_policy_gives_the_plain_text_over_all_prompts(
    scheme: str, temperature: float, target: LlamaModel
) -> None:
    assert len(PROMPTS) >= 100
    check_identity(scheme, temperature, PROMPTS, target)


@pytest.mark.parametrize("scheme", ["coupled", "match", "rejection"])
def test_the_same_seed_gives_the_same_text_and_another_seed_another(scheme: str) -> None:
    texts = []
    for seed in (1, 1, 2):
        with closing(open_pool("fixed:general", scheme, 0.8)) as session:
            texts.append([tokens_of(answer(session, prompt, seed)) for prompt in PROMPTS[:2]])
    assert texts[0] == texts[1] != texts[2]


def test_a_wrong_text_is_not_explained(target: LlamaModel) -> None:
    """The rule must refuse a token that the target does not nearly prefer."""
    with closing(open_pool("fixed:general", "greedy", 0.0)) as session:
        rounds = answer(session, PROMPTS[0])
        prompt_tokens = list(session.prompt_tokens)
    plain = tokens_of(rounds)
    for position in (0, len(plain) // 2, len(plain) - 1):
        wrong = [*plain[:position], (plain[position] + 1) % 4096]
        divergence = explain(target, greedy_scores, prompt_tokens, wrong, rounds)
        assert divergence is not None
        assert divergence.position == position
        assert not divergence.is_near_tie
