"""Every scheme emits the target's law, whatever is drafted: by enumeration, not by sampling.

Deliberately wrong schemes show that each check rejects what it should.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from metasd_local.protocols import Draft, Logits, Probabilities, Scheme, TargetSampler, Verdict
from metasd_local.sampling import SamplerChain, SamplerSettings, Survivors
from metasd_local.selftest.law import p_value
from metasd_local.verify import Chance, Coupled, Greedy, Match, Rejection, seeded_chance
from tests.enumeration import (
    MAX_WINDOW,
    PLANS,
    SETTINGS,
    VOCAB_SIZE,
    Plan,
    SchemeMaker,
    ScriptedSampler,
    adversary,
    error_of,
    generate,
    nothing,
    take,
    target_law,
)

END = 1
EXACT = 1e-12


def make_rejection(settings: SamplerSettings, chance: Chance) -> Scheme:
    """Return the rejection scheme driven by a chance."""
    return Rejection(settings, VOCAB_SIZE, MAX_WINDOW, lambda _: chance)


def make_match(settings: SamplerSettings, chance: Chance) -> Scheme:
    """Return the matching scheme with a sampler driven by a chance."""
    sampler: TargetSampler = ScriptedSampler(settings, chance)
    return Match(sampler, settings, VOCAB_SIZE)


MAKERS: dict[str, SchemeMaker] = {"rejection": make_rejection, "match": make_match}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_rejection_and_match_emit_the_law_of_the_target(
    make: SchemeMaker, plan: Plan, settings: SamplerSettings
) -> None:
    """The joint law of two tokens, for every source of drafts and every truncation."""
    assert error_of(make, settings, plan, num_tokens=2) < EXACT


@pytest.mark.parametrize(("name", "end"), [("penalised", END), ("truncated", None)])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_the_law_holds_over_several_rounds(make: SchemeMaker, name: str, end: int | None) -> None:
    """The joint law of three tokens; the end token may stand inside a draft."""
    assert error_of(make, SETTINGS[name], adversary, num_tokens=3, end=end) < EXACT


@pytest.mark.full
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_the_law_holds_over_several_rounds_in_full(
    make: SchemeMaker, plan: Plan, settings: SamplerSettings
) -> None:
    """The joint law of three tokens that may end early, for all combinations."""
    assert error_of(make, settings, plan, num_tokens=3, end=END) < EXACT


class Textbook:
    """Speculative sampling written once more, with one mistake to choose."""

    def __init__(
        self, settings: SamplerSettings, chance: Chance, mistake: str | None = None
    ) -> None:
        self._chain = SamplerChain(settings, VOCAB_SIZE)
        self._untruncated = SamplerChain(SamplerSettings(1.0, 0, 1.0, 0.0), VOCAB_SIZE)
        self._chance = chance
        self._mistake = mistake
        self._drafter_laws: list[Probabilities] = []
        self._context: Sequence[int] = ()

    def begin(self, seed: int, context: list[int]) -> None:
        """Remember the context."""
        self._context = context

    def draft(self, logits: Logits, drafted: Sequence[int]) -> int:
        """Draw from the drafter's law."""
        law = self._chain.survivors(logits, self._context, drafted)
        self._drafter_laws[len(drafted) :] = [dense(law)]
        return take(law, self._chance)

    def verify(self, rows: Logits, draft: Draft) -> Verdict:
        """Accept or reject, with the mistake."""
        tokens, mistake = draft.tokens, self._mistake
        for i, token in enumerate(tokens):
            target_law = self._law(rows[i], tokens[:i])
            drafter_law = np.eye(VOCAB_SIZE)[token]
            if not draft.is_point_mass:
                drafter_law = self._drafter_laws[i]
            ratio = min(1.0, target_law[token] / drafter_law[token])
            if mistake == "accepts the likeliest":
                ratio = float(target_law.argmax() == token)
            if self._chance(np.array([ratio])) == 0:
                continue
            minuend = target_law
            if mistake == "residual of the untruncated law":
                minuend = dense(self._untruncated.survivors(rows[i], (), ()))
            if mistake == "residual by index":
                survives = target_law > 0
                drafter_law[survives] = np.sort(drafter_law)[::-1][: survives.sum()]
            residual = np.maximum(minuend - drafter_law, 0.0)
            if mistake in ("no residual", "accepts the likeliest") or not residual.any():
                residual = target_law
            return Verdict(i, self._take(residual), "recovered")
        law = self._law(rows[len(tokens)], tokens)
        return Verdict(len(tokens), self._take(law), "bonus")

    def overlaps(self, rows: Logits, draft: Draft, num_positions: int) -> Probabilities:
        """Fail: no reward is asked for here."""
        raise AssertionError("overlaps are not part of the comparison")

    def expect(self, rows: Logits, first: int) -> None:
        """Fail: nothing is primed here."""
        raise AssertionError("expectations are not part of the comparison")

    def matches(self, rows: Logits, first: int) -> Sequence[float]:
        """Fail: no idle drafter is asked here."""
        raise AssertionError("matches are not part of the comparison")

    def margins(self) -> Sequence[float]:
        """Fail: no draft is cut here."""
        raise AssertionError("margins are not part of the comparison")

    def _law(self, row: Logits, drafted: Sequence[int]) -> Probabilities:
        if self._mistake == "penalty forgets the draft":
            drafted = ()
        return dense(self._chain.survivors(row, self._context, drafted))

    def _take(self, weights: Probabilities) -> int:
        return take(Survivors(np.arange(VOCAB_SIZE), weights), self._chance)


