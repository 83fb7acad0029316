"""Downloads from the test Hub: in this process, or in one that may be killed."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from huggingface_hub import constants
from huggingface_hub.utils import close_session  # type: ignore[attr-defined]

from metasd_local.download.fetch import DownloadEvent, FileDone, download
from metasd_local.download.plan import plan_download
from metasd_local.hub.remote import Hub, Patience
from metasd_local.hub.repository import HubFile

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess

QUICK = Patience(stall_s=0.2, attempts=4, pause_s=0.0)


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
