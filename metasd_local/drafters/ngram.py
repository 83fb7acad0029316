"""Prompt lookup: draft what followed the last tokens when they occurred before."""

from __future__ import annotations

from collections.abc import Sequence

from metasd_local.protocols import Draft, Scheme

_NOTHING = Draft(tokens=(), is_point_mass=True)


class NgramDrafter:
    """Draft the continuation of the longest, then most recent, match in prompt and output.

    Matches start from an index of short n-grams that grows by one entry per token; matches longer
    than `longest` tokens count as equally long. The copy may run into the draft itself, so a
    repetition is drafted to the full window. Source of the idea: prompt lookup decoding
    (Saxena, 2023, apoorvumang/prompt-lookup-decoding).
    """

    seconds_inside = 0.0

    def __init__(self, name: str = "ngram", *, shortest: int = 3, longest: int = 8) -> None:
        self._name = name
        self._shortest = shortest
        self._longest = longest
        self._tokens: list[int] = []
        self._continuations: dict[tuple[int, ...], list[int]] = {}
        """Positions that follow an n-gram of the shortest length, ascending."""

    @property
    def name(self) -> str:
        """The arm's name."""
        return self._name

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
        starts = self._continuations.get(tuple(tokens[-self._shortest :]))
        if starts is None:
            return _NOTHING
        start = self._best(starts)
        draft = tokens[start : start + window]
        while len(draft) < window:
            draft.append(draft[start + len(draft) - len(tokens)])
        return Draft(tokens=draft, is_point_mass=True)

    def observe(self, emitted: Sequence[int]) -> None:
        """Append `emitted` to the index, one entry per token."""
        tokens, shortest, continuations = self._tokens, self._shortest, self._continuations
        first = max(len(tokens), shortest)
        tokens += emitted
        for position in range(first, len(tokens)):
            gram = tuple(tokens[position - shortest : position])
            if gram in continuations:
                continuations[gram].append(position)
            else:
                continuations[gram] = [position]

    def _best(self, starts: Sequence[int]) -> int:
        """Return the start with the longest match before it, the last one among equals."""
        best, matched = starts[-1], 0
        for start in reversed(starts):
            length = self._match_length(start, matched)
            if length > matched:
                best, matched = start, length
                if matched == self._longest:
                    break
        return best

    def _match_length(self, start: int, matched: int) -> int:
        """Return how many tokens before `start` equal the last ones; 0 if not above `matched`."""
        tokens = self._tokens
        end = len(tokens)
        if matched >= start or tokens[start - matched - 1] != tokens[end - matched - 1]:
            return 0
        length = self._shortest
        most = min(self._longest, start)
        while length < most and tokens[start - length - 1] == tokens[end - length - 1]:
            length += 1
        return length
