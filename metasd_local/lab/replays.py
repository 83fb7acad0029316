"""Answers decoded again and again on a synthetic trace, by any rule that chooses arms."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from metasd_local.costs import CostCurve
from metasd_local.lab.traces import MODEL_FREE, Trace
from metasd_local.protocols import (
    NGRAM,
    PLAIN,
    Arms,
    Choice,
    Evidence,
    Offer,
    Policy,
    RoundFeedback,
)

Seconds: TypeAlias = NDArray[np.float64]

WINDOW = 5
"""Window of the fixed arms; the oracle may choose a smaller one."""
DRAFT_SHARE, CATCH_UP_SHARE = 0.1, 0.01
"""A model drafter's seconds for a drafted and for a caught-up token, in units of V(1)."""
_PROMPT_TOKENS = 100
"""Tokens that a model drafter has to catch up on when it is first chosen."""


@dataclass(frozen=True, slots=True)
class Play:
    """One answer as it was decoded. Arrays have one entry per round."""

    positions: NDArray[np.intp]
    """Tokens emitted before the round."""
    arms: NDArray[np.intp]
    """Index into the trace's arms."""
    windows: NDArray[np.intp]
    """0 for `plain` and where the answer had no room for a draft."""
    seconds: Seconds
    num_tokens: int

    def seconds_until(self, num_tokens: int) -> float:
        """Return the seconds after which `num_tokens` tokens were there, linear in a round."""
        times = np.append(0.0, np.cumsum(self.seconds))
        return float(np.interp(num_tokens, np.append(self.positions, self.num_tokens), times))


class _Readers:
    """How far the arms have read an answer: what a policy may ask of them."""

    def __init__(
        self,
        trace: Trace,
        match_lengths: Sequence[Sequence[int] | None],
        seconds_to_read: Sequence[float],
    ) -> None:
        self._trace = trace
        self._match_lengths = match_lengths
        self._seconds_to_read = seconds_to_read
        self.indexes = {arm: index for index, arm in enumerate(trace.arms)}
        self.position = trace.num_prompt_tokens
        self.num_read = [self.position - _PROMPT_TOKENS] * len(trace.arms)
        self.evaluate_s = 0.0
        """Of all evaluations since it was last set."""

    def offer(self, arm: str) -> Offer:
        """Tell what is unread and how long the match is."""
        index = self.indexes[arm]
        lengths = self._match_lengths[index]
        unread = self.position - self.num_read[index]
        return Offer(unread, lengths[self.position] if lengths else None)

    def evaluate(self, arm: str) -> Evidence:
        """Read what is unread of the answer and tell where the arm was right."""
        trace, index, position = self._trace, self.indexes[arm], self.position
        seconds = self.catch_up_s(index, position)
        self.evaluate_s += seconds
        first, self.num_read[index] = max(self.num_read[index], 0), position
        matches = trace.matches[index, first:position].astype(np.float64)
        matches[~trace.has_draft[index, first:position]] = math.nan
        lengths = self._match_lengths[index] or []
        return Evidence(matches.tolist(), lengths[first:position], seconds=seconds)

    def catch_up_s(self, index: int, position: int) -> float:
        """Return the seconds an arm needs to read up to a position."""
        return (position - self.num_read[index]) * self._seconds_to_read[index]


