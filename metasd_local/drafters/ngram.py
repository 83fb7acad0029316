"""Prompt lookup: draft what followed the last tokens when they occurred before."""

from __future__ import annotations

import math
from collections.abc import Sequence

from metasd_local.protocols import Draft, Evidence, Keeps, Offer, Scheme

_NOTHING = Draft(tokens=(), is_point_mass=True)
ORDERS = (12, 6, 3)
"""Lengths of the n-grams that are looked up, the longest first."""
LONGEST_MATCH = 64
"""Longer matches count as this long."""


class NgramDrafter:
    """Draft the continuation of a long and recent match in prompt and output.

    A match is followed as long as the text repeats it and no longer n-gram among `orders` occurred
    before; of such n-grams the longest counts, and its last occurrence. Reading a token takes a
    constant time. The copy may run into the draft itself, so a repetition is drafted to the full
    window. Source of the idea: prompt lookup decoding (Saxena, 2023,
    apoorvumang/prompt-lookup-decoding).
    """

    def __init__(self, name: str = "ngram", *, orders: Sequence[int] = ORDERS) -> None:
        self.name = name
        self._orders = orders
        self._tokens: list[int] = []
        self._followers: dict[tuple[int, ...], int] = {}
        """Position after the last occurrence of an n-gram."""
        self._start = 0
        """Position whose token is expected next, if the match is not empty."""
        self._match_length = 0
        self._matches: list[float] = []
        self._match_lengths: list[int] = []
        """Of every token read since the last evaluation."""

    def begin(self, context: Sequence[int]) -> None:
        """Index `context`; what was indexed before is kept if `context` continues it."""
        num_known = len(self._tokens)
        if self._tokens != list(context[:num_known]):
            self._tokens.clear()
            self._followers.clear()
            self._match_length = 0
        self.catch_up(context)
        self._forget_evidence()

    def catch_up(self, context: Sequence[int]) -> None:
        """Index the tokens that were emitted since the last call."""
        for token in context[len(self._tokens) :]:
            self._read(token)

    def offer(self, context: Sequence[int]) -> Offer:
        """Tell how long the match is."""
        self.catch_up(context)
        return Offer(unread=0, match_length=self._match_length)

    def evaluate(self, context: Sequence[int], scheme: Scheme) -> Evidence:
        """Tell of every token emitted since the last call whether it was the one expected."""
        self.catch_up(context)
        evidence = Evidence(self._matches, self._match_lengths)
        self._forget_evidence()
        return evidence

    def propose(
        self, context: Sequence[int], window: int, scheme: Scheme, keeps: Keeps | None = None
    ) -> Draft:
        """Copy up to `window` tokens; none if nothing matches."""
        self.catch_up(context)
        if not self._match_length:
            return _NOTHING
        tokens, start = self._tokens, self._start
        draft = tokens[start : start + window]
        while len(draft) < window:
            draft.append(draft[start + len(draft) - len(tokens)])
        return Draft(tokens=draft, is_point_mass=True)

    def observe(self, emitted: Sequence[int]) -> None:
        """Do nothing: tokens are indexed when the index is next asked for."""

    def _forget_evidence(self) -> None:
        self._matches, self._match_lengths = [], []

    def _read(self, token: int) -> None:
        """Append a token, follow the match or find a new one, index the n-grams that end here."""
        tokens, followers = self._tokens, self._followers
        is_match = self._match_length > 0 and tokens[self._start] == token
        self._matches.append(float(is_match) if self._match_length else math.nan)
        self._match_lengths.append(self._match_length)
        if is_match:
            self._start += 1
            self._match_length = min(self._match_length + 1, LONGEST_MATCH)
        else:
            self._match_length = 0
        tokens.append(token)
        position = len(tokens)
        for order in self._orders:
            if position < order:
                continue
            gram = tuple(tokens[-order:])
            if self._match_length < order and gram in followers:
                self._start = followers[gram]
                self._match_length = self._measure(order)
            followers[gram] = position

    def _measure(self, length: int) -> int:
        """Return how many tokens before `_start` equal the last ones, `length` at least."""
        tokens, start = self._tokens, self._start
        end, most = len(tokens), min(LONGEST_MATCH, start)
        while length < most and tokens[start - length - 1] == tokens[end - length - 1]:
            length += 1
        return length
