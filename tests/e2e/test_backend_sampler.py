"""llama.cpp's chain as a sampler: reproducible, and of the law the package computes itself."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from metasd_local.backend.llama_sampler import LlamaSampler
from metasd_local.errors import BackendError
from metasd_local.protocols import Logits
from metasd_local.sampling import SamplerChain, SamplerSettings

SIZE = 320


def make(**options: Any) -> LlamaSampler:
    return LlamaSampler(SamplerSettings(**options), SIZE)


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
    "settings",
    [
        SamplerSettings(0.8, top_k=5, top_p=1.0, min_p=0.0),
        SamplerSettings(1.3, top_k=0, top_p=0.7, min_p=0.0),
        SamplerSettings(0.5, top_k=0, top_p=1.0, min_p=0.1),
    ],
    ids=str,
)
def test_draws_follow_the_law(settings: SamplerSettings) -> None:
    """Total variation between 20,000 draws and the law is that of chance."""
    row = make_rows(1)[0]
    num_draws = 20_000
    rows = np.broadcast_to(row, (num_draws, SIZE))
    counts = Counter(draw(LlamaSampler(settings, SIZE), 3, [], rows))
    law = SamplerChain(settings, SIZE).survivors(row, (), ())
    token_ids = law.token_ids.tolist()
    assert set(counts) <= set(token_ids)
    shares = np.array([counts[token] for token in token_ids]) / num_draws
    assert np.abs(shares - law.probabilities).sum() / 2 < 0.02


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