class Replay:
    """One answer that can be decoded again and again, by any rule that chooses arms."""

    def __init__(self, trace: Trace, curve: CostCurve) -> None:
        self._trace = trace
        self._verify_s = functools.cache(curve.seconds)
        self._leading: list[list[int]] = trace.leading_matches().tolist()
        self._has_draft: list[list[bool]] = trace.has_draft.tolist()
        paid = [0.0 if arm in MODEL_FREE else curve.seconds(1) for arm in trace.arms]
        self._draft_s = [seconds * DRAFT_SHARE for seconds in paid]
        self._catch_up_s = [seconds * CATCH_UP_SHARE for seconds in paid]
        lengths: list[list[int]] = trace.match_lengths().tolist()
        self._match_lengths = [
            row if arm == NGRAM else None for arm, row in zip(trace.arms, lengths, strict=True)
        ]

    def play(
        self,
        choose: Callable[[Arms, int], Choice],
        learn: Callable[[str, RoundFeedback], object] | None = None,
        *,
        num_tokens: int,
        max_rounds: int | None = None,
    ) -> Play:
        """Decode the first `num_tokens` tokens, or as many as `max_rounds` rounds emit.

        choose: told of the arms and the position in the trace. learn: told of the rounds policies
        learn from.
        """
        trace, leading, has_draft = self._trace, self._leading, self._has_draft
        start = trace.num_prompt_tokens
        end = start + num_tokens
        readers = _Readers(trace, self._match_lengths, self._catch_up_s)
        rounds: list[tuple[int, int, int, float]] = []
        while readers.position < end and len(rounds) != max_rounds:
            begun_at, readers.evaluate_s = readers.position, 0.0
            choice = choose(readers, begun_at)
            name, arm = choice.arm, readers.indexes[choice.arm]
            window = 0 if name == PLAIN else min(choice.window, end - begun_at - 1)
            drafted = window if has_draft[arm][begun_at] else 0
            accepted = min(leading[arm][begun_at], drafted)
            readers.position += accepted + 1
            catch_up_s = readers.catch_up_s(arm, begun_at) if window else 0.0
            if window and not self._match_lengths[arm]:
                readers.num_read[arm] = readers.position
            reached = slice(begun_at, begun_at + min(accepted + 1, drafted))
            feedback = RoundFeedback(
                window=window,
                drafted=drafted,
                accepted=accepted,
                emitted=accepted + 1,
                catch_up_s=catch_up_s,
                draft_s=drafted * self._draft_s[arm],
                verify_s=self._verify_s(drafted + 1),
                overlaps=functools.partial(trace.probabilities.__getitem__, (arm, reached)),
            )
            rounds.append((begun_at - start, arm, window, feedback.seconds + readers.evaluate_s))
            if learn is not None and (window or name == PLAIN):
                learn(name, feedback)
        *counts, seconds_of_rounds = zip(*rounds, strict=True)
        columns = np.array(counts, dtype=np.intp)
        return Play(
            columns[0],
            columns[1],
            columns[2],
            np.array(seconds_of_rounds),
            readers.position - start,
        )

    def play_policy(
        self, policy: Policy, *, num_tokens: int, max_rounds: int | None = None
    ) -> Play:
        """Decode with a policy that starts a query."""
        policy.begin(self._trace.arms)
        return self.play(
            lambda arms, _: policy.choose(arms),
            policy.observe,
            num_tokens=num_tokens,
            max_rounds=max_rounds,
        )

    def play_fixed(self, arm: str, *, num_tokens: int) -> Play:
        """Decode with one arm."""
        choice = Choice(arm, WINDOW)
        return self.play(lambda *_: choice, num_tokens=num_tokens)

    def play_oracle(self, *, num_tokens: int, max_rounds: int | None = None) -> Play:
        """Decode knowing all probabilities: most expected tokens/s in every round.

        It pays for catching up like everyone, but does not foresee it.
        """
        windows = range(1, WINDOW + 1)
        rates = [self._trace.expected_emitted(w) / self._round_seconds(w) for w in windows]
        best: list[int] = np.concatenate(rates).argmax(axis=0).tolist()
        choices = [Choice(arm, window) for window in windows for arm in self._trace.arms]
        return self.play(
            lambda _, position: choices[best[position]],
            num_tokens=num_tokens,
            max_rounds=max_rounds,
        )

    def regret_s(self, play: Play, best: Play) -> Seconds:
        """Return by how many seconds the choices so far were wrong, after every round.

        A choice is wrong by its expected seconds beyond those of the arm of `best` in its place,
        where a token is worth the seconds it costs `best`. Catching up is left out: a drafter
        tried now and then has to read all the text, which alone makes the loss linear.
        """
        token_s = float(best.seconds.sum()) / best.num_tokens

        start = self._trace.num_prompt_tokens

        def net_s(window: int) -> Seconds:
            net_s = self._round_seconds(window) - self._trace.expected_emitted(window) * token_s
            return net_s[:, start:]

        regret_s: Seconds = -net_s(int(best.windows[0]))[best.arms[0], play.positions]
        for window in set(play.windows.tolist()):
            at = play.windows == window
            regret_s[at] += net_s(window)[play.arms[at], play.positions[at]]
        return regret_s.cumsum()

    def _round_seconds(self, window: int) -> Seconds:
        """Return the seconds of a round from each token on, catch-up apart, (arms, tokens)."""
        drafting_s = self._verify_s(window + 1) + window * np.array(self._draft_s)[:, None]
        return np.where(self._trace.has_draft, drafting_s, self._verify_s(1))
