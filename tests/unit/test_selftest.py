"""The measures behind the self-test: the chi-squared test, the law of two tokens, near ties."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from metasd_local.backend.scripted import ScriptedModel
from metasd_local.events import RoundDone
from metasd_local.protocols import Logits, Scheme
from metasd_local.sampling import SamplerChain, SamplerSettings
from metasd_local.selftest.law import fold, law_of_two_tokens, p_value
from metasd_local.selftest.near_ties import Divergence, explain
from metasd_local.verify import Coupled, Greedy, Match, seeded_chance
from tests.enumeration import ScriptedSampler, target_law
from tests.enumeration import target as rule

WARM = SamplerSettings(1.0, 0, 1.0, 0.0)


def spread(*counts: int) -> tuple[dict[tuple[int, ...], int], dict[tuple[int, ...], float]]:
    """Return counts of equally likely outcomes, and their law."""
    outcomes: list[tuple[int, ...]] = [(token,) for token in range(len(counts))]
    return dict(zip(outcomes, counts, strict=True)), dict.fromkeys(outcomes, 1 / len(counts))


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([spread(60, 40)], math.erfc(math.sqrt(2))),  # chi-squared 4, 1 degree of freedom
        ([spread(120, 90, 90)], math.exp(-3)),  # chi-squared 6, 2 degrees
        ([spread(130, 76, 94)], math.exp(-7.56)),  # chi-squared 15.12, 2 degrees
        ([spread(60, 40), spread(40, 60)], math.exp(-4)),  # chi-squared 8, 2 degrees
        ([spread(100, 100, 100, 100)], 1.0),
    ],
)
def test_the_p_value_is_that_of_the_chi_squared_law(
    samples: list[tuple[dict[tuple[int, ...], int], dict[tuple[int, ...], float]]], expected: float
) -> None:
    assert p_value(samples) == pytest.approx(expected, rel=0.25)


def test_p_values_of_a_true_law_are_spread_evenly() -> None:
    law: dict[tuple[int, ...], float] = {(n,): 2.0 ** -(n + 1) for n in range(12)}
    law[(12,)] = 2.0**-12
    draws = np.random.default_rng(3).choice(13, size=(400, 500), p=list(law.values()))
    p_values = [
        p_value([({(value,): count for value, count in Counter(row).items()}, law)])
        for row in draws.tolist()
    ]
    for level in (0.05, 0.25, 0.5, 0.75):
        assert np.mean(np.array(p_values) < level) == pytest.approx(level, abs=0.06)


def test_an_impossible_outcome_is_no_accident_but_a_rare_one_is() -> None:
    law: dict[tuple[int, ...], float] = {(0,): 0.6, (1,): 0.4 - 1e-6, (2,): 1e-6}
    assert p_value([({(0,): 600, (1,): 400, (3,): 1}, law)]) == 0.0
    assert p_value([({(0,): 600, (1,): 399, (2,): 1}, law)]) > 0.01


def test_outcomes_are_told_apart_only_where_law_and_texts_do() -> None:
    law = {(0, 0): 0.25, (0, 1): 0.25, (1, 0): 0.125, (1, 1): 0.125, (2,): 0.25}
    counts = {(0, 1): 3, (1,): 2, (2, 0): 4, (2, 1): 1, (5, 5): 1}
    folded_counts, folded_law = fold(counts, law)
    assert folded_counts == {(0, 1): 3, (1,): 2, (2,): 5, (5, 5): 1}
    assert folded_law == {(0, 0): 0.25, (0, 1): 0.25, (1,): 0.25, (2,): 0.25}


class WideRows(ScriptedModel):
    """Adds `shift` to every row of a batch of more than one token."""

    shift: Sequence[float] = (0.0, 0.0, 0.0)

    def feed(self, tokens: Sequence[int], num_rows: int) -> Logits:
        """Append and return shifted rows."""
        rows = super().feed(tokens, num_rows)
        if len(tokens) > 1:
            rows += np.array(self.shift, np.float32)
        return rows


def test_the_law_of_two_tokens_is_the_targets_after_its_sampler_chain() -> None:
    settings = SamplerSettings(0.8, 2, 1.0, 0.0, repeat_penalty=1.3)
    model = ScriptedModel(rule, vocab_size=3)
    law = law_of_two_tokens(model, settings, (2, 0), max_width=4)
    assert law == pytest.approx(target_law(settings, 2))


def test_tokens_are_not_told_apart_where_batches_disagree_on_what_survives() -> None:
    model = WideRows(lambda _: np.array([1.0, 0.0, -1e-4], np.float32), vocab_size=3)
    model.shift = (0.0, 0.0, 1e-3)
    assert law_of_two_tokens(model, SamplerSettings(1.0, 2, 1.0, 0.0), (0, 0), max_width=1)
    assert not law_of_two_tokens(model, SamplerSettings(1.0, 2, 1.0, 0.0), (0, 0), max_width=4)


def a_round(drafted: int, emitted: tuple[int, ...]) -> RoundDone:
    return RoundDone(
        index=0,
        arm="code",
        window=5,
        drafted=drafted,
        accepted=len(emitted) - 1,
        emitted=emitted,
        next_kind="recovered",
        catch_up_s=0.0,
        draft_s=0.0,
        verify_s=0.0,
        own_s=0.0,
        reward=0.0,
    )


def explained(gap: float, shift: float, scheme: Scheme) -> Divergence:
    """Explain token 0 of a text, after two equal ones, by batches that move it by `shift`."""
    model = WideRows(lambda _: np.array([1.0, 1.0 - gap, -9.0], np.float32), vocab_size=3)
    model.shift = (-shift, 0.0, 0.0)
    plain, rounds = [0, 0, 0], [a_round(0, (0,)), a_round(3, (0, 1))]
    return explain(model, scheme, 1, (2, 2), plain, rounds)


@pytest.mark.parametrize("shift", [0.01, -0.01])
def test_a_gap_smaller_than_its_change_is_a_tie(shift: float) -> None:
    divergence = explained(0.004, shift, Greedy(WARM, 3, 5))
    assert divergence.position == 2
    assert divergence.is_near_tie
    assert divergence.gap == pytest.approx(0.004, rel=0.02)
    assert divergence.gap_change == pytest.approx(0.01, rel=0.02)


@pytest.mark.parametrize(("gap", "shift"), [(0.02, 0.01), (0.02, 0.0), (5.0, 0.01)])
def test_a_larger_gap_is_none(gap: float, shift: float) -> None:
    divergence = explained(gap, shift, Greedy(WARM, 3, 5))
    assert not divergence.is_near_tie
    assert divergence.gap == pytest.approx(gap, rel=0.02) or shift == 0.0


def test_a_round_without_a_draft_is_moved_by_the_wide_batches_before_it() -> None:
    """What is read in a wide batch stays in the memory with other last digits."""

    class WideMemory(ScriptedModel):
        def feed(self, tokens: Sequence[int], num_rows: int) -> Logits:
            if len(self._tokens) <= 1:
                self.was_wide = False
            rows = super().feed(tokens, num_rows)
            self.was_wide |= len(tokens) > 1
            return rows - np.array([0.01 * self.was_wide, 0.0, 0.0], np.float32)

    model = WideMemory(lambda _: np.array([1.0, 0.996, -9.0], np.float32), vocab_size=3)
    plain = [0, 0, 0]
    for rounds in (
        [a_round(3, (0, 0)), a_round(0, (1,))],
        [a_round(3, (0, 0)), a_round(4, (1,))],
        [a_round(0, (0,)), a_round(1, (0, 1))],
    ):
        assert explain(model, Greedy(WARM, 3, 5), 1, (2, 2), plain, rounds).is_near_tie
    rounds = [a_round(0, (0,)), a_round(0, (0,)), a_round(0, (1,))]
    assert not explain(model, Greedy(WARM, 3, 5), 1, (2, 2), plain, rounds).is_near_tie


def test_what_depends_on_the_rejected_tokens_is_no_tie() -> None:
    """A memory that leaks a rejected token must not excuse the text with the leak."""

    class Leaky(ScriptedModel):
        leaked = 0

        def rewind(self, length: int) -> None:
            self.leaked = self._tokens[-1] if 0 < length < len(self._tokens) else 0
            super().rewind(length)

        def feed(self, tokens: Sequence[int], num_rows: int) -> Logits:
            rows = super().feed(tokens, num_rows)
            rows += np.eye(3)[self.leaked]
            return rows

    model = Leaky(lambda _: np.array([1.0, 0.5, -9.0], np.float32), vocab_size=3)
    rounds = [a_round(3, (0,)), a_round(3, (1,))]
    assert not explain(model, Greedy(WARM, 3, 5), 1, (2, 2), [0, 0], rounds).is_near_tie


def uniform_seed(share: float) -> Match:
    """Return `match` with a sampler that takes the token a share of the law lies below."""
    chain = SamplerChain(WARM, 3)

    class Fixed(ScriptedSampler):
        def sample(self, logits: Logits) -> int:
            law = chain.survivors(logits, (), ())
            return int(law.token_ids[law.probabilities.cumsum().searchsorted(share)])

    return Match(Fixed(WARM, seeded_chance(0)), WARM, 3)


def test_a_draw_at_the_edge_between_two_tokens_is_a_tie_and_one_in_the_middle_is_not() -> None:
    """Equal logits are no tie for a scheme that draws, and unequal ones can be."""
    law = SamplerChain(WARM, 3).survivors(np.array([1.0, 0.5, -9.0], np.float32), (), ())
    edge = float(law.probabilities[0])
    assert explained(0.5, 0.01, uniform_seed(edge - 1e-4)).is_near_tie
    assert not explained(0.5, 0.01, uniform_seed(edge - 0.1)).is_near_tie
    assert not explained(0.0, 0.01, uniform_seed(0.25)).is_near_tie


def test_the_noise_of_coupled_belongs_to_the_gap() -> None:
    """Tokens of equal probability are far apart if their noise is."""
    assert not explained(0.0, 0.01, Coupled(WARM, 3, 5)).is_near_tie


def test_a_text_that_ends_early_is_no_tie() -> None:
    model = ScriptedModel(rule, vocab_size=3)
    divergence = explain(model, Greedy(WARM, 3, 5), 1, (2,), [0, 1], [a_round(1, (0,))])
    assert divergence == Divergence(1, math.inf, 0.0)
