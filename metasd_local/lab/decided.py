"""A scheme and drafters that work for real and then say what was decided beforehand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from metasd_local.drafters.model import EVALUATED_ROWS, ModelDrafter
from metasd_local.lab.answers import EmulatedAnswer
from metasd_local.protocols import (
    NGRAM,
    PLAIN,
    Draft,
    Evidence,
    Keeps,
    Logits,
    Offer,
    Probabilities,
    Scheme,
    TokenModel,
    Verdict,
)

_NO_DRAFT = Draft(tokens=(), is_point_mass=True)


class EmulatedScheme:
    """Do the work of a real scheme, then judge drafts by what was decided beforehand.

    Every row the real scheme would read is given to it as a row of its own, so that what it pays
    per token is paid: with `Greedy` the likeliest token of each row, on both sides.
    """

    def __init__(self, real: Scheme, answer: EmulatedAnswer) -> None:
        self._real = real
        self._tokens = answer.tokens
        self._num_prompt_tokens = len(answer.prompt)
        trace = answer.trace
        self._trace_start = len(answer.prompt) - trace.num_prompt_tokens
        """Position in the context of the first token the trace knows."""
        self._probabilities: Mapping[str, Probabilities] = dict(
            zip(trace.arms, trace.probabilities, strict=True)
        )
        self._is_right = dict(zip(trace.arms, trace.matches.tolist(), strict=True))
        self._match_lengths = dict(zip(trace.arms, trace.match_lengths().tolist(), strict=True))
        self._context: Sequence[int] = ()
        self._arm = PLAIN
        self._verified_from = 0

    def begin(self, seed: int, context: list[int]) -> None:
        """Start the answer, whose prompt is `context`."""
        self._context = context
        self._real.begin(seed, context)

    def turn_to(self, arm: str) -> None:
        """Take the drafts and rows that follow as those of `arm`."""
        self._arm = arm

    def drafted_token(self, offset: int) -> int:
        """Return the drafter's token `offset` positions after the context."""
        position = len(self._context) + offset
        token = self._tokens[position - self._num_prompt_tokens]
        if self._is_right[self._arm][position - self._trace_start]:
            return token
        return 0 if token else 1

    def draft(self, logits: Logits, drafted: Sequence[int]) -> int:
        """Let the real scheme draw, and return the token that was decided on."""
        self._real.draft(logits, drafted)
        return self.drafted_token(len(drafted))

    def verify(self, rows: Logits, draft: Draft) -> Verdict:
        """Accept up to the first token that is wrong."""
        self._verified_from = len(self._context)
        num_drafted = len(draft.tokens)
        position = len(self._context) - self._num_prompt_tokens
        own_tokens = self._tokens[position : position + num_drafted + 1]
        for i, token in enumerate(draft.tokens):
            self._real.verify(rows[i : i + 1], _NO_DRAFT)
            if token != own_tokens[i]:
                return Verdict(i, own_tokens[i], "recovered")
        self._real.verify(rows[num_drafted:], _NO_DRAFT)
        return Verdict(num_drafted, own_tokens[num_drafted], "bonus")

    def overlaps(self, rows: Logits, draft: Draft, num_positions: int) -> Probabilities:
        """Let the real scheme compare the laws, and return the profile's probabilities."""
        for i in range(num_positions):
            single = Draft(draft.tokens[i : i + 1], draft.is_point_mass)
            self._real.overlaps(rows[i : i + 1], single, 1)
        return self._probabilities[self._arm][self._traced(self._verified_from, num_positions)]

    def expect(self, rows: Logits, first: int) -> None:
        """Let the real scheme note what it would."""
        self._real.expect(rows, first)

    def matches(self, rows: Logits, first: int) -> Sequence[float]:
        """Let the real scheme compare, and return what was decided."""
        self._real.matches(rows, first)
        return self.decided(self._arm, first, len(rows))

    def margins(self) -> Sequence[float]:
        """Return nothing: the profile does not say how sure a drafter is."""
        return ()

    def decided(self, arm: str, first: int, num_tokens: int) -> Sequence[float]:
        """Return for `num_tokens` positions of the context whether the drafter is right there."""
        return list(map(float, self._is_right[arm][self._traced(first, num_tokens)]))

    def match_lengths(self, first: int, num_tokens: int) -> Sequence[int]:
        """Return how long a match prompt lookup has at `num_tokens` positions of the context."""
        found: Sequence[int] = self._match_lengths[NGRAM][self._traced(first, num_tokens)]
        return found

    def _traced(self, first: int, num_tokens: int) -> slice:
        """Return where the trace has `num_tokens` positions of the context."""
        begin = first - self._trace_start
        return slice(begin, begin + num_tokens)


class EmulatedModelDrafter(ModelDrafter):
    """The real drafter; it only tells the scheme whose tokens it looks at."""

    def __init__(
        self, name: str, model: TokenModel, scheme: EmulatedScheme, *, target_vocab_size: int
    ) -> None:
        super().__init__(name, model, target_vocab_size=target_vocab_size, max_rows=EVALUATED_ROWS)
        self._emulated = scheme

    def evaluate(self, context: Sequence[int], scheme: Scheme) -> Evidence:
        """Read all but the last token of `context` and compare what would have been drafted."""
        self._emulated.turn_to(self.name)
        return super().evaluate(context, scheme)

    def propose(
        self, context: Sequence[int], window: int, scheme: Scheme, keeps: Keeps | None = None
    ) -> Draft:
        """Draw up to `window` tokens one by one."""
        self._emulated.turn_to(self.name)
        return super().propose(context, window, scheme, keeps)


class EmulatedNgramDrafter:
    """Prompt lookup without an index."""

    name = NGRAM

    def __init__(self, scheme: EmulatedScheme) -> None:
        self._emulated = scheme
        self._num_seen = 0

    def begin(self, context: Sequence[int]) -> None:
        """Start after the prompt."""
        self._num_seen = len(context)

    def catch_up(self, context: Sequence[int]) -> None:
        """Do nothing."""

    def offer(self, context: Sequence[int]) -> Offer:
        """Tell how long the match is."""
        (match_length,) = self._emulated.match_lengths(len(context), 1)
        return Offer(unread=0, match_length=match_length)

    def evaluate(self, context: Sequence[int], scheme: Scheme) -> Evidence:
        """Tell of the tokens emitted since the last call whether they were expected."""
        first, num_tokens = self._num_seen, len(context) - self._num_seen
        self._num_seen = len(context)
        lengths = self._emulated.match_lengths(first, num_tokens)
        decided = self._emulated.decided(NGRAM, first, num_tokens)
        matches = [
            match if length else math.nan for match, length in zip(decided, lengths, strict=True)
        ]
        return Evidence(matches, lengths)

    def propose(
        self, context: Sequence[int], window: int, scheme: Scheme, keeps: Keeps | None = None
    ) -> Draft:
        """Copy `window` tokens; none if nothing matches."""
        self._emulated.turn_to(NGRAM)
        num_tokens = window if self.offer(context).match_length else 0
        tokens = [self._emulated.drafted_token(offset) for offset in range(num_tokens)]
        return Draft(tokens, is_point_mass=True)

    def observe(self, emitted: Sequence[int]) -> None:
        """Do nothing."""
