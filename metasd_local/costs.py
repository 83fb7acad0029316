"""What the target's time depends on: the cost curve V(n), seconds to verify n tokens at once."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CostCurve:
    """Seconds the target needs to verify n tokens in one call, measured at some n.

    points: at least one, n ascending from 1.
    """

    points: Mapping[int, float]

    def seconds(self, num_tokens: int) -> float:
        """Return V(num_tokens), linear between the measured points and beyond the last."""
        sizes = list(self.points)
        index = bisect_left(sizes, num_tokens)
        if index < len(sizes) and sizes[index] == num_tokens:
            return self.points[num_tokens]
        if len(sizes) == 1:
            return self.points[sizes[0]]
        right = min(max(index, 1), len(sizes) - 1)
        low, high = sizes[right - 1], sizes[right]
        slope = (self.points[high] - self.points[low]) / (high - low)
        return self.points[low] + slope * (num_tokens - low)
