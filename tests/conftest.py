"""Keeps every test away from the user's files and from the network, and lends a tiny model."""

from __future__ import annotations

import gc
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from metasd_local.config import state_path
from metasd_local.pools.local import POOLS_FILE
from tests.tiny_gguf import write_tiny_gguf

HOME_KEY = pytest.StashKey[tempfile.TemporaryDirectory[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Point the environment at a fresh home before any test module is imported."""
    # A background job of a shell ignores Ctrl-C, and what it starts does too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    home = tempfile.TemporaryDirectory(prefix="metasd-tests-")
    config.stash[HOME_KEY] = home
    for name in [name for name in os.environ if name.startswith(("HF_", "METASD_"))]:
        del os.environ[name]
    os.environ["HOME"] = os.environ["USERPROFILE"] = home.name
    for name in ("CONFIG", "DATA", "STATE", "CACHE"):
        os.environ[f"XDG_{name}_HOME"] = str(Path(home.name, name.lower()))
    os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the home again."""
    config.stash[HOME_KEY].cleanup()


def pytest_collection_finish() -> None:
    """Spare the collector what lives to the end: walking it again and again takes seconds."""
    gc.collect()
    gc.freeze()


def _only_loopback(connect: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = str(address[0])
            if host not in ("localhost", "::1") and not host.startswith("127."):
                raise OSError(f"a test tried to connect to {address}")
        return connect(self, address)

    return guarded


@pytest.fixture(scope="session", autouse=True)
def _refuse_network() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, _only_loopback(getattr(socket.socket, name)))
        yield


@pytest.fixture(autouse=True)
def _forget_the_last_pool() -> None:
    """Without this the pool that one test opened would be the default of the next."""
    (state_path(os.environ) / POOLS_FILE).unlink(missing_ok=True)


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a tiny attention model, shared by all tests: do not change the file."""
    return write_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf")
