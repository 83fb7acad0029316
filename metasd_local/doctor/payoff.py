"""What drafting can gain, from the costs of drafting and verifying alone."""

from __future__ import annotations

from dataclasses import dataclass

from metasd_local.costs import CostCurve

ASSUMED_ACCEPTANCE = 0.7
"""Of drafted tokens; good pairs of real models reach 0.5 to 0.8 and more on code."""
_STEPS = 100


@dataclass(frozen=True, slots=True)
class Payoff:
    """What one drafter can gain."""

    draft_s: float
    """Seconds per drafted token."""
    least_acceptance: float | None
    """From which on some window pays, in [0, 1]; None if none does even if all is accepted."""
    best_window: int
    """At ASSUMED_ACCEPTANCE; 0 if plain decoding is faster."""
    best_speedup: float
    """With that window, over plain decoding."""
    largest_window: int
    """That still pays at ASSUMED_ACCEPTANCE; 0 if none does."""
    ceiling: float
    """Speed-up if every token were accepted, with the window that is best then."""


def speedup(curve: CostCurve, draft_s: float, window: int, acceptance: float) -> float:
    """Return tokens per second with drafts ÷ without, each token accepted independently.

    Source: Leviathan, Kalman, Matias, arXiv 2211.17192, theorem 3.8, with the measured cost of
    verifying `window` + 1 tokens in the place of a constant.
    """
    emitted = sum(acceptance**position for position in range(window + 1))
    return emitted * curve.seconds(1) / (curve.seconds(window + 1) + window * draft_s)


def payoff(curve: CostCurve, draft_s: float, max_window: int) -> Payoff:
    """Return what a drafter of a given cost can gain with windows up to `max_window`."""

    def gains(acceptance: float) -> list[float]:
        """Return the gain of every window, of none first."""
        windows = range(1, max_window + 1)
        return [1.0, *(speedup(curve, draft_s, window, acceptance) for window in windows)]

    assumed = gains(ASSUMED_ACCEPTANCE)
    acceptances = (step / _STEPS for step in range(_STEPS + 1))
    return Payoff(
        draft_s=draft_s,
        least_acceptance=next((each for each in acceptances if max(gains(each)) > 1), None),
        best_window=assumed.index(max(assumed)),
        best_speedup=max(assumed),
        largest_window=max(window for window, gain in enumerate(assumed) if not window or gain > 1),
        ceiling=max(gains(1.0)[1:]),
    )
