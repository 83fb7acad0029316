"""The chance that a drafter's next token stands, learned token by token from how sure it was."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

RECENT_DISCOUNT, DISCOUNT = 0.98, 0.999
"""What a token's evidence is worth once the next one is there: in how the drafter does just now,
and in what its confidence means."""
PRIOR_TOKENS = 2.0
"""Weight of the priors in how often levels occur."""
LEVEL_TOKENS = 6.0
"""Weight of the prior in a level's chance."""
SHIFT_PRECISION = 2.4
"""One over the variance, over texts, of how the log-odds of all levels differ from the usual."""
LARGEST_SHIFT = 3.0
LARGEST_CHANCE = 0.995

MARGIN_BOUNDS = (0.25, 0.5, 1.0, 2.0, 4.0)
MARGIN_PRIORS = (0.3, 0.4, 0.5, 0.65, 0.8, 0.9)
MARGIN_SHARES = (0.22, 0.16, 0.2, 0.18, 0.14, 0.1)
"""Chances of an unknown drafter by the margin of its token, and how often margins are such."""
LENGTH_BOUNDS = (4, 6, 9, 13, 20, 33)
LENGTH_PRIORS = (0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Chances of an index by the length of its match."""
Kind: TypeAlias = Literal["model", "index"]
LEVELS: Mapping[Kind, tuple[Sequence[float], Sequence[float]]] = {
    "model": (MARGIN_BOUNDS, MARGIN_PRIORS),
    "index": (LENGTH_BOUNDS, LENGTH_PRIORS),
}
_LARGEST_WEIGHT = 1e12


class Survival:
    """Discounted counts of matches by level of confidence, and how the drafter does just now.

    Levels are intervals of how sure the drafter was: the margin of its token, or the length of
    the match it copied from. What a level means changes slowly; how well a drafter does depends
    on the text, and shifts the log-odds of all levels alike. The shift is the first Newton step
    towards its most likely value.
    """

    def __init__(self, kind: Kind, document: Mapping[str, Any] | None = None) -> None:
        """`document`: what `to_json` returned. Raises ValueError, TypeError and KeyError."""
        self.kind = kind
        self._bounds, self._priors = LEVELS[kind]
        # Newer evidence weighs more, instead of older evidence less: nothing else has to change.
        self._weight = 1.0
        self._matches = [0.0] * len(self._priors)
        self._tokens = [0.0] * len(self._priors)
        self.num_recent = 0.0
        """Weight of the recent evidence, in tokens."""
        self._surplus = self._variance = 0.0
        """Of recent matches: how many more than usual, and the variance of that number."""
        self._chances: list[float] = []
        """By level; empty if not known since the last evidence."""
        if document is not None:
            self._restore(document["matches"], document["tokens"])

    def _restore(self, matches: Sequence[Any], tokens: Sequence[Any]) -> None:
        self._matches = [min(max(float(each), 0.0), _LARGEST_WEIGHT) for each in matches]
        self._tokens = [min(max(float(each), 0.0), _LARGEST_WEIGHT) for each in tokens]
        if not len(self._priors) == len(self._matches) == len(self._tokens):
            raise ValueError("counts of other levels")
        if any(match > token for match, token in zip(self._matches, self._tokens, strict=True)):
            raise ValueError("more matches than tokens")

    @property
    def num_tokens(self) -> float:
        """Return the weight of all evidence, in tokens."""
        return sum(self._tokens) / self._weight

    def to_json(self) -> dict[str, Any]:
        """Return what is usual as a document."""
        return {
            "kind": self.kind,
            "matches": [each / self._weight for each in self._matches],
            "tokens": [each / self._weight for each in self._tokens],
        }

    def observe(
        self, matches: Sequence[float], confidences: Sequence[float], share: float = 1.0
    ) -> None:
        """Learn from successive tokens, each worth a share of one; a NaN tells nothing."""
        kept, discount = RECENT_DISCOUNT**share, DISCOUNT**share
        recent, surplus, variance = self.num_recent, self._surplus, self._variance
        usual = self._usual()
        for match, confidence in zip(matches, confidences, strict=True):
            if match != match:
                continue
            level = bisect(self._bounds, confidence)
            chance = usual[level]
            recent = kept * recent + share
            surplus = kept * surplus + share * (match - chance)
            variance = kept * variance + share * chance * (1 - chance)
            self._weight /= discount
            self._tokens[level] += share * self._weight
            self._matches[level] += share * self._weight * match
        self.num_recent, self._surplus, self._variance = recent, surplus, variance
        self._chances = []
        if self._weight > _LARGEST_WEIGHT:
            self._tokens = [each / self._weight for each in self._tokens]
            self._matches = [each / self._weight for each in self._matches]
            self._weight = 1.0

    def fade(self, num_tokens: float) -> bool:
        """Let recent evidence weigh at most this much, and tell whether it weighed more."""
        if self.num_recent <= num_tokens:
            return False
        share = num_tokens / self.num_recent
        self.num_recent *= share
        self._surplus *= share
        self._variance *= share
        self._chances = []
        return True

    def chance(self, confidence: float) -> float:
        """Return the chance that a token of such confidence stands."""
        return (self._chances or self._estimate())[bisect(self._bounds, confidence)]

    def mix(self, shares: Sequence[float]) -> list[tuple[float, float]]:
        """Return chance and share of the tokens of every level, the surest first.

        shares: how often levels occur, for want of evidence.
        """
        prior = PRIOR_TOKENS * self._weight
        total = sum(self._tokens) + prior
        mixed = [
            (tokens + prior * share) / total
            for tokens, share in zip(self._tokens, shares, strict=True)
        ]
        return sorted(zip(self._chances or self._estimate(), mixed, strict=True), reverse=True)

    def _usual(self) -> list[float]:
        borrowed = LEVEL_TOKENS * self._weight
        return [
            (matches + borrowed * prior) / (tokens + borrowed)
            for matches, tokens, prior in zip(
                self._matches, self._tokens, self._priors, strict=True
            )
        ]

    def _estimate(self) -> list[float]:
        shift = self._surplus / (self._variance + SHIFT_PRECISION)
        odds = math.exp(min(max(shift, -LARGEST_SHIFT), LARGEST_SHIFT))
        self._chances = [
            min(odds * chance / (1 - chance + odds * chance), LARGEST_CHANCE)
            for chance in self._usual()
        ]
        return self._chances
