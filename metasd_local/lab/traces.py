"""Synthetic truth about answers: which tokens every drafter would get right, and how likely.

One expert per topic, good there and weak elsewhere; one general drafter; prompt lookup, which
drafts little unless the answer copies. How hard the text is drifts for all models alike.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metasd_local.protocols import NGRAM, PLAIN, Probabilities

GENERAL = "general"
NUM_PROMPT_TOKENS = 32
SHORTEST_MATCH = 3
MODEL_FREE = (PLAIN, NGRAM)

# Ranges of the probability that a token matches, before the drift of difficulty.
_EXPERT_AT_HOME = (0.75, 0.85)
_EXPERT_ELSEWHERE = (0.45, 0.55)
_GENERAL_ANYWHERE = (0.60, 0.68)
_COPYING, _NOT_COPYING = 0.96, 0.10
_COPIED_SHARE = (0.05, 0.30)
"""Share of a topic's tokens that are copied from before."""
_BURST_TOKENS = (8, 30)
_CHANCE_MATCH_RATE = 0.2
"""Share of the tokens outside copies at which an n-gram has occurred before nevertheless."""
_DIFFICULTY_MEMORY, _DIFFICULTY_STEP = 0.8, 0.6
"""Autoregression of the difficulty from token to token, in logits."""


@dataclass(frozen=True, slots=True)
class Trace:
    """The truth about one answer. Arrays are `(num_arms, num_tokens)`."""

    arms: tuple[str, ...]
    probabilities: Probabilities
    """How likely the arm's draft of each token was to match, all tokens before it given."""
    matches: NDArray[np.bool_]
    """Whether it does."""
    has_draft: NDArray[np.bool_]
    """Whether the arm has anything to propose for a draft that begins at this token."""
    num_prompt_tokens: int = 0
    """How many of the tokens end the prompt: the answer begins after them."""

    def leading_matches(self) -> NDArray[np.intp]:
        """Return how many tokens in a row match from each token on, `(num_arms, num_tokens)`."""
        positions = np.arange(self.matches.shape[1])
        misses = np.where(self.matches, len(positions), positions)
        next_misses = np.minimum.accumulate(misses[:, ::-1], axis=1)[:, ::-1]
        return next_misses - positions

    def match_lengths(self) -> NDArray[np.intp]:
        """Return how long a match an index would have, `(num_arms, num_tokens)`.

        As long as the text has followed it, and what an index begins with; 0 without a draft.
        """
        follows = np.zeros_like(self.matches)
        follows[:, 1:] = self.has_draft[:, :-1] & self.matches[:, :-1]
        positions = np.arange(follows.shape[1])
        begun_at = np.maximum.accumulate(np.where(follows, 0, positions), axis=1)
        return np.where(self.has_draft, SHORTEST_MATCH + positions - begun_at, 0)

    def expected_emitted(self, window: int) -> Probabilities:
        """Return the mean tokens of a round from each token on, `(num_arms, num_tokens)`."""
        survival = self.has_draft.astype(np.float64)
        emitted = np.ones_like(survival)
        for offset in range(window):
            following = self.probabilities[:, offset:]
            survival = survival[:, : following.shape[1]] * following
            emitted[:, : following.shape[1]] += survival
        return emitted


def arm_names(num_drafters: int) -> tuple[str, ...]:
    """Return `plain` and the drafters of a pool: two are a general one and one expert.

    From three on, prompt lookup is among them.
    """
    free = (NGRAM,) * (num_drafters > 2)
    num_experts = num_drafters - 1 - len(free)
    return (PLAIN, GENERAL, *free, *(f"expert{index + 1}" for index in range(num_experts)))


def draw_trace(
    rng: np.random.Generator, num_drafters: int, num_tokens: int, *, topic_tokens: int
) -> Trace:
    """Draw an answer that moves to another topic after every `topic_tokens` tokens.

    The end of the prompt is of the answer's first topic. num_drafters: at least 2. There is a
    topic for every expert, and one more if there is only one expert, in which the general drafter
    is the best model.
    """
    arms = arm_names(num_drafters)
    experts = [index for index, arm in enumerate(arms) if arm.startswith("expert")]
    edges = [
        0,
        *range(NUM_PROMPT_TOKENS + topic_tokens, NUM_PROMPT_TOKENS + num_tokens, topic_tokens),
    ]
    num_tokens += NUM_PROMPT_TOKENS
    difficulty = _draw_difficulty(rng, num_tokens)
    probabilities = np.zeros((len(arms), num_tokens))
    has_draft = np.ones(probabilities.shape, dtype=np.bool_)
    has_draft[arms.index(PLAIN)] = False
    num_topics = max(len(experts), 2)
    topic = int(rng.integers(num_topics))
    for first, last in itertools.pairwise([*edges, num_tokens]):
        tokens = slice(first, last)
        at_home = dict.fromkeys(experts[topic : topic + 1], _EXPERT_AT_HOME)
        for index in (arms.index(GENERAL), *experts):
            usual = _EXPERT_ELSEWHERE if index in experts else _GENERAL_ANYWHERE
            base = rng.uniform(*at_home.get(index, usual))
            odds = np.exp(difficulty[tokens]) * (1 - base) / base
            probabilities[index, tokens] = 1 / (1 + odds)
        if NGRAM in arms:
            index = arms.index(NGRAM)
            copied = _draw_copied(rng, last - first)
            probabilities[index, tokens] = np.where(copied, _COPYING, _NOT_COPYING)
            by_chance = rng.random(copied.shape) < _CHANCE_MATCH_RATE
            has_draft[index, tokens] = copied | by_chance
        topic = (topic + int(rng.integers(1, num_topics))) % num_topics
    matches = rng.random(probabilities.shape) < probabilities
    return Trace(arms, probabilities, matches, has_draft, NUM_PROMPT_TOKENS)


def _draw_difficulty(rng: np.random.Generator, num_tokens: int) -> Probabilities:
    """Return a stationary autoregression as a sum over its last 50 steps, `(num_tokens,)`."""
    weights = _DIFFICULTY_STEP * _DIFFICULTY_MEMORY ** np.arange(50)
    return np.convolve(rng.normal(size=num_tokens + 49), weights, mode="valid")


def _draw_copied(rng: np.random.Generator, num_tokens: int) -> NDArray[np.bool_]:
    """Return which tokens lie in a burst of copying, `(num_tokens,)`."""
    share = rng.uniform(*_COPIED_SHARE)
    shortest, longest = _BURST_TOKENS
    gap_tokens = (shortest + longest) / 2 * (1 - share) / share
    num_bursts = num_tokens // (shortest + 1) + 1
    gaps = rng.geometric(1 / gap_tokens, num_bursts)
    bursts = rng.integers(shortest, longest + 1, num_bursts)
    edges = np.cumsum(np.column_stack((gaps, bursts)).ravel())
    copied: NDArray[np.bool_] = np.searchsorted(edges, np.arange(num_tokens), side="right") % 2 == 1
    return copied
