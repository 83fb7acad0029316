"""What `auto` has learned of a pool: kept from answer to answer, and between sessions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metasd_local.selection.survival import Kind, Survival

EXPECTED_TOKENS, LENGTH_RATE = 128.0, 0.3
"""Length of an answer before there was one, and weight of a new one in the running mean."""


class Experience:
    """How far the arms of a pool were followed lately, and how long answers were."""

    def __init__(self, document: Mapping[str, Any] | None = None) -> None:
        """`document` is what `to_json` returned in an earlier session; damage is left out."""
        self.expected_tokens = EXPECTED_TOKENS
        self.num_tokens = 0
        """Tokens of the answer that is being decoded."""
        self._survivals: dict[str, Survival] = {}
        if document is None:
            return
        try:
            self.expected_tokens = min(max(float(document["expected_tokens"]), 1.0), 1e6)
            for name, counts in document["arms"].items():
                self._survivals[name] = Survival(counts["kind"], counts)
        except (KeyError, TypeError, ValueError, AttributeError):
            self._survivals.clear()

    def survival(self, arm: str, kind: Kind) -> Survival:
        """Return what is known of an arm."""
        known = self._survivals.get(arm)
        survival = known if known is not None and known.kind == kind else Survival(kind)
        self._survivals[arm] = survival
        return survival

    def begin_answer(self) -> None:
        """Learn how long the last answer was."""
        if self.num_tokens:
            self.expected_tokens += LENGTH_RATE * (self.num_tokens - self.expected_tokens)
        self.num_tokens = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known of any arm."""
        return not self._survivals

    def to_json(self) -> dict[str, object]:
        """Return it as a document."""
        self.begin_answer()
        arms = {name: survival.to_json() for name, survival in self._survivals.items()}
        return {"expected_tokens": self.expected_tokens, "arms": arms}
