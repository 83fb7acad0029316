"""What is decided about an emulated answer before it is decoded: its tokens, and who is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metasd_local.bench.prompts import Prompt
from metasd_local.lab.profile import NgramLookup, Profile
from metasd_local.lab.traces import Trace
from metasd_local.protocols import NGRAM

NUM_PROMPT_POSITIONS = 64
"""How many of the prompt's last tokens the trace of an answer begins with."""


@dataclass(frozen=True, slots=True)
class EmulatedAnswer:
    """One prompt and all that is decided about its answer beforehand."""

    prompt: Sequence[int]
    tokens: Sequence[int]
    """Emitted token ids by position."""
    trace: Trace
    """Who is right where; it may begin before a short prompt does."""


def draw_answer(
    profile: Profile, prompt: Prompt, *, vocab_size: int, num_tokens: int, seed: int
) -> EmulatedAnswer:
    """Draw a prompt and an answer of `num_tokens`; the same arguments draw the same ones."""

    def rng(purpose: str) -> np.random.Generator:
        return np.random.default_rng([seed, *f"{prompt.domain}/{prompt.text}/{purpose}".encode()])

    # A bench warms up with a prompt of no domain.
    domain = profile.domains.get(prompt.domain) or next(iter(profile.domains.values()))
    rng_tokens = rng("tokens")
    prompt_tokens = rng_tokens.integers(vocab_size, size=profile.prompt_tokens).tolist()
    tokens = rng_tokens.integers(vocab_size, size=num_tokens).tolist()
    positions = np.arange(-NUM_PROMPT_POSITIONS, num_tokens)
    probabilities = np.zeros((len(profile.arms), len(positions)))
    matches = np.zeros(probabilities.shape, dtype=np.bool_)
    has_draft = np.ones(probabilities.shape, dtype=np.bool_)
    for index, name in enumerate(profile.drafters):
        parts = domain.acceptance[name]
        # The prompt is like the first part of the answer.
        probabilities[index] = np.take(parts, positions.clip(0) * len(parts) // num_tokens)
        matches[index] = rng(f"drafter {name}").random(len(positions)) < probabilities[index]
    if profile.has_ngram:
        lookup = domain.ngram or NgramLookup()
        draws = rng(NGRAM).random((len(positions), 4))
        is_redrawn = draws[:, 0] < 1 / lookup.run_tokens
        run_starts = np.maximum.accumulate(np.where(is_redrawn, np.arange(len(positions)), 0))
        is_copied = draws[run_starts, 1] < lookup.copied_share
        probabilities[-1] = np.where(is_copied, lookup.copied_acceptance, lookup.acceptance)
        has_draft[-1] = is_copied | (draws[:, 2] < lookup.match)
        matches[-1] = draws[:, 3] < probabilities[-1]
    trace = Trace(profile.arms, probabilities, matches, has_draft, NUM_PROMPT_POSITIONS)
    return EmulatedAnswer(prompt_tokens, tokens, trace)
