"""Prompt lookup: draft what followed the last tokens when they occurred before."""

from __future__ import annotations

from collections.abc import Sequence

from metasd_local.protocols import Draft, Scheme

_NOTHING = Draft(tokens=(), is_point_mass=True)


class NgramDrafter:
    """Draft the continuation of the longest, then most recent, match in prompt and output.

    Matches are looked up in an index that grows by one token at a time; matches longer than
    `longest` tokens count as equally long. The copy may run into the draft itself, so a
    repetition is drafted to the full window. Source of the idea: prompt lookup decoding
    (Saxena, 2023, apoorvumang/prompt-lookup-decoding).
    """

    def __init__(self, name: str = "ngram", *, shortest: int = 3, longest: int = 8) -> None:
        self._name = name
        self._lengths = range(longest, shortest - 1, -1)
        self._tokens: list[int] = []
        self._continuations: dict[tuple[int, ...], int] = {}

    @property
    def name(self) -> str:
        """The arm's name."""
        return self._name

    @property
    def seconds_inside(self) -> float:
        """Zero: there is no foreign library."""
        return 0.0

    def begin(self, context: Sequence[int]) -> None:
        """Index `context`; what was indexed before is kept if `context` continues it."""
        num_known = len(self._tokens)
        if self._tokens != list(context[:num_known]):
            self._tokens.clear()
            self._continuations.clear()
            num_known = 0
        self.observe(context[num_known:])

    def catch_up(self, context: Sequence[int]) -> None:
        """Do nothing: every emitted token is indexed in its own round."""

    def propose(self, context: Sequence[int], window: int, scheme: Scheme) -> Draft:
        """Copy up to `window` tokens; none if nothing matches."""
        tokens = self._tokens
        for length in self._lengths:
            if length > len(tokens):
                continue
            start = self._continuations.get(tuple(tokens[-length:]))
            if start is None:
                continue
            draft = tokens[start : start + window]
            while len(draft) < window:
                draft.append(draft[start + len(draft) - len(tokens)])
            return Draft(tokens=draft, is_point_mass=True)
        return _NOTHING

    def observe(self, emitted: Sequence[int]) -> None:
        """Append `emitted` to the index: one entry per token and match length."""
        tokens, continuations = self._tokens, self._continuations
        for token in emitted:
            position = len(tokens)
            for length in self._lengths:
                if length <= position:
                    continuations[tuple(tokens[position - length :])] = position
            tokens.append(token)
