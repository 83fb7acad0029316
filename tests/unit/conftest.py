"""Fixtures shared by the unit tests."""

from __future__ import annotations

import pytest

from metasd_local.sampling import SamplerSettings
from metasd_local.verify import Greedy


@pytest.fixture
def greedy() -> Greedy:
    """Return a scheme for drafters that draw nothing."""
    return Greedy(SamplerSettings(temperature=0.0), 16, 16)
