"""Selectors on synthetic traces: the real policies, no models, seconds priced by a cost curve.

Figures are relative to the best fixed arm of the same answer. They rank selectors; how fast a
real pool is, `bench` says.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from metasd_local.costs import CostCurve
from metasd_local.errors import UsageError
from metasd_local.lab.traces import MODEL_FREE, Trace, draw_trace
from metasd_local.protocols import PLAIN, Arms, Choice, Evidence, Offer, Policy, RoundFeedback

PolicyFactory: TypeAlias = Callable[[np.random.Generator], Policy]
Setting: TypeAlias = tuple[int, bool, int | None]
"""Number of drafters, whether the topic changes, tokens (None for `LONG_ROUNDS` rounds)."""
Seconds: TypeAlias = NDArray[np.float64]

DEFAULT_CURVE = CostCurve({1: 0.0310, 2: 0.0362, 4: 0.0423, 8: 0.0687, 9: 0.1069, 16: 0.1187})
"""A 27B model in Q8_0 on two MI50. Source: measurements in mx-llama.cpp, issue 10."""
WINDOW = 5
"""Window of the fixed arms; the oracle may choose a smaller one."""
LONG_ROUNDS = 4000
DEFAULT_NUM_ANSWERS = 80

_DRAFT_SHARE, _CATCH_UP_SHARE = 0.1, 0.01
"""A model drafter's seconds for a drafted and for a caught-up token, in units of V(1)."""
_PROMPT_TOKENS = 100
"""Tokens that a model drafter has to catch up on when it is first chosen."""
_LONG_TOKENS, _LONG_TOPIC_TOKENS = 20_000, 5000
"""What `LONG_ROUNDS` rounds never exceed at the usual window, and about half of what they emit."""
_NAME_WIDTH = 22


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
        self._draft_s = [seconds * _DRAFT_SHARE for seconds in paid]
        self._catch_up_s = [seconds * _CATCH_UP_SHARE for seconds in paid]
        lengths: list[list[int]] = trace.match_lengths().tolist()
        self._match_lengths = [
            row if arm in MODEL_FREE and arm != PLAIN else None
            for arm, row in zip(trace.arms, lengths, strict=True)
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


@dataclass(frozen=True, slots=True)
class Result:
    """How a policy or yardstick did in one setting, over all its answers."""

    policy: str
    num_drafters: int
    has_switch: bool
    num_tokens: int | None
    """Length of the answers; None for answers of `LONG_ROUNDS` rounds."""
    num_answers: int
    of_best_fixed: float
    """Mean of tokens/s ÷ that of the answer's best fixed arm, plain included."""
    standard_error: float
    tokens_per_round: float
    regret_s: tuple[float, float] | None
    """Mean regret after half and all of `LONG_ROUNDS` rounds on one topic; None elsewhere."""

    @property
    def regret_growth(self) -> float | None:
        """Return regret after all rounds ÷ after half: 2 is linear; None if there is none."""
        half_s, all_s = self.regret_s or (0.0, 0.0)
        return all_s / half_s if half_s > 0 else None


@dataclass(frozen=True, slots=True)
class Simulation:
    """What all policies did in all settings."""

    results: tuple[Result, ...]
    curve: CostCurve
    seed: int

    def to_json(self) -> dict[str, object]:
        """Return the figures as a document."""
        return {
            "seed": self.seed,
            "window": WINDOW,
            "cost_curve": {str(size): seconds for size, seconds in self.curve.points.items()},
            "draft_token_s": self.curve.seconds(1) * _DRAFT_SHARE,
            "catch_up_token_s": self.curve.seconds(1) * _CATCH_UP_SHARE,
            "results": [
                {**asdict(result), "regret_growth": result.regret_growth} for result in self.results
            ],
        }

    def lines(self) -> list[str]:
        """Return tables of at most 79 columns for up to three lengths."""
        one_ms, batch_ms = (1e3 * self.curve.seconds(size) for size in (1, WINDOW + 1))
        machine = " (27B Q8_0 on two MI50)" if self.curve == DEFAULT_CURVE else ""
        lines = [
            "Selectors on synthetic traces, no models: tokens/s in % of the best fixed arm",
            f"of the same answer (window {WINDOW}, plain included), ± standard error.",
            f"Target: {one_ms:.1f} ms for 1 token, {batch_ms:.1f} ms for {WINDOW + 1}{machine}.",
            f"Model drafters: {one_ms * _DRAFT_SHARE:.1f} ms a token. tok/rd and regret are of the",
            f"{LONG_ROUNDS} rounds; regret: seconds lost by choices, all ÷ first half (2: linear).",
        ]
        for (num_drafters, has_switch), table in itertools.groupby(
            self.results, key=lambda result: (result.num_drafters, result.has_switch)
        ):
            rows: dict[str, list[Result]] = {}
            for result in table:
                rows.setdefault(result.policy, []).append(result)
            counts = "/".join(str(result.num_answers) for result in rows[PLAIN])
            topics = "a topic switch" if has_switch else "one topic"
            lines += ["", f"{num_drafters} drafters, {topics} ({counts} answers)"]
            lengths = (result.num_tokens for result in rows[PLAIN])
            heads = (f"{tokens} tok" if tokens else f"{LONG_ROUNDS} rd" for tokens in lengths)
            lines.append(_line("", [*heads, "tok/rd", "regret"]))
            for policy, row in rows.items():
                lines += [f"  {policy[:77]}"] * (len(policy) > _NAME_WIDTH)
                growth = row[-1].regret_growth
                cells = [
                    f"{100 * result.of_best_fixed:.0f} ±{100 * result.standard_error:.1f}"
                    for result in row
                ]
                cells.append(f"{row[-1].tokens_per_round:.2f}")
                cells.append("-" if growth is None else f"{growth:.2f}")
                lines.append(_line(policy if len(policy) <= _NAME_WIDTH else "", cells))
        return lines


def _line(name: str, cells: Sequence[str]) -> str:
    return f"  {name:<{_NAME_WIDTH}}" + "".join(f"{cell:>9}" for cell in cells)


def simulate(
    policies: Mapping[str, PolicyFactory],
    *,
    arms: Sequence[int] = (2, 4, 8, 16),
    lengths: Sequence[int] = (60, 200, 600),
    curve: CostCurve = DEFAULT_CURVE,
    num_answers: int | None = None,
    seed: int = 0,
    on_progress: Callable[[float], None] | None = None,
) -> Simulation:
    """Run policies and yardsticks on the same answers of every length and pool size.

    arms: numbers of drafters, at least 2. num_answers: per length, a tenth as many of
    `LONG_ROUNDS` rounds. on_progress: told the share done, in [0, 1]. Raises UsageError.
    """
    num_answers = DEFAULT_NUM_ANSWERS if num_answers is None else num_answers
    if num_answers < 2:
        raise UsageError(f"found {num_answers} answers to simulate, expected at least 2")
    results: list[Result] = []
    settings = list(itertools.product(arms, (False, True), (*lengths, None)))
    for num_done, setting in enumerate(settings, 1):
        results += _run_setting(policies, setting, curve, num_answers, seed)
        if on_progress is not None:
            on_progress(num_done / len(settings))
    return Simulation(tuple(results), curve, seed)


def _run_setting(
    policies: Mapping[str, PolicyFactory],
    setting: Setting,
    curve: CostCurve,
    num_answers: int,
    seed: int,
) -> list[Result]:
    """Run every policy and yardstick on the same answers."""
    num_drafters, has_switch, length = setting
    # Policies draw from generators of their own: one more of them changes no other's figures.
    key = (seed, num_drafters, int(has_switch), length or 0)
    made = {name: make(np.random.default_rng((*key, 1))) for name, make in policies.items()}
    rng = np.random.default_rng((*key, 0))
    num_tokens, max_rounds = length or _LONG_TOKENS, None if length else LONG_ROUNDS
    half_tokens = (length + 1) // 2 if length else _LONG_TOPIC_TOKENS
    topic_tokens = half_tokens if has_switch else num_tokens
    outcomes: dict[str, list[_Outcome]] = {}
    for _ in range(num_answers if length else max(num_answers // 10, 2)):
        trace = draw_trace(rng, num_drafters, num_tokens, topic_tokens=topic_tokens)
        replay = Replay(trace, curve)
        plays = {
            name: replay.play_policy(policy, num_tokens=num_tokens, max_rounds=max_rounds)
            for name, policy in made.items()
        }
        plays["oracle"] = replay.play_oracle(num_tokens=num_tokens, max_rounds=max_rounds)
        fixed = {arm: replay.play_fixed(arm, num_tokens=num_tokens) for arm in trace.arms}
        best = min(fixed.values(), key=lambda play: float(play.seconds.sum()))
        # All experts are alike: the first stands for them.
        shown = trace.arms[: trace.arms.index("expert1") + 1]
        yardsticks = {arm if arm == PLAIN else f"fixed:{arm}": fixed[arm] for arm in shown}
        for name, play in (yardsticks | plays).items():
            best_s = min(rival.seconds_until(play.num_tokens) for rival in fixed.values())
            is_measured = name in plays and not (length or has_switch)
            regret_s = replay.regret_s(play, best) if is_measured else None
            outcomes.setdefault(name, []).append(
                _Outcome(best_s / play.seconds.sum(), play, regret_s)
            )
    return [_sum_up(name, setting, outcomes[name]) for name in outcomes]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How one answer went."""

    of_best_fixed: float
    play: Play
    regret_s: Seconds | None


def _sum_up(policy: str, setting: Setting, outcomes: Sequence[_Outcome]) -> Result:
    shares = [outcome.of_best_fixed for outcome in outcomes]
    plays = [outcome.play for outcome in outcomes]
    regrets_s = [
        (outcome.regret_s[LONG_ROUNDS // 2 - 1], outcome.regret_s[-1])
        for outcome in outcomes
        if outcome.regret_s is not None
    ]
    half_s, all_s = np.mean(regrets_s or [(0.0, 0.0)], axis=0).tolist()
    return Result(
        policy,
        *setting,
        num_answers=len(outcomes),
        of_best_fixed=float(np.mean(shares)),
        standard_error=float(np.std(shares, ddof=1)) / math.sqrt(len(shares)),
        tokens_per_round=sum(p.num_tokens for p in plays) / sum(len(p.seconds) for p in plays),
        regret_s=(half_s, all_s) if regrets_s else None,
    )
