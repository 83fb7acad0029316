"""Several files at once from the Hub into the cache, told as events."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TypeAlias

from metasd_local.download.plan import DownloadPlan
from metasd_local.download.transfer import Transfer
from metasd_local.errors import Cancelled, MetasdError
from metasd_local.hub.cache import remove_part
from metasd_local.hub.remote import Hub, RemoteFile

NUM_WORKERS = 3
GRACE_S = 1.0
"""For transfers to end when the user stops them; one that waits for bytes is left behind."""


@dataclass(frozen=True, slots=True)
class FileProgress:
    """So much of a file is there."""

    file: RemoteFile
    done_bytes: int


@dataclass(frozen=True, slots=True)
class FileNote:
    """Something the user should know while it goes on."""

    file: RemoteFile
    text: str


@dataclass(frozen=True, slots=True)
class FileDone:
    """A file is complete, checked and in its place."""

    file: RemoteFile
    path: Path


@dataclass(frozen=True, slots=True)
class FileFailed:
    """A file will not come in this run; the others go on."""

    file: RemoteFile
    text: str


DownloadEvent: TypeAlias = FileProgress | FileNote | FileDone | FileFailed


def download(plan: DownloadPlan, stop: threading.Event) -> Iterator[DownloadEvent]:
    """Fetch the files of a plan, large ones first, and tell what happens.

    stop: set it to end; what came is kept.
    Raises: Cancelled after `stop`. A file that fails is told as FileFailed.
    """
    hub = plan.hub
    if hub is None:
        return
    for part in plan.stale:
        with contextlib.suppress(OSError):
            remove_part(part)
    files: queue.SimpleQueue[RemoteFile] = queue.SimpleQueue()
    for file in sorted(plan.files, key=lambda file: -file.size_bytes):
        files.put(file)
    events: queue.SimpleQueue[DownloadEvent | BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        problem: BaseException | None = None
        try:
            while not stop.is_set():
                _fetch(files.get_nowait(), hub, stop, events.put)
        except (queue.Empty, Cancelled):
            pass
        except BaseException as error:
            problem = error
        events.put(problem)

    num_running = min(NUM_WORKERS, len(plan.files))
    for _ in range(num_running):
        # The end of the process need not wait for one that waits for bytes.
        threading.Thread(target=work, daemon=True).start()
    left_s = GRACE_S
    try:
        while num_running and left_s > 0:
            began_s = monotonic()
            with contextlib.suppress(queue.Empty):
                event = events.get(timeout=GRACE_S / 4)
                if isinstance(event, BaseException):
                    raise event
                if event is None:
                    num_running -= 1
                else:
                    yield event
            if stop.is_set():
                left_s -= monotonic() - began_s
    finally:
        if num_running:
            stop.set()
    if stop.is_set():
        raise Cancelled("the download was stopped")


def _fetch(
    file: RemoteFile,
    hub: Hub,
    stop: threading.Event,
    tell: Callable[[DownloadEvent], None],
) -> None:
    transfer = Transfer(
        file,
        hub,
        stop,
        on_bytes=lambda done_bytes: tell(FileProgress(file, done_bytes)),
        on_note=lambda text: tell(FileNote(file, text)),
    )
    try:
        path = transfer.run()
    except Cancelled:
        raise
    except MetasdError as error:
        tell(FileFailed(file, str(error)))
    else:
        tell(FileDone(file, path))
