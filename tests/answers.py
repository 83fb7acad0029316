"""What a policy may ask of its arms, answered from a table."""

from __future__ import annotations

from collections.abc import Mapping

from metasd_local.protocols import NO_EVIDENCE, Evidence, Offer

READY = Offer(unread=0, match_length=None)


class Answers:
    """Offer the same of every arm, and tell of each what the table says."""

    def __init__(
        self, evidence: Mapping[str, Evidence] | None = None, *, offer: Offer = READY
    ) -> None:
        self._evidence = evidence or {}
        self._offer = offer
        self.evaluated: list[str] = []
        """Arms that were asked for evidence, in order."""

    def offer(self, arm: str) -> Offer:
        return self._offer

    def evaluate(self, arm: str) -> Evidence:
        self.evaluated.append(arm)
        return self._evidence.get(arm, NO_EVIDENCE)
