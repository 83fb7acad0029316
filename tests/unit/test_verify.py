"""Verdicts, overlaps and guards of the four schemes, case by case."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from metasd_local.protocols import Draft, Logits, Probabilities, Scheme, Verdict
from metasd_local.sampling import SamplerChain, SamplerSettings
from metasd_local.verify import Coupled, Greedy, Match, Rejection, seeded_chance

VOCAB_SIZE = 6
MAX_WINDOW = 4
GREEDY = SamplerSettings(temperature=0.0)
UNTRUNCATED = SamplerSettings(1.0, 0, 1.0, 0.0)
TRUNCATED = SamplerSettings(0.7, 4, 0.9, 0.05, 1.3, 8)


def peaked(*tokens: int) -> Logits:
    """Return one row per token, each of which makes its token certain in single precision."""
    rows = np.full((len(tokens), VOCAB_SIZE), -200.0, np.float32)
    rows[np.arange(len(tokens)), tokens] = 0.0
    return rows


class EchoSampler:
    """Draw the likeliest token and remember the rows seen."""

    def __init__(self) -> None:
        self.drawn: list[int] = []
        self.begun: list[tuple[int, list[int]]] = []

    def begin(self, seed: int, context: Sequence[int]) -> None:
        self.begun.append((seed, list(context)))

    def sample(self, logits: Logits) -> int:
        self.drawn.append(int(logits.argmax()))
        return self.drawn[-1]


SCHEMES = ("greedy", "coupled", "match", "rejection")


def make_scheme(name: str, settings: SamplerSettings, vocab_size: int = VOCAB_SIZE) -> Scheme:
    """Return a fresh scheme."""
    if name == "greedy":
        return Greedy(settings, vocab_size, MAX_WINDOW)
    if name == "coupled":
        return Coupled(settings, vocab_size, MAX_WINDOW)
    if name == "match":
        return Match(EchoSampler(), settings, vocab_size)
    return Rejection(settings, vocab_size, MAX_WINDOW)


@pytest.mark.parametrize("is_point_mass", [True, False])
@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(
    ("tokens", "target_tokens", "expected"),
    [
        ([], [3], Verdict(0, 3, "bonus")),
        ([3], [3, 1], Verdict(1, 1, "bonus")),
        ([3], [2, 1], Verdict(0, 2, "recovered")),
        ([3, 3, 3, 3], [3, 3, 3, 3, 0], Verdict(4, 0, "bonus")),
        ([0, 1, 2], [0, 1, 5, 4], Verdict(2, 5, "recovered")),
        # What agrees again after the first rejection does not count.
        ([0, 1, 2], [4, 1, 2, 3], Verdict(0, 4, "recovered")),
    ],
)
def test_verdicts_of_certain_laws(
    name: str,
    is_point_mass: bool,
    tokens: list[int],
    target_tokens: list[int],
    expected: Verdict,
) -> None:
    """Where target and drafter are certain, all schemes must agree."""
    scheme = make_scheme(name, UNTRUNCATED)
    scheme.begin(1, [0, 1])
    if not is_point_mass:
        drafted: list[int] = []
        for row in peaked(*tokens):
            drafted.append(scheme.draft(row, drafted))
        assert drafted == tokens
    assert scheme.verify(peaked(*target_tokens), Draft(tokens, is_point_mass)) == expected


@pytest.mark.parametrize(
    ("rows", "context", "tokens", "expected"),
    [
        # The lowest id among equals.
        ([[1, 5, 5], [7, 0, 7]], [], [1], Verdict(1, 0, "bonus")),
        ([[1, 5, 5], [7, 0, 7]], [], [2], Verdict(0, 1, "recovered")),
        # A penalty of 2 halves what the context holds, then what the draft holds.
        ([[1, 5, 4], [0, 5, 4]], [1], [2], Verdict(1, 1, "bonus")),
        ([[1, 5, 4], [0, 1, 4]], [1], [2], Verdict(1, 2, "bonus")),
        ([[1, 5, 4], [0, 1.5, 2]], [0], [1], Verdict(1, 2, "bonus")),
        ([[1, 5, 4], [0, 1.5, 2]], [0], [2], Verdict(0, 1, "recovered")),
    ],
)
def test_greedy_verdicts_with_ties_and_penalty(
    rows: list[list[float]], context: list[int], tokens: list[int], expected: Verdict
) -> None:
    settings = SamplerSettings(temperature=0.0, repeat_penalty=2.0)
    scheme = Greedy(settings, 3, MAX_WINDOW)
    scheme.begin(0, context)
    draft = Draft(tokens, is_point_mass=True)
    assert scheme.verify(np.array(rows, np.float32), draft) == expected


def test_the_sampler_draws_once_per_emitted_token_in_order() -> None:
    """Rows after the first mismatch are never sampled."""
    sampler = EchoSampler()
    scheme = Match(sampler, UNTRUNCATED, VOCAB_SIZE)
    scheme.begin(7, [4, 5])
    assert sampler.begun == [(7, [4, 5])]
    scheme.verify(peaked(0, 1, 5, 4), Draft([0, 1, 2], is_point_mass=True))
    assert sampler.drawn == [0, 1, 5]
    scheme.verify(peaked(2, 3), Draft([2], is_point_mass=True))
    assert sampler.drawn == [0, 1, 5, 2, 3]


def random_rows(num_rows: int, seed: int, vocab_size: int = VOCAB_SIZE) -> Logits:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(num_rows, vocab_size)) * 2).astype(np.float32)


def softmax(row: Logits) -> Probabilities:
    weights = np.exp(row.astype(np.float64) - row.max())
    return np.asarray(weights / weights.sum())


def law(settings: SamplerSettings, row: Logits, context: Sequence[int]) -> NDArray[np.float64]:
    """Return the law after the chain, or the plain softmax at temperature 0, over all ids."""
    probabilities = np.zeros(VOCAB_SIZE)
    if settings.temperature == 0.0:
        probabilities[: len(row)] = softmax(row)
        return probabilities
    survivors = SamplerChain(settings, VOCAB_SIZE).survivors(row, context, ())
    probabilities[survivors.token_ids] = survivors.probabilities
    return probabilities


@pytest.mark.parametrize("kind", ["model", "smaller model", "point mass"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("greedy", GREEDY),
        ("greedy", SamplerSettings(temperature=0.0, repeat_penalty=1.3)),
        ("coupled", TRUNCATED),
        ("coupled", UNTRUNCATED),
        ("rejection", TRUNCATED),
        ("rejection", UNTRUNCATED),
        ("match", TRUNCATED),
        ("match", GREEDY),
    ],
)
def test_overlaps_are_one_minus_total_variation(
    name: str, settings: SamplerSettings, kind: str
) -> None:
    """Equal to brute force, after the context has grown, and for a second draft as well."""
    scheme = make_scheme(name, settings)
    context = [0, 1, 2]
    scheme.begin(5, context)
    for seed in range(20):
        history = list(context)
        # Adding the same to all logits of a row changes no law.
        shift = np.float32((0.0, 70.0, -70.0)[seed % 3])
        drafter_rows = random_rows(3, 2 * seed, VOCAB_SIZE - (kind == "smaller model")) + shift
        tokens = [4, 0, 4]
        if kind != "point mass":
            tokens = []
            for row in drafter_rows:
                tokens.append(scheme.draft(row, tokens))
        draft = Draft(tokens, is_point_mass=kind == "point mass")
        rows = random_rows(4, 2 * seed + 1) - shift
        verdict = scheme.verify(rows, draft)
        context += [*tokens[: verdict.accepted], verdict.next_token]
        num_reached = min(verdict.accepted + 1, 3)
        overlaps = scheme.overlaps(rows, draft, num_reached)
        assert overlaps.shape == (num_reached,)
        for i, token in enumerate(tokens[:num_reached]):
            prefix = [*history, *tokens[:i]]
            target_law = law(settings, rows[i], prefix)
            drafter_law = law(settings, drafter_rows[i], prefix)
            if draft.is_point_mass or name == "match":
                drafter_law = np.eye(VOCAB_SIZE)[token]
            expected = 1 - np.abs(target_law - drafter_law).sum() / 2
            assert overlaps[i] == pytest.approx(expected, abs=1e-6)
        assert scheme.overlaps(rows, draft, 0).shape == (0,)


def test_a_drafter_that_is_not_compared_leaves_no_rows() -> None:
    """The same verdict; asking for overlaps is a defect."""
    scheme = Greedy(GREEDY, VOCAB_SIZE, MAX_WINDOW, keeps_rows=False)
    scheme.begin(0, [0])
    token = scheme.draft(peaked(3)[0], [])
    draft = Draft([token], is_point_mass=False)
    assert scheme.verify(peaked(3, 1), draft) == Verdict(1, 1, "bonus")
    with pytest.raises(AssertionError, match="drafters' rows"):
        scheme.overlaps(peaked(3, 1), draft, 1)


@pytest.mark.parametrize("name", ["coupled", "rejection"])
def test_identical_laws_accept_everything(name: str) -> None:
    """A drafter equal to the target is never rejected, and overlaps it fully."""
    scheme = make_scheme(name, TRUNCATED)
    context = [0, 1]
    scheme.begin(3, context)
    for seed in range(50):
        rows = random_rows(MAX_WINDOW + 1, seed)
        tokens: list[int] = []
        for row in rows[:-1]:
            tokens.append(scheme.draft(row, tokens))
        draft = Draft(tokens, is_point_mass=False)
        verdict = scheme.verify(rows, draft)
        assert verdict.accepted == MAX_WINDOW
        assert scheme.overlaps(rows, draft, MAX_WINDOW) == pytest.approx(1.0)
        context += [*tokens, verdict.next_token]


def test_rejection_with_an_empty_residual_draws_from_the_target() -> None:
    """Rounding can leave nothing: both laws give 1 to a token and differ in a tiny share."""
    outcomes = [0, 1, 1]  # draw token 0, reject it, draw the second survivor
    scheme = Rejection(UNTRUNCATED, 2, MAX_WINDOW, lambda _: lambda _edges: outcomes.pop(0))
    scheme.begin(0, [0])
    assert scheme.draft(np.array([-44.0, 0.0], np.float32), []) == 0
    rows = np.array([[-45.0, 0.0], [0.0, 0.0]], np.float32)
    draft = Draft([0], is_point_mass=False)
    assert scheme.verify(rows, draft) == Verdict(0, 1, "recovered")
    assert not outcomes


@pytest.mark.parametrize("uniform", [0.0, 0.25, 0.5, 1 - 2**-53])
def test_a_token_without_probability_is_never_drawn(uniform: float) -> None:
    """At both ends of the uniform numbers and on every edge."""

    def chance(edges: Probabilities) -> int:
        return int(np.searchsorted(edges, uniform, side="right"))

    scheme = Rejection(UNTRUNCATED, VOCAB_SIZE, MAX_WINDOW, lambda _: chance)
    scheme.begin(0, [0])
    row = np.full(VOCAB_SIZE, -np.inf, np.float32)
    row[1] = row[4] = np.log(0.5)
    expected = 1 if uniform < 0.5 else 4
    assert scheme.draft(row, []) == expected
    empty = Draft((), is_point_mass=True)
    assert scheme.verify(row[np.newaxis], empty).next_token == expected


def test_seeded_chance_reaches_each_edge_in_proportion() -> None:
    """Outcome i has the width of the interval before edge i, and seeds decide."""
    edges = np.array([0.1, 0.1, 0.6])
    chance, again = seeded_chance(4), seeded_chance(4)
    outcomes = [chance(edges) for _ in range(10_000)]
    assert outcomes == [again(edges) for _ in range(10_000)]
    shares = np.bincount(outcomes, minlength=4) / 10_000
    assert shares[1] == 0.0
    # Three standard deviations of the widest share are 0.015.
    assert shares == pytest.approx([0.1, 0.0, 0.5, 0.4], abs=0.015)


@pytest.mark.parametrize("name", ["coupled", "rejection"])
def test_the_seed_decides_the_text(name: str) -> None:
    """Equal seeds emit equal tokens; other seeds do not."""

    def text(seed: int) -> list[int]:
        scheme = make_scheme(name, UNTRUNCATED)
        context = [0]
        scheme.begin(seed, context)
        for i in range(20):
            rows = random_rows(1, i)
            context.append(scheme.verify(rows, Draft((), is_point_mass=True)).next_token)
        return context

    assert text(1) == text(1)
    assert text(1) != text(2)


@pytest.mark.parametrize("name", ["greedy", "coupled", "rejection"])
def test_a_draft_longer_than_the_largest_window_is_a_defect(name: str) -> None:
    scheme = make_scheme(name, UNTRUNCATED)
    scheme.begin(0, [0])
    row = random_rows(1, 0)[0]
    scheme.draft(row, [0] * (MAX_WINDOW - 1))
    with pytest.raises(AssertionError, match="window of 4"):
        scheme.draft(row, [0] * MAX_WINDOW)


def test_rejection_notices_a_drawn_token_that_was_dropped() -> None:
    """Dropping a token after drawing it bends the law; giving up the whole draft does not."""
    scheme = Rejection(UNTRUNCATED, VOCAB_SIZE, MAX_WINDOW)
    scheme.begin(0, [0])
    rows = random_rows(3, 0)
    first = scheme.draft(rows[0], [])
    scheme.draft(rows[1], [first])
    with pytest.raises(AssertionError, match="drawn token is lost"):
        scheme.verify(rows, Draft([first], is_point_mass=False))
    assert scheme.verify(rows, Draft((), is_point_mass=False)).next_kind == "bonus"


@pytest.mark.parametrize("top_k", [40, 0])
@pytest.mark.parametrize("name", SCHEMES)
def test_a_round_takes_no_vocabulary_sized_memory(name: str, top_k: int) -> None:
    """Draft, verify and overlaps work in memory that was allocated once."""
    vocab_size = 100_000
    temperature = 0.0 if name == "greedy" else 0.8
    settings = SamplerSettings(temperature, top_k, repeat_penalty=1.1)
    scheme = make_scheme(name, settings, vocab_size)
    rows = random_rows(3, 0, vocab_size)
    scheme.begin(0, list(range(500)))
    tracemalloc.start()
    try:
        tokens = [scheme.draft(rows[0], [])]
        tokens.append(scheme.draft(rows[1], tokens))
        draft = Draft(tokens, is_point_mass=False)
        scheme.verify(rows, draft)
        scheme.overlaps(rows, draft, 2)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < vocab_size / 2
