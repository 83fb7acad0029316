"""The sampler chain and the keyed noise, case by case; the end-to-end tests compare llama.cpp."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from metasd_local.errors import BackendError, UsageError
from metasd_local.protocols import Logits
from metasd_local.sampling import KeyedNoise, SamplerChain, SamplerSettings

OFF = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
MINUS_INFINITY = -math.inf


def row_of(probabilities: Sequence[float]) -> Logits:
    """Return logits whose softmax is `probabilities`."""
    return np.array([math.log(p) if p else MINUS_INFINITY for p in probabilities], np.float32)


def law_of(
    settings: SamplerSettings,
    row: Logits,
    context: Sequence[int] = (),
    drafted: Sequence[int] = (),
    vocab_size: int | None = None,
) -> dict[int, float]:
    """Return token id -> probability, as one call of a fresh chain gives it."""
    law = SamplerChain(settings, vocab_size or len(row)).survivors(row, context, drafted)
    assert (np.diff(law.token_ids) > 0).all()
    return dict(zip(law.token_ids.tolist(), law.probabilities.tolist(), strict=True))


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -0.1},
        {"temperature": 1e-9},
        {"temperature": math.inf},
        {"temperature": math.nan},
        {"top_k": -1},
        {"top_p": 1.01},
        {"top_p": math.nan},
        {"min_p": -0.01},
        {"repeat_penalty": 0.0},
        {"penalty_last_n": -1},
    ],
)
def test_settings_out_of_range_are_refused_by_name(values: dict[str, float]) -> None:
    """The message names the setting."""
    with pytest.raises(UsageError, match=next(iter(values))):
        SamplerSettings(**values)  # type: ignore[arg-type]


SHARES = (0.15, 0.05, 0.5, 0.3)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {0: 0.15, 1: 0.05, 2: 0.5, 3: 0.3}),
        ({"top_k": 1}, {2: 1.0}),
        ({"top_k": 2}, {2: 0.625, 3: 0.375}),
        ({"top_k": 9}, {0: 0.15, 1: 0.05, 2: 0.5, 3: 0.3}),
        ({"top_p": 0.0}, {2: 1.0}),
        ({"top_p": 0.49}, {2: 1.0}),
        ({"top_p": 0.51}, {2: 0.625, 3: 0.375}),
        ({"top_p": 0.81}, {0: 0.15 / 0.95, 2: 0.5 / 0.95, 3: 0.3 / 0.95}),
        # Top-p sees what top-k left: 0.625 of it is one token.
        ({"top_k": 2, "top_p": 0.6}, {2: 1.0}),
        ({"min_p": 0.29}, {0: 0.15 / 0.95, 2: 0.5 / 0.95, 3: 0.3 / 0.95}),
        ({"min_p": 0.31}, {2: 0.625, 3: 0.375}),
        ({"min_p": 1.0}, {2: 1.0}),
        # Truncation comes before the temperature, which would leave min-p one token.
        ({"min_p": 0.31, "temperature": 0.5}, {2: 0.25 / 0.34, 3: 0.09 / 0.34}),
        ({"temperature": 0.0}, {2: 1.0}),
    ],
)
def test_chain_keeps_and_renormalises(
    changes: dict[str, float], expected: dict[int, float]
) -> None:
    """Each sampler keeps what its setting says, and the rest is renormalised."""
    settings = SamplerSettings(**(OFF | changes))  # type: ignore[arg-type]
    assert law_of(settings, row_of(SHARES)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({"top_k": 3}, {0, 1, 4}), ({"top_p": 0.5}, {0, 4}), ({"temperature": 0.0}, {4})],
)
def test_of_equal_logits_the_lowest_ids_survive(
    changes: dict[str, float], expected: set[int]
) -> None:
    """Four equal logits beside a higher one: the order of ids decides."""
    settings = SamplerSettings(**(OFF | changes))  # type: ignore[arg-type]
    row = row_of((0.125, 0.125, 0.125, 0.125, 0.5))
    row[4] -= 1e-3  # the top-p sum must not stop at exactly one half
    assert set(law_of(settings, row)) == expected


def test_top_p_includes_the_token_that_reaches_it_exactly() -> None:
    """Two of four equal tokens reach one half exactly."""
    settings = SamplerSettings(**(OFF | {"top_p": 0.5}))  # type: ignore[arg-type]
    assert law_of(settings, np.zeros(4, np.float32)) == {0: 0.5, 1: 0.5}


@pytest.mark.parametrize(
    ("context", "drafted", "last_n", "penalised"),
    [
        ([], [], 64, set()),
        ([0], [], 64, {0}),
        ([0, 0, 0], [], 64, {0}),
        ([0], [1], 64, {0, 1}),
        ([0], [1], 1, {1}),
        ([0, 2], [1], 2, {1, 2}),
        ([0, 2], [1, 1], 2, {1}),
        ([0], [1], 0, set()),
        ([7], [], 64, set()),
    ],
)
def test_penalty_touches_the_last_tokens_of_context_and_draft_once(
    context: list[int], drafted: list[int], last_n: int, penalised: set[int]
) -> None:
    """Positive logits are divided, others multiplied; ids beyond the row are ignored."""
    settings = SamplerSettings(1.0, 0, 1.0, 0.0, repeat_penalty=2.0, penalty_last_n=last_n)
    logits = [1.0, 3.0, -2.0]
    changed = [x * (0.5 if x > 0 else 2) if t in penalised else x for t, x in enumerate(logits)]
    total = sum(map(math.exp, changed))
    row = np.array(logits, np.float32)
    law = law_of(settings, row, context, drafted, vocab_size=8)
    assert law == pytest.approx({t: math.exp(x) / total for t, x in enumerate(changed)}, abs=1e-6)
    assert row.tolist() == logits


def test_likeliest_is_the_first_of_the_highest_after_the_penalty() -> None:
    """Ties go to the lowest id."""
    row = np.array([1.0, 2.0, 2.0, 0.5], np.float32)
    assert SamplerChain(SamplerSettings(), 4).likeliest(row, [1], []) == 1
    penalising = SamplerChain(SamplerSettings(repeat_penalty=1.5), 4)
    assert penalising.likeliest(row, [1], []) == 2
    assert penalising.likeliest(row, [1], [2]) == 1
    assert penalising.likeliest(row, [3], []) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_rows_without_a_finite_maximum_are_refused(bad: float, temperature: float) -> None:
    """A damaged model ends in an error, never in a token."""
    chain = SamplerChain(SamplerSettings(temperature=temperature), 100)
    row = np.zeros(100, np.float32)
    row[60] = bad
    for broken in (row, np.full(100, MINUS_INFINITY, np.float32)):
        with pytest.raises(BackendError, match="highest logit"):
            chain.survivors(broken, (), ())
        with pytest.raises(BackendError, match="highest logit"):
            chain.likeliest(broken, (), ())


def test_impossible_tokens_have_no_probability() -> None:
    """Minus infinity is a legal logit, at any setting."""
    row = row_of((0.0, 0.75, 0.0, 0.25))
    law = law_of(SamplerSettings(**OFF), row)  # type: ignore[arg-type]
    assert law == pytest.approx({0: 0.0, 1: 0.75, 2: 0.0, 3: 0.25})
    assert law_of(SamplerSettings(1.0, 3, 0.9, 0.05), row) == pytest.approx({1: 0.75, 3: 0.25})


def test_a_truncated_row_takes_no_vocabulary_sized_memory() -> None:
    """The round loop allocates what survives, not the vocabulary."""
    vocab_size = 200_000
    chain = SamplerChain(SamplerSettings(repeat_penalty=1.1), vocab_size)
    noise = KeyedNoise(vocab_size)
    row = np.random.default_rng(0).normal(size=vocab_size).astype(np.float32) * 3
    tracemalloc.start()
    try:
        law = chain.survivors(row, range(1000), ())
        noise.exponentials(1, 2, law.token_ids)
        chain.likeliest(row, range(1000), ())
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < vocab_size / 4


def splitmix64(state: int, index: int) -> int:
    """Return output `index` of splitmix64 started at `state`, as Vigna's splitmix64.c states it."""
    word = (state + (index + 1) * 0x9E3779B97F4A7C15) % 2**64
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
    return word ^ (word >> 31)


