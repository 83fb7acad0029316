"""Reading what a test recorded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from metasd_local.events import Event
from metasd_local.trace import Asked, Known, read_entries


def read_trace(path: Path) -> Iterator[Event]:
    """Yield the events of a trace alone."""
    for _, entry in read_entries(path):
        if not isinstance(entry, Asked | Known):
            yield entry
