"""What rounds cost, and which drafter and window promise most."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from metasd_local.bench.measure import Run
from metasd_local.costs import CostCurve
from metasd_local.options import MAX_WINDOW
from metasd_local.protocols import PLAIN

NUM_CANDIDATES = 3


@dataclass(frozen=True, slots=True)
class Prices:
    """What a round costs that does nothing but draft and verify."""

    curve: CostCurve
    drafting_s: Mapping[str, float]
    """Seconds per drafted token by arm."""

    def round_s(self, arm: str, drafted: int) -> float:
        """Return the seconds of a round in which an arm drafts so many tokens."""
        return self.curve.seconds(drafted + 1) + drafted * self.drafting_s.get(arm, 0.0)


def drafting_costs(runs: Sequence[Run]) -> dict[str, float]:
    """Return each arm's seconds per drafted token."""
    seconds: Counter[str] = Counter()
    for run in runs:
        seconds.update(run.draft_seconds)
    drafted: Counter[str] = Counter()
    for (arm, num_drafted, _), count in total_rounds(runs).items():
        drafted[arm] += num_drafted * count
    return {arm: seconds[arm] / drafted[arm] for arm in drafted if drafted[arm]}


def total_rounds(runs: Sequence[Run]) -> Counter[tuple[str, int, int]]:
    """Return the number of rounds by arm, drafted and accepted tokens."""
    rounds: Counter[tuple[str, int, int]] = Counter()
    for run in runs:
        rounds.update(run.rounds)
    return rounds


def best_windows(runs: Sequence[Run], curve: CostCurve) -> list[str]:
    """Return the fixed policies that promise most, from one wide-window run per arm and prompt.

    Cutting the drafts of a wide window shows what a narrower one would have kept; the cost curve
    prices it. Neighbouring windows of one arm are as good as the same: only one of them counts.
    """
    prices = Prices(curve, drafting_costs(runs))
    tokens: defaultdict[tuple[str, int], int] = defaultdict(int)
    seconds: defaultdict[tuple[str, int], float] = defaultdict(float)
    for (arm, drafted, accepted), count in total_rounds(runs).items():
        for window in range(1, MAX_WINDOW + 1):
            tokens[arm, window] += count * (min(accepted, window) + 1)
            seconds[arm, window] += count * prices.round_s(arm, min(drafted, window))
    chosen: list[tuple[str, int]] = []
    for arm, window in sorted(tokens, key=lambda each: seconds[each] / tokens[each]):
        if arm != PLAIN and all(arm != a or abs(window - w) > 1 for a, w in chosen):
            chosen.append((arm, window))
    return [f"fixed:{arm}:window={window}" for arm, window in chosen[:NUM_CANDIDATES]]