def test_noise_is_splitmix64() -> None:
    """Token ids index a stream that seed and position choose, at the ends of every range too."""
    assert [splitmix64(1234567, i) for i in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]
    noise = KeyedNoise(8)
    ids = np.array([0, 1, 2, 151_935, 2**31 - 1])
    for seed, position in ((0, 0), (1, 0), (0, 1), (2**64 - 1, 10**6), (2**63, 7)):
        start = splitmix64(seed - 0x9E3779B97F4A7C15, 0)
        stream = splitmix64(start + (position - 1) * 0x9E3779B97F4A7C15, 0)
        expected = [-math.log((splitmix64(stream, int(i)) >> 11 | 1) / 2**53) for i in ids]
        np.testing.assert_allclose(noise.exponentials(seed, position, ids), expected, rtol=1e-12)


def test_noise_of_a_token_does_not_depend_on_the_other_survivors() -> None:
    """Target and drafter truncate differently and still share the noise."""
    noise = KeyedNoise(1000)
    everything = noise.exponentials(3, 14, np.arange(1000)).copy()
    some = np.array([7, 500, 999])
    assert (noise.exponentials(3, 14, some) == everything[some]).all()


def noise_cube(size: int) -> NDArray[np.float64]:
    """Return uniforms by adjacent seeds, positions and token ids."""
    noise = KeyedNoise(size)
    ids = np.arange(size)
    cube = [
        [noise.exponentials(seed, position, ids).copy() for position in range(size)]
        for seed in range(size)
    ]
    uniforms: NDArray[np.float64] = np.exp(-np.array(cube))  # (size, size, size)
    return uniforms


