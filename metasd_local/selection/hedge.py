"""HedgeSpec: every drafter scored on the emitted text, chosen or not, by NormalHedge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np

from metasd_local.protocols import PLAIN, Arms, Choice, RoundFeedback
from metasd_local.selection.lottery import draw, scaled
from metasd_local.selection.rewards import block_efficiency

Loss: TypeAlias = Literal["token", "length"]

_MAX_STEPS = 50
_EXACT = 1e-12


class HedgePolicy:
    """Draw arms by NormalHedge's weights over losses that are known for all of them.

    loss: `token` is 1 - the chance that the arm's token stands, for every token; `length` is
    1 - (1 + accepted) / (window + 1), once per round, for what the arm would have accepted from
    where the round began. every: idle drafters are evaluated after the first of every so many
    rounds. A loss that some arm does not know yet waits in a queue; one that an evaluation leaves
    unknown, such as that of the token after a wholly accepted draft, is dropped for all.
    Source: HedgeSpec, "Not-a-Bandit", arXiv 2510.20064, ETAP and EAL losses; chances of tokens
    multiplied along the emitted text estimate the accepted length without bias, which the paper's
    products of 1 - TV do only for a deterministic target.
    """

    def __init__(self, rng: np.random.Generator, *, loss: Loss, every: int, window: int) -> None:
        self._rng = rng
        self._reach, self._worst = (1, 1) if loss == "token" else (window, window + 1)
        self._is_per_round = loss == "length"
        self._every = every
        self._window = window

    def begin(self, arms: Sequence[str]) -> None:
        """Start a query with these arms, `plain` only if there is no other."""
        names = [arm for arm in arms if arm != PLAIN] or [PLAIN]
        self._regrets = dict.fromkeys(names, 0.0)
        self._weights = normal_hedge(self._regrets)
        self._matches: dict[str, list[float]] = {name: [] for name in names}
        """By position in the answer, the chance that the arm's token stands; NaN: not known."""
        self._waiting: list[int] = []
        """Positions whose losses are not known for every arm."""
        self._idle: Sequence[str] = ()
        """Arms to evaluate before the next choice."""
        self._num_rounds = self._num_emitted = self._num_emitted_last = 0

    def choose(self, arms: Arms) -> Choice:
        """Evaluate the arms that were idle, if it is time, and draw one."""
        for name in self._idle:
            # A drafter that had tokens to read and tells nothing would have proposed nothing.
            matches = arms.evaluate(name).matches or [0.0] * self._num_emitted_last
            self._note(name, self._num_emitted - len(matches), matches)
        if self._idle:
            self._settle()
        arm = draw(self._rng, self._weights)
        is_time = self._num_rounds % self._every == 0
        self._num_rounds += 1
        self._idle = [name for name in self._regrets if name != arm] if is_time else ()
        return Choice(arm, self._window)

    def observe(self, arm: str, feedback: RoundFeedback) -> float:
        """Note what is now known of the arm; return the block efficiency."""
        begun_at = self._num_emitted
        self._num_emitted_last = feedback.emitted
        self._num_emitted += feedback.emitted
        self._waiting += (begun_at,) if self._is_per_round else range(begun_at, self._num_emitted)
        for known in self._matches.values():
            known += [math.nan] * feedback.emitted
        is_wholly_accepted = 0 < feedback.drafted == feedback.accepted
        self._note(arm, begun_at, [1.0] * feedback.accepted + [0.0] * (not is_wholly_accepted))
        return block_efficiency(feedback)

    def scores(self) -> Mapping[str, float]:
        """Return the probabilities of the arms."""
        return self._weights

    def _note(self, arm: str, first: int, matches: Sequence[float]) -> None:
        known = self._matches[arm]
        for position, match in enumerate(matches, first):
            # What an evaluation tells of the prompt is left aside: the answer is the query.
            if position >= 0 and math.isnan(known[position]):
                known[position] = 0.0 if math.isnan(match) else match

    def _settle(self) -> None:
        """Apply the losses that are known for every arm, in the order of the text."""
        waiting, self._waiting = self._waiting, []
        for start in waiting:
            losses = {arm: self._loss(known, start) for arm, known in self._matches.items()}
            if not any(map(math.isnan, losses.values())):
                self._apply(losses)
            elif start + self._reach > self._num_emitted:
                self._waiting.append(start)

    def _loss(self, known: Sequence[float], start: int) -> float:
        """Return an arm's loss from a position on; NaN while it is not known."""
        survival, accepted = 1.0, 0.0
        for position in range(start, start + self._reach):
            if survival == 0.0:
                break
            survival *= known[position] if position < len(known) else math.nan
            accepted += survival
        return (self._reach - accepted) / self._worst

    def _apply(self, losses: Mapping[str, float]) -> None:
        mean = sum(self._weights[arm] * loss for arm, loss in losses.items())
        for arm, loss in losses.items():
            self._regrets[arm] += mean - loss
        self._weights = normal_hedge(self._regrets)


def normal_hedge(regrets: Mapping[str, float]) -> dict[str, float]:
    """Return shares in proportion to [R]+ / c * exp([R]+^2 / 2c), mean of exp([R]+^2 / 2c) = e.

    Uniform shares if no regret is positive. Source: Chaudhuri, Freund, Hsu, "A parameter-free
    hedging algorithm", arXiv 0903.2851.
    """
    largest = max(regrets.values())
    if largest <= 0.0:
        return dict.fromkeys(regrets, 1 / len(regrets))
    # The shares depend on the regrets' ratios alone. Newton's steps on x = 1 / 2c come from
    # above, where the convex log mean exp(x [R]+^2) exceeds 1.
    gains = [max(regret, 0.0) / largest for regret in regrets.values()]
    inverse = 1 + math.log(len(gains))
    for _ in range(_MAX_STEPS):
        weights = [math.exp(gain * gain * inverse) for gain in gains]
        total = sum(weights)
        excess = math.log(total / len(gains)) - 1
        if excess < _EXACT:
            break
        slope = sum(w * g * g for w, g in zip(weights, gains, strict=True)) / total
        inverse -= excess / slope
    parts = [gain * math.exp(gain * gain * inverse) for gain in gains]
    return scaled(dict(zip(regrets, parts, strict=True)))
