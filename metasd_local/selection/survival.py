"""The chance that a drafter's next token stands, learned token by token from how sure it was."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

DISCOUNT = 0.98
"""What a token's evidence is worth once the next one is there."""
PRIOR_TOKENS = 2.0
"""Weight of the priors in how an arm does on the whole."""
LEVEL_TOKENS = 6.0
"""Weight of how an arm does on the whole in its chance at one level."""
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
    """Discounted counts of matches by level of confidence.

    Levels are intervals of how sure the drafter was: the margin of its token, or the length of
    the match it copied from. Levels with little evidence borrow from the priors, raised or
    lowered by how the arm does on the whole.
    """

    def __init__(self, kind: Kind, document: Mapping[str, Any] | None = None) -> None:
        """`document`: what `to_json` returned. Raises ValueError, TypeError and KeyError."""
        self.kind = kind
        self._bounds, self._priors = LEVELS[kind]
        priors = self._priors
        # Newer evidence weighs more, instead of older evidence less: nothing else has to change.
        self._weight = 1.0
        self._matches = [0.0] * len(priors)
        self._tokens = [0.0] * len(priors)
        self._expected = 0.0
        """Matches to be expected of the tokens seen if the priors were right."""
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
        self._expected = sum(map(float.__mul__, self._tokens, self._priors))

    def to_json(self) -> dict[str, object]:
        """Return the evidence as a document."""
        return {
            "kind": self.kind,
            "matches": [each / self._weight for each in self._matches],
            "tokens": [each / self._weight for each in self._tokens],
        }

    def observe(
        self, matches: Sequence[float], confidences: Sequence[float], share: float = 1.0
    ) -> None:
        """Learn from successive tokens, each worth a share of one; a NaN tells nothing."""
        for match, confidence in zip(matches, confidences, strict=True):
            if match != match:
                continue
            level = bisect(self._bounds, confidence)
            self._weight /= DISCOUNT
            weight = share * self._weight
            self._tokens[level] += weight
            self._matches[level] += weight * match
            self._expected += weight * self._priors[level]
        self._chances = []
        if self._weight > _LARGEST_WEIGHT:
            self._scale(1 / self._weight)
            self._weight = 1.0

    def cap(self, num_tokens: float) -> None:
        """Keep at most this weight of evidence."""
        if self.num_tokens > num_tokens:
            self._scale(num_tokens / self.num_tokens)

    @property
    def num_tokens(self) -> float:
        """Return the weight of the evidence."""
        return sum(self._tokens) / self._weight

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

    def _estimate(self) -> list[float]:
        prior, borrowed = PRIOR_TOKENS * self._weight, LEVEL_TOKENS * self._weight
        # How the arm does on the whole, where an arm does 1 if the priors are right.
        lift = (sum(self._matches) + prior) / (self._expected + prior)
        self._chances = [
            min((matches + borrowed * min(lift * usual, 1.0)) / (tokens + borrowed), LARGEST_CHANCE)
            for matches, tokens, usual in zip(
                self._matches, self._tokens, self._priors, strict=True
            )
        ]
        return self._chances

    def _scale(self, factor: float) -> None:
        self._chances = []
        self._matches = [factor * each for each in self._matches]
        self._tokens = [factor * each for each in self._tokens]
        self._expected *= factor
