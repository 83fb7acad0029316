"""Selectors on synthetic traces: the real policies, no models, seconds priced by a cost curve.

Figures are relative to the best fixed arm of the same answer. They rank selectors; how fast a
real pool is, `bench` says.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from metasd_local.costs import CostCurve
from metasd_local.lab.replays import CATCH_UP_SHARE, DRAFT_SHARE, WINDOW, Replay
from metasd_local.lab.traces import arm_names, draw_trace
from metasd_local.protocols import PLAIN, Policy

PolicyFactory: TypeAlias = Callable[[np.random.Generator], Policy]

DEFAULT_CURVE = CostCurve({1: 0.0310, 2: 0.0362, 4: 0.0423, 8: 0.0687, 9: 0.1069, 16: 0.1187})
"""A 27B model in Q8_0 on two MI50. Source: measurements in mx-llama.cpp, issue 10."""
LONG_ROUNDS = 4000
NUM_ANSWERS = 80
NUMBERS_OF_DRAFTERS = (2, 4, 8, 16)

_LONG_TOKENS, _LONG_TOPIC_TOKENS = 20_000, 5000
"""What `LONG_ROUNDS` rounds never exceed at the usual window, and about half of what they emit."""
_NAME_WIDTH = 22


@dataclass(frozen=True, slots=True)
class Setting:
    """What answers are decoded in."""

    num_drafters: int
    has_switch: bool
    """Whether the topic changes."""
    num_tokens: int | None
    """Length of the answers; None for answers of `LONG_ROUNDS` rounds."""


@dataclass(frozen=True, slots=True)
class Result(Setting):
    """How a policy or yardstick did in one setting, over all its answers."""

    policy: str
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
            "draft_token_s": self.curve.seconds(1) * DRAFT_SHARE,
            "catch_up_token_s": self.curve.seconds(1) * CATCH_UP_SHARE,
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
            f"Model drafters: {one_ms * DRAFT_SHARE:.1f} ms a token. tok/rd and regret are of the",
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
    arms: Sequence[int] = NUMBERS_OF_DRAFTERS,
    lengths: Sequence[int] = (60, 200, 600),
    curve: CostCurve = DEFAULT_CURVE,
    num_answers: int = NUM_ANSWERS,
    seed: int = 0,
    only_arms: Mapping[str, str] = MappingProxyType({}),
    on_progress: Callable[[float], object] = lambda _: None,
) -> Simulation:
    """Run policies and yardsticks on the same answers of every length and pool size.

    arms: numbers of drafters, at least 2. num_answers: per length, at least 2; a tenth as many of
    `LONG_ROUNDS` rounds. only_arms: of policies that play but one arm, which is not in all pools.
    on_progress: told the share done, in [0, 1].
    """
    results: list[Result] = []
    settings = [
        *itertools.starmap(Setting, itertools.product(arms, (False, True), (*lengths, None)))
    ]
    for num_done, setting in enumerate(settings, 1):
        there = {PLAIN, *arm_names(setting.num_drafters)}
        fitting = {name: policies[name] for name in policies if only_arms.get(name, PLAIN) in there}
        results += _run_setting(fitting, setting, curve, num_answers, seed)
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
    length, has_switch = setting.num_tokens, setting.has_switch
    # Policies draw from generators of their own: one more of them changes no other's figures.
    key = (seed, setting.num_drafters, int(has_switch), length or 0)
    made = {name: make(np.random.default_rng((*key, 1))) for name, make in policies.items()}
    rng = np.random.default_rng((*key, 0))
    num_tokens, max_rounds = length or _LONG_TOKENS, None if length else LONG_ROUNDS
    half_tokens = (length + 1) // 2 if length else _LONG_TOPIC_TOKENS
    topic_tokens = half_tokens if has_switch else num_tokens
    shares: defaultdict[str, list[float]] = defaultdict(list)
    emitted: Counter[str] = Counter()
    rounds: Counter[str] = Counter()
    regrets_s: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(num_answers if length else max(num_answers // 10, 2)):
        trace = draw_trace(rng, setting.num_drafters, num_tokens, topic_tokens=topic_tokens)
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
            shares[name].append(best_s / float(play.seconds.sum()))
            emitted[name] += play.num_tokens
            rounds[name] += len(play.seconds)
            if name in plays and not (length or has_switch):
                regret_s = replay.regret_s(play, best)
                regrets_s[name].append((regret_s[LONG_ROUNDS // 2 - 1], regret_s[-1]))
    return [
        Result(
            **asdict(setting),
            policy=name,
            num_answers=len(found),
            of_best_fixed=float(np.mean(found)),
            standard_error=float(np.std(found, ddof=1)) / math.sqrt(len(found)),
            tokens_per_round=emitted[name] / rounds[name],
            regret_s=_halves(regrets_s[name]) if name in regrets_s else None,
        )
        for name, found in shares.items()
    ]


def _halves(regrets_s: Sequence[tuple[float, float]]) -> tuple[float, float]:
    half_s, all_s = np.mean(regrets_s, axis=0).tolist()
    return half_s, all_s