class SamplesEveryRow(Match):
    """Run the sampler on all rows first, past the first mismatch."""

    def verify(self, rows: Logits, draft: Draft) -> Verdict:
        """Sample all rows, then compare."""
        own = [self._sampler.sample(row) for row in rows]
        for i, token in enumerate(draft.tokens):
            if own[i] != token:
                return Verdict(i, own[i], "recovered")
        return Verdict(len(draft.tokens), own[-1], "bonus")


def dense(law: Survivors) -> Probabilities:
    """Return the probability of every token id."""
    probabilities = np.zeros(VOCAB_SIZE)
    probabilities[law.token_ids] = law.probabilities
    return probabilities


def test_the_textbook_passes_the_check_without_a_mistake() -> None:
    """What the wrong schemes below are rejected for is their mistake alone."""
    for settings in SETTINGS.values():
        assert error_of(Textbook, settings, adversary, 2) < EXACT


@pytest.mark.parametrize(
    "mistake",
    [
        "residual of the untruncated law",
        "residual by index",
        "no residual",
        "accepts the likeliest",
        "penalty forgets the draft",
    ],
)
def test_the_check_rejects_a_wrong_scheme(mistake: str) -> None:
    """Every known way to bend the law is far above the tolerance."""
    settings = SETTINGS["penalised and truncated"]
    assert error_of(partial(Textbook, mistake=mistake), settings, adversary, 2) > 1e-3


def test_the_check_rejects_a_sampler_run_past_the_first_mismatch() -> None:
    """The scripted sampler notices rows that do not follow its own draws."""

    def make(settings: SamplerSettings, chance: Chance) -> Scheme:
        return SamplesEveryRow(ScriptedSampler(settings, chance), settings, VOCAB_SIZE)

    with pytest.raises(AssertionError):
        error_of(make, SETTINGS["penalised"], adversary, 3)


def make_seeded_match(settings: SamplerSettings) -> Scheme:
    """Return the matching scheme with a sampler that is a function of its seed."""

    class SeededSampler(ScriptedSampler):
        def begin(self, seed: int, context: Sequence[int]) -> None:
            super().begin(seed, context)
            self._chance = seeded_chance(seed)

    return Match(SeededSampler(settings, seeded_chance(0)), settings, VOCAB_SIZE)


def count_divergences(make: Callable[[], Scheme], num_seeds: int) -> int:
    """Count the seeds for which drafts change the emitted tokens."""
    plans = list(PLANS.values())
    scheme, plain = make(), make()
    return sum(
        generate(scheme, plans[seed % len(plans)], 6, seed=seed)
        != generate(plain, nothing, 6, seed=seed)
        for seed in range(num_seeds)
    )


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_coupled_and_match_emit_the_same_tokens_with_and_without_drafts(
    settings: SamplerSettings,
) -> None:
    """The text is a function of seed, prompt and target alone."""
    assert count_divergences(lambda: Coupled(settings, VOCAB_SIZE, MAX_WINDOW), 500) == 0
    assert count_divergences(lambda: make_seeded_match(settings), 100) == 0


class NoisyByRow(Coupled):
    """Key the noise by the place in the draft instead of the place in the text."""

    def _draw(self, law: Survivors, position: int) -> int:
        noise = self._noise.exponentials(self._seed, position - len(self._context), law.token_ids)
        return int(law.token_ids[(law.probabilities / noise).argmax()])


def test_the_comparison_notices_schemes_that_depend_on_the_drafts() -> None:
    """Rejection and wrongly keyed noise emit other tokens with drafts than without."""
    settings = SETTINGS["untruncated"]
    for make in (Rejection, NoisyByRow):
        assert count_divergences(partial(make, settings, VOCAB_SIZE, MAX_WINDOW), 50) > 10


@pytest.mark.parametrize("name", ["untruncated", "penalised and truncated"])
def test_coupled_emits_the_law_of_the_target_over_seeds(name: str) -> None:
    """The joint law of two tokens fits; the law of a neighbouring temperature does not."""
    settings = SETTINGS[name]
    scheme = Coupled(settings, VOCAB_SIZE, MAX_WINDOW)
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(4000):
        tokens = generate(scheme, adversary, 2, seed=seed)
        counts[tokens] = counts.get(tokens, 0) + 1
    assert p_value([(counts, target_law(settings, 2))]) > 1e-4
    warmer = replace(settings, temperature=settings.temperature * 1.5)
    assert p_value([(counts, target_law(warmer, 2))]) < 1e-4


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_greedy_emits_the_likeliest_tokens(plan: Plan) -> None:
    """The text is the target's own argmax, token by token, after the penalty."""
    texts = set()
    for settings in (
        SamplerSettings(temperature=0.0),
        SamplerSettings(temperature=0.0, repeat_penalty=2.0, penalty_last_n=3),
        SamplerSettings(temperature=0.0, repeat_penalty=2.0, penalty_last_n=1),
    ):
        tokens = generate(Greedy(settings, VOCAB_SIZE, MAX_WINDOW), plan, 40)
        assert target_law(settings, 40) == {tokens: 1.0}
        texts.add(tokens)
    assert len(texts) == 3
