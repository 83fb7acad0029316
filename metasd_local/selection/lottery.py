"""Drawing arms in proportion to weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

_LOWEST_EXPONENT = -700.0
"""exp of it is 1e-304: no share of a softmax ever underflows to 0."""


def softmax(exponents: Mapping[str, float]) -> dict[str, float]:
    """Return positive shares of sum 1, in proportion to exp of the exponents."""
    peak = max(exponents.values())
    weights = {
        arm: math.exp(max(exponent - peak, _LOWEST_EXPONENT)) for arm, exponent in exponents.items()
    }
    return scaled(weights)


def scaled(weights: Mapping[str, float]) -> dict[str, float]:
    """Return shares of sum 1 in proportion to the weights."""
    total = sum(weights.values())
    return {arm: weight / total for arm, weight in weights.items()}


def draw(rng: np.random.Generator, shares: Mapping[str, float]) -> str:
    """Draw an arm by shares of sum 1."""
    rest = rng.random()
    for arm, share in shares.items():
        rest -= share
        if rest < 0.0:
            return arm
    # The shares' sum may fall short of 1 by rounding.
    return max(shares, key=shares.__getitem__)
