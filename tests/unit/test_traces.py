"""Synthetic traces: what they declare is what they draw."""

from __future__ import annotations

import math

import numpy as np
import pytest

from metasd_local.lab.traces import GENERAL, Trace, arm_names, draw_trace
from metasd_local.protocols import NGRAM, PLAIN


def draw(seed: int, num_drafters: int = 4, num_tokens: int = 20_000, topics: int = 1) -> Trace:
    rng = np.random.default_rng(seed)
    return draw_trace(rng, num_drafters, num_tokens, topic_tokens=num_tokens // topics)


@pytest.mark.parametrize(
    ("num_drafters", "names"),
    [
        (2, (PLAIN, GENERAL, "expert1")),
        (3, (PLAIN, GENERAL, NGRAM, "expert1")),
        (5, (PLAIN, GENERAL, NGRAM, "expert1", "expert2", "expert3")),
    ],
)
def test_a_pool_is_plain_and_as_many_drafters_as_asked(
    num_drafters: int, names: tuple[str, ...]
) -> None:
    assert arm_names(num_drafters) == names


@pytest.mark.parametrize("num_drafters", [2, 4, 8])
def test_tokens_match_as_often_as_declared(num_drafters: int) -> None:
    trace = draw(1, num_drafters)
    for probabilities, matches in zip(trace.probabilities, trace.matches, strict=True):
        deviation = math.sqrt((probabilities * (1 - probabilities)).sum())
        assert abs(matches.sum() - probabilities.sum()) <= 4 * deviation
        # Likely tokens apart from unlikely ones: the indicators follow their own probability.
        likely = probabilities > np.median(probabilities)
        if likely.any():
            assert matches[likely].mean() == pytest.approx(probabilities[likely].mean(), abs=0.02)


@pytest.mark.parametrize("seed", range(8))
def test_one_expert_is_at_home_and_the_general_drafter_comes_second(seed: int) -> None:
    trace = draw(seed, 6)
    means = dict(zip(trace.arms, trace.probabilities.mean(axis=1), strict=True))
    experts = sorted(means[arm] for arm in trace.arms if arm.startswith("expert"))
    assert experts[-1] > 0.68 > means[GENERAL] > 0.56 > experts[-2]
    assert experts[0] > 0.40


def test_another_topic_is_another_experts_home() -> None:
    for seed in range(20):
        trace = draw(seed, 4, num_tokens=4000, topics=2)
        experts = trace.probabilities[[trace.arms.index("expert1"), trace.arms.index("expert2")]]
        first, second = experts[:, :2000].mean(axis=1), experts[:, 2000:].mean(axis=1)
        assert first.argmax() != second.argmax()


def test_the_only_expert_has_a_topic_that_is_not_its_own() -> None:
    best = set()
    for seed in range(20):
        trace = draw(seed, 2, num_tokens=2000)
        best.add(trace.arms[int(trace.probabilities.mean(axis=1).argmax())])
    assert best == {GENERAL, "expert1"}


def test_difficulty_drifts_for_all_models_alike() -> None:
    trace = draw(3)
    models = [index for index, arm in enumerate(trace.arms) if arm not in (PLAIN, NGRAM)]
    logits = np.log(trace.probabilities[models] / (1 - trace.probabilities[models]))
    drift = logits - logits.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(drift, np.broadcast_to(drift[0], drift.shape), atol=1e-9)
    assert drift[0].std() == pytest.approx(0.6 / math.sqrt(1 - 0.8**2), rel=0.05)
    assert np.corrcoef(drift[0][1:], drift[0][:-1])[0, 1] == pytest.approx(0.8, abs=0.02)


def test_the_ngram_drafter_copies_in_bursts_and_seldom_drafts_between_them() -> None:
    shares = []
    for seed in range(40):
        trace = draw(seed, 3, num_tokens=5000)
        ngram = trace.arms.index(NGRAM)
        copied = trace.probabilities[ngram] > 0.5
        assert trace.has_draft[ngram][copied].all()
        assert trace.has_draft[ngram][~copied].mean() == pytest.approx(0.2, abs=0.03)
        shares.append(copied.mean())
        edges = np.flatnonzero(np.diff(copied.astype(int)))
        # After the first edge bursts and gaps alternate; a gap may be short, a burst may not.
        lengths = np.diff(edges)[int(not copied[edges[0] + 1]) :: 2]
        assert lengths.min() >= 8
        assert lengths.max() > 20
    assert np.mean(shares) == pytest.approx((0.05 + 0.30) / 2, abs=0.03)
    assert max(shares) - min(shares) > 0.1


def test_plain_has_no_drafts_and_models_always_have() -> None:
    trace = draw(5)
    drafts = dict(zip(trace.arms, trace.has_draft, strict=True))
    assert not drafts[PLAIN].any()
    assert drafts[GENERAL].all()
    assert drafts["expert1"].all()


def test_leading_matches_count_up_to_the_next_miss() -> None:
    matches = np.array([[True, True, False, True, True], [False, False, True, False, False]])
    trace = Trace(("a", "b"), matches.astype(float), matches, np.ones_like(matches))
    assert trace.leading_matches().tolist() == [[2, 1, 0, 2, 1], [0, 0, 1, 0, 0]]


@pytest.mark.parametrize("window", [0, 1, 3, 10])
def test_expected_emitted_is_the_sum_of_survival(window: int) -> None:
    rng = np.random.default_rng(7)
    probabilities = rng.random((2, 6))
    has_draft = rng.random((2, 6)) < 0.7
    trace = Trace(("a", "b"), probabilities, probabilities < 0.5, has_draft)
    expected = [
        [
            1 + sum(np.prod(row[start : start + k]) for k in range(1, min(window, 6 - start) + 1))
            if has_draft[arm, start]
            else 1.0
            for start in range(6)
        ]
        for arm, row in enumerate(probabilities)
    ]
    np.testing.assert_allclose(trace.expected_emitted(window), expected)
