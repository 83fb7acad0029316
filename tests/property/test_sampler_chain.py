"""Cutting a row by a threshold never changes the law: compared with sorting the whole row."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from metasd_local.protocols import Logits
from metasd_local.sampling import SamplerChain, SamplerSettings, Survivors

Rows = Callable[[np.random.Generator, int], Logits]

SIZES = (1, 2, 39, 41, 700, 4000)
DEPTHS = (3.0, 7.0, 8.0)
"""Thresholds in use, where ties are most likely to go wrong."""


def normal(deviation: float) -> Rows:
    """Return rows of independent normal logits."""
    return lambda rng, size: (rng.normal(size=size) * deviation).astype(np.float32)


def peaked(rng: np.random.Generator, size: int) -> Logits:
    """Return a row with a few logits far above the others, like a confident model's."""
    row = normal(3.0)(rng, size)
    row[rng.integers(size, size=3)] += np.float32(rng.uniform(5, 40))
    return row


def tied(rng: np.random.Generator, size: int) -> Logits:
    """Return a row of few distinct values, on and beside every threshold."""
    values = [np.float32(-depth) for depth in DEPTHS]
    values += [np.nextafter(value, np.float32(sign)) for value in values for sign in (-99, 99)]
    values += [np.log(np.float32(0.05)), np.float32(-0.5), np.float32(-30.0)]
    row: Logits = rng.choice(np.array(values, np.float32), size)
    row[rng.integers(size)] = 0.0
    return row


def mostly_impossible(rng: np.random.Generator, size: int) -> Logits:
    """Return a row with few finite logits."""
    row = normal(3.0)(rng, size)
    row[rng.random(size) < 0.97] = -np.inf
    row[rng.integers(size)] = 1.0
    return row


def stepped(rng: np.random.Generator, size: int) -> Logits:
    """Return a row with 38 to 41 logits above the usual threshold, about as many as top-k keeps."""
    steps = np.arange(size) * (7.0 / (rng.integers(38, 42) - 0.5))
    return rng.permutation(-steps).astype(np.float32)


ROWS: dict[str, Rows] = {
    "stepped": stepped,
    "flat": normal(0.1),
    "equal": lambda _rng, size: np.full(size, 2.5, np.float32),
    "usual": normal(3.0),
    "steep": normal(30.0),
    "huge": normal(1e6),
    "peaked": peaked,
    "tied": tied,
    "mostly impossible": mostly_impossible,
}


def settings_of_every_kind() -> Iterator[SamplerSettings]:
    """Yield every combination of edge values; temperatures take turns."""
    temperatures = itertools.cycle((0.8, 1e-6, 50.0))
    shares = (1.0, 0.95, 0.999999, 0.0)
    for top_k, top_p, min_p in itertools.product((0, 1, 40), shares, (0.0, 0.05, 1e-4, 1.0)):
        penalty = 1.3 if top_k == 40 and top_p == 0.95 else 1.0
        yield SamplerSettings(next(temperatures), top_k, top_p, min_p, penalty)


def law_by_sorting(settings: SamplerSettings, row: Logits, recent: list[int]) -> Survivors:
    """Apply the chain step by step to the whole row in descending order."""
    row = row.copy()
    if settings.repeat_penalty != 1.0:
        values = row[recent]
        factor = np.float32(settings.repeat_penalty)
        row[recent] = np.where(values <= 0, values * factor, values / factor)
    peak = row.max()
    order = np.argsort(-row, kind="stable")[: settings.top_k or len(row)]
    weights = np.exp(row[order] - peak)
    sums = np.cumsum(weights / np.cumsum(weights)[-1])
    num_kept = len(order)
    if settings.top_p < 1.0:
        num_kept = min(num_kept, int((sums < np.float32(settings.top_p)).sum()) + 1)
    if settings.min_p > 0.0:
        likely = row[order] >= peak + np.log(np.float32(settings.min_p))
        num_kept = min(num_kept, int(likely.sum()))
    token_ids = np.sort(order[:num_kept])
    temperature = np.float32(settings.temperature)
    tempered = row[token_ids] / temperature - peak / temperature
    probabilities = np.exp(tempered.astype(np.float64))
    return Survivors(token_ids, probabilities / probabilities.sum())


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("size", SIZES)
def test_the_law_is_that_of_the_whole_row(kind: str, size: int) -> None:
    """The same tokens and probabilities, for every setting, ties at the thresholds included."""
    rng = np.random.default_rng(size)
    for settings in settings_of_every_kind():
        chain = SamplerChain(settings, size)
        for _ in range(2):
            row = ROWS[kind](rng, size)
            recent = rng.integers(size, size=5).tolist()
            law = chain.survivors(row, recent, ())
            expected = law_by_sorting(settings, row, recent)
            assert law.token_ids.tolist() == expected.token_ids.tolist()
            np.testing.assert_allclose(law.probabilities, expected.probabilities, rtol=1e-12)


def test_a_law_outlives_the_next_call() -> None:
    """Laws of several positions are held at the same time."""
    for settings in (SamplerSettings(), SamplerSettings(1.0, 0, 1.0, 0.0)):
        chain = SamplerChain(settings, 100)
        rng = np.random.default_rng(0)
        law = chain.survivors(normal(2.0)(rng, 100), (), ())
        before = law.probabilities.copy()
        chain.survivors(normal(2.0)(rng, 100), (), ())
        assert (law.probabilities == before).all()
