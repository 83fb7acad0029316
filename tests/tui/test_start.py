"""Whatever a pool brings along, the chat stays quick."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tui.start import sparing_collections


@pytest.fixture
def _as_before() -> Iterator[None]:
    """Leave it to the collector again what the tests had spared it."""
    yield
    gc.collect()
    gc.freeze()


@pytest.mark.usefixtures("_as_before")
def test_collections_of_garbage_pass_over_what_is_loaded_until_another_pool_is() -> None:
    pools = iter(([["a first pool"]], [["another"]]))
    open_pool = sparing_collections(lambda: next(pools))
    first = open_pool()
    assert not any(each is first for each in gc.get_objects())
    gc.unfreeze()
    assert any(each is first for each in gc.get_objects())
    second = open_pool()
    assert not any(each is second for each in gc.get_objects())