def test_noise_is_uniform_and_independent_across_seed_position_and_id() -> None:
    """No bin, no neighbour and no plane of the cube shows a pattern."""
    size, num_bins = 48, 64
    cube = noise_cube(size)
    assert cube.min() > 0
    assert cube.max() < 1
    for axis in range(3):
        other = tuple(i for i in range(3) if i != axis)
        # The mean of size^2 uniforms has a standard deviation of 1 / (size sqrt(12)).
        assert np.abs(cube.mean(axis=other) - 0.5).max() * size * math.sqrt(12) < 4.5
        here, there = np.moveaxis(cube, axis, 0)[:-1], np.moveaxis(cube, axis, 0)[1:]
        correlation = np.corrcoef(here.ravel(), there.ravel())[0, 1]
        assert abs(correlation) * math.sqrt(here.size) < 4.5
        pairs = np.histogram2d(here.ravel(), there.ravel(), bins=8, range=((0, 1), (0, 1)))[0]
        assert chi_squared_deviation(pairs.ravel()) < 4.5
    assert chi_squared_deviation(np.histogram(cube, num_bins, (0, 1))[0]) < 4.5
    low_bits = (cube * 2**20).astype(np.int64) % num_bins
    assert chi_squared_deviation(np.bincount(low_bits.ravel(), minlength=num_bins)) < 4.5


def chi_squared_deviation(counts: NDArray[np.generic]) -> float:
    """Return by how many standard deviations chi-squared departs from equal bins."""
    observed = counts.astype(np.float64)
    expected = observed.mean()
    chi_squared = float(((observed - expected) ** 2).sum() / expected)
    degrees = len(observed) - 1
    return abs(chi_squared - degrees) / math.sqrt(2 * degrees)
