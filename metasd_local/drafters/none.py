"""The drafter that never drafts: plain decoding as an arm like any other."""

from __future__ import annotations

from collections.abc import Sequence

from metasd_local.protocols import NO_EVIDENCE, PLAIN, Draft, Evidence, Keeps, Offer, Scheme

_NOTHING = Draft(tokens=(), is_point_mass=True)
_READY = Offer(unread=0, match_length=None)


class NoDrafter:
    """Propose nothing."""

    name = PLAIN
    seconds_inside = 0.0

    def begin(self, context: Sequence[int]) -> None:
        """Do nothing."""

    def catch_up(self, context: Sequence[int]) -> None:
        """Do nothing."""

    def offer(self, context: Sequence[int]) -> Offer:
        """Tell that nothing has to be read."""
        return _READY

    def evaluate(self, context: Sequence[int], scheme: Scheme) -> Evidence:
        """Tell nothing."""
        return NO_EVIDENCE

    def propose(
        self, context: Sequence[int], window: int, scheme: Scheme, keeps: Keeps | None = None
    ) -> Draft:
        """Propose nothing."""
        return _NOTHING

    def observe(self, emitted: Sequence[int]) -> None:
        """Do nothing."""
