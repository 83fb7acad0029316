"""Downloads from the test Hub: in this process, or in one that may be killed."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from huggingface_hub import constants
from huggingface_hub.utils import close_session  # type: ignore[attr-defined]

from metasd_local.download.fetch import DownloadEvent, FileDone, FileFailed, download
from metasd_local.download.plan import plan_download
from metasd_local.hub.cache import cache_folder, find_local, part_suffix
from metasd_local.hub.remote import Hub, Patience
from metasd_local.hub.repository import HubFile
from tests.hub_server import REPO, HubServer, running_hub, sha256

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess

    import pytest

QUICK = Patience(stall_s=0.2, attempts=4, pause_s=0.0)
NAME = "m-Q4_K_M.gguf"
FILE = HubFile(REPO, NAME)
CONTENT = random.Random(1).randbytes(300_000)
PART = f"{sha256(CONTENT)}{part_suffix(NAME)}"


@contextmanager
def online_hub(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Serve one model, with an empty cache in `home`."""
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    with running_hub() as server:
        server.files[REPO][NAME] = CONTENT
        yield server
        close_session()


def parts() -> list[Path]:
    """Return the files that are not complete."""
    return sorted(cache_folder().rglob("*.part"))


def failures(events: list[DownloadEvent]) -> list[str]:
    """Return what went wrong."""
    return [event.text for event in events if isinstance(event, FileFailed)]


def is_complete(name: str = NAME, content: bytes = CONTENT) -> bool:
    """Tell whether the file is here and nothing is left over."""
    path = find_local(HubFile(REPO, name))
    return path is not None and path.read_bytes() == content and not parts()


def fetch(
    endpoint: str,
    *wanted: HubFile | str,
    stop: Event | None = None,
    patience: Patience = QUICK,
) -> list[DownloadEvent]:
    """Plan and fetch, and return what was told."""
    hub = Hub(endpoint, patience)
    stop = stop or Event()
    plan = plan_download(wanted, lambda _: hub, stop)
    return list(download(plan, stop))


def _fetch_and_exit(endpoint: str, home: str, wanted: tuple[str, ...], patience: Patience) -> None:
    os.environ["HF_HOME"] = home
    constants.HF_HUB_OFFLINE = False
    events = fetch(endpoint, *wanted, patience=patience)
    close_session()
    os._exit(0 if all(isinstance(e, FileDone) for e in events if hasattr(e, "path")) else 1)


def start_fetch(
    endpoint: str, home: Path, *wanted: str, patience: Patience = QUICK
) -> ForkServerProcess:
    """Start a process that fetches; it shares nothing with this one but the cache."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    arguments = (endpoint, str(home), wanted, patience)
    process = context.Process(target=_fetch_and_exit, args=arguments)
    process.start()
    return process
