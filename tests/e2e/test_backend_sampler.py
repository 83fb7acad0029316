"""llama.cpp's chain as a sampler: reproducible, and of the law the package computes itself."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest

from metasd_local.backend.llama_sampler import LlamaSampler
from metasd_local.errors import BackendError, UsageError
from metasd_local.protocols import Logits
from metasd_local.sampling import SamplerChain, SamplerSettings

SIZE = 320


def make(**options: Any) -> LlamaSampler:
    settings: dict[str, Any] = {
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
        "repeat_penalty": 1.0,
        "penalty_last_n": 64,
    }
    return LlamaSampler(SIZE, **{**settings, **options})


def make_rows(count: int, seed: int = 0) -> Logits:
    return np.random.default_rng(seed).normal(scale=3, size=(count, SIZE)).astype(np.float32)


def draw(sampler: LlamaSampler, seed: int, context: list[int], rows: Logits) -> list[int]:
    sampler.begin(seed, context)
    return [sampler.sample(row) for row in rows]


def test_same_seed_and_context_same_draws() -> None:
    """Also where the sampler was used for something else in between."""
    rows = make_rows(50)
    sampler = make(repeat_penalty=1.3)
    first = draw(sampler, 5, [1, 2, 3], rows)
    other = draw(sampler, 6, [1, 2, 3], rows)
    assert draw(sampler, 5, [1, 2, 3], rows) == first
    assert draw(make(repeat_penalty=1.3), 5, [1, 2, 3], rows) == first
    assert other != first


@pytest.mark.parametrize("seed", [0, 2**32 - 1, 2**32, 2**63 + 11, -1])
def test_every_seed_is_fixed(seed: int) -> None:
    """None is taken for llama.cpp's mark of a random seed."""
    rows = make_rows(40)
    assert draw(make(), seed, [], rows) == draw(make(), seed, [], rows)


def test_temperature_0_takes_the_largest_logit() -> None:
    rows = make_rows(30)
    assert draw(make(temperature=0.0), 1, [], rows) == rows.argmax(axis=1).tolist()


def test_penalties_look_at_the_last_tokens_only() -> None:
    row = np.zeros(SIZE, dtype=np.float32)
    row[[7, 8, 9]] = 6.0, 5.0, 4.0
    sampler = make(temperature=0.0, repeat_penalty=2.0, penalty_last_n=2)
    assert draw(sampler, 0, [7, 1, 1], np.array([row])) == [7]
    assert draw(sampler, 0, [1, 7, 1], np.array([row])) == [8]
    # 8 is remembered as emitted, 7 is forgotten.
    assert draw(sampler, 0, [1, 7, 1], np.array([row, row, row])) == [8, 7, 9]


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p", "repeat_penalty"),
    list(itertools.product((0.3, 1.0, 1.7), (0, 1, 40), (0.5, 1.0), (0.0, 0.05), (1.0, 1.3))),
)
def test_law_equals_the_packages_own(
    temperature: float, top_k: int, top_p: float, min_p: float, repeat_penalty: float
) -> None:
    settings = SamplerSettings(temperature, top_k, top_p, min_p, repeat_penalty, 64)
    context = [int(token) for token in np.random.default_rng(8).integers(0, SIZE, size=90)]
    chain = SamplerChain(settings, SIZE)
    sampler = make(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repeat_penalty=repeat_penalty,
    )
    for row in make_rows(3):
        sampler.begin(1, context)
        sampler.sample(row)
        ids, probabilities = sampler.last_distribution()
        theirs = dict(zip(ids.tolist(), probabilities.tolist(), strict=True))
        assert sum(theirs.values()) == pytest.approx(1.0, abs=1e-5)
        law = chain.survivors(row, context, ())
        ours = dict(zip(law.token_ids.tolist(), law.probabilities.tolist(), strict=True))
        for token in theirs.keys() | ours.keys():
            assert ours.get(token, 0.0) == pytest.approx(theirs.get(token, 0.0), abs=1e-6)


def test_draws_follow_the_law() -> None:
    """Total variation between 20,000 draws and the law is that of chance."""
    row = make_rows(1)[0]
    sampler = make(top_k=5, top_p=1.0, min_p=0.0)
    num_draws = 20_000
    counts = Counter(draw(sampler, 3, [], np.broadcast_to(row, (num_draws, SIZE))))
    ids, probabilities = sampler.last_distribution()
    assert set(counts) <= set(ids.tolist())
    shares = np.array([counts[token] for token in ids.tolist()]) / num_draws
    assert np.abs(shares - probabilities).sum() / 2 < 0.02


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_refused(value: float) -> None:
    row = make_rows(1)[0]
    row[17] = value
    sampler = make()
    sampler.begin(0, [])
    with pytest.raises(BackendError, match="expected a finite number"):
        sampler.sample(row)
    with pytest.raises(BackendError, match="expected a finite number"):
        sampler.sample(np.full(SIZE, -np.inf, dtype=np.float32))
    row[17] = -np.inf
    assert sampler.sample(row) != 17


def test_misuse_is_refused() -> None:
    sampler = make()
    with pytest.raises(BackendError, match="begin one"):
        sampler.sample(make_rows(1)[0])
    sampler.begin(0, [])
    with pytest.raises(BackendError, match="expected 320"):
        sampler.sample(np.zeros(SIZE - 1, dtype=np.float32))
    sampler.close()
    sampler.close()
    with pytest.raises(BackendError, match="begin one"):
        sampler.sample(make_rows(1)[0])


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": -0.5},
        {"min_p": float("inf")},
        {"repeat_penalty": 0.0},
        {"penalty_last_n": -1},
    ],
    ids=str,
)
def test_settings_without_meaning_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected a number from"):
        make(**options)
