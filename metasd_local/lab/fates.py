"""What is decided about an emulated answer before it is decoded: its tokens, and who is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metasd_local.bench.prompts import Prompt
from metasd_local.lab.profile import NgramLookup, Profile
from metasd_local.lab.traces import SHORTEST_MATCH
from metasd_local.protocols import NGRAM, Probabilities

NUM_PSEUDO_POSITIONS = 64
"""Positions before the answer that have indicators too: -64 to -1, the prompt's last tokens."""


@dataclass(frozen=True, slots=True)
class ArmFate:
    """How one drafter fares at every position, the first of which is -NUM_PSEUDO_POSITIONS."""

    probabilities: Probabilities
    """Chance that the drafter's token is right."""
    is_right: Sequence[bool]
    match_lengths: Sequence[int]
    """Length of the match that prompt lookup has; 0: it proposes nothing. Empty for a model."""

    def has_draft(self, position: int) -> bool:
        """Tell whether the drafter has anything to propose."""
        return not self.match_lengths or self.match_lengths[position + NUM_PSEUDO_POSITIONS] > 0


@dataclass(frozen=True, slots=True)
class EmulatedAnswer:
    """One prompt and all that is decided about its answer beforehand."""

    prompt: Sequence[int]
    tokens: Sequence[int]
    """Emitted token ids by position."""
    fates: Mapping[str, ArmFate]


def draw_answer(
    profile: Profile, prompt: Prompt, *, vocab_size: int, num_tokens: int, seed: int
) -> EmulatedAnswer:
    """Draw a prompt and an answer of `num_tokens`; the same arguments draw the same ones."""

    def rng(purpose: str) -> np.random.Generator:
        return np.random.default_rng([seed, *f"{prompt.domain}/{prompt.text}/{purpose}".encode()])

    # A bench warms up with a prompt of no domain.
    values = profile.domains.get(prompt.domain) or next(iter(profile.domains.values()))
    rng_tokens = rng("tokens")
    prompt_tokens = rng_tokens.integers(vocab_size, size=profile.prompt_tokens).tolist()
    tokens = rng_tokens.integers(vocab_size, size=num_tokens).tolist()
    fates = {
        name: _model_fate(values.acceptance[name], num_tokens, rng(f"drafter {name}"))
        for name in profile.drafters
    }
    if profile.has_ngram:
        fates[NGRAM] = _ngram_fate(values.ngram or NgramLookup(), num_tokens, rng(NGRAM))
    return EmulatedAnswer(prompt_tokens, tokens, fates)


def _model_fate(parts: Sequence[float], num_tokens: int, rng: np.random.Generator) -> ArmFate:
    # The prompt is like the first part of the answer.
    part = np.arange(-NUM_PSEUDO_POSITIONS, num_tokens).clip(0) * len(parts) // num_tokens
    probabilities = np.take(parts, part)
    is_right = rng.random(len(part)) < probabilities
    return ArmFate(probabilities, is_right.tolist(), ())


def _ngram_fate(lookup: NgramLookup, num_tokens: int, rng: np.random.Generator) -> ArmFate:
    num_positions = NUM_PSEUDO_POSITIONS + num_tokens
    draws = rng.random((num_positions, 4))
    is_redrawn = draws[:, 0] < 1 / lookup.run_tokens
    run_starts = np.maximum.accumulate(np.where(is_redrawn, np.arange(num_positions), 0))
    is_copied = draws[run_starts, 1] < lookup.copied_share
    probabilities = np.where(is_copied, lookup.copied_acceptance, lookup.acceptance)
    has_match = is_copied | (draws[:, 2] < lookup.match)
    is_right = draws[:, 3] < probabilities
    lengths: list[int] = []
    following = 0
    for right, matches in zip(is_right, has_match, strict=True):
        lengths.append(SHORTEST_MATCH + following if matches else 0)
        following = following + 1 if matches and right else 0
    return ArmFate(probabilities, is_right.tolist(), lengths)
