"""A Hub on loopback for the tests that download."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_client import online_hub
from tests.hub_server import HubServer


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with online_hub(tmp_path / "home", monkeypatch) as server:
        yield server
