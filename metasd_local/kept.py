"""What was measured and learned of a pool: kept from session to session."""

from __future__ import annotations

from pathlib import Path

from metasd_local.costs import CostCurve, RunningCosts, TokenCosts, read_curve, write_curve
from metasd_local.selection.experience import Experience
from metasd_local.state import read_state, write_entry

COSTS_FILE, PROFILE_FILE = "costs.json", "profile.json"


class Kept:
    """What a pool's target costs and how its drafters were followed, each under `key` in a file.

    key: of target, devices and threads. costs_path, profile_path: None: nothing is, or will be
    kept.
    """

    def __init__(self, key: str, costs_path: Path | None, profile_path: Path | None) -> None:
        self._key = key
        self._costs_path = costs_path
        self._profile_path = profile_path
        self.costs = RunningCosts(read_curve(costs_path, key) if costs_path else None)
        self.token_costs = TokenCosts()
        """By place in the context; not kept in a file."""
        known = read_state(profile_path).get(key) if profile_path else None
        self.experience = Experience(known)
        is_lost = known is not None and self.experience.is_empty
        lost = f"what {profile_path} says of this pool cannot be read: it begins anew"
        self.notices = (lost,) if is_lost else ()

    def use_curve(self, curve: CostCurve) -> None:
        """Go on from what calls of the target cost, measured just now, and keep it.

        If the machine was busy, what calls show is better.
        """
        if curve.is_doubtful:
            return
        self.costs.use(curve)
        if self._costs_path is not None:
            write_curve(self._costs_path, self._key, curve)

    def write_experience(self) -> None:
        """Keep what was learned of the drafters."""
        if self._profile_path is not None and not self.experience.is_empty:
            write_entry(self._profile_path, self._key, self.experience.to_json())
