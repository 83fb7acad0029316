"""The bytes of one file: resumed where they ended, checked, and only then given their name."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event as Flag
from time import monotonic
from typing import BinaryIO, TypeVar

import filelock

from metasd_local.errors import Cancelled, DownloadError, Unavailable
from metasd_local.hub.cache import READ_BYTES, is_sound, lock_path, new_hasher, publish
from metasd_local.hub.remote import Hub, Patience, RemoteFile

WRITE_BYTES = 1 << 20
WRITE_S = 0.5
"""What is received is written and hashed when it is this much, or has waited for so long."""
LONGEST_PAUSE_S = 300.0
LOCK_POLL_S = 0.2

Result = TypeVar("Result")


def persist(
    action: Callable[[], Result],
    patience: Patience,
    stop: Flag,
    notify: Callable[[str], None],
    gained_bytes: Callable[[], int] = lambda: 0,
) -> Result:
    """Repeat an action while the server is unavailable.

    Raises: Unavailable where patience ends; Cancelled; whatever else the action raises.
    """
    failures = 0
    while True:
        before = gained_bytes()
        try:
            return action()
        except Unavailable as error:
            if error.is_lasting:
                raise
            failures = 1 if gained_bytes() > before else failures + 1
            if failures >= patience.attempts:
                raise Unavailable(
                    f"{error}; gave up after {failures} attempts, what came is kept: run the same "
                    "command again later"
                ) from None
            pause_s = max(error.pause_s or 0.0, patience.pause_s * 2 ** (failures - 1))
            if pause_s > LONGEST_PAUSE_S:
                raise Unavailable(
                    f"{error} and asks to wait {pause_s:.0f} s: run the same command again then"
                ) from None
            notify(f"{error}; next attempt in {pause_s:.0f} s")
            if stop.wait(pause_s):
                raise Cancelled("the download was stopped") from None


class Transfer:
    """Fetches one file into its part; nobody else may write there meanwhile."""

    def __init__(
        self,
        file: RemoteFile,
        hub: Hub,
        stop: Flag,
        *,
        on_bytes: Callable[[int], None],
        on_note: Callable[[str], None],
    ) -> None:
        self._file = file
        self._hub = hub
        self._stop = stop
        self._on_bytes = on_bytes
        self._on_note = on_note
        self._hasher = new_hasher(file.blob, file.size_bytes)
        self._done_bytes = 0
        self._hashing: Future[None] | None = None

    def run(self) -> Path:
        """Fetch what is missing and return the path in the cache.

        Raises: DownloadError; Cancelled. The part stays, except one that is wrong.
        """
        file = self._file
        try:
            with self._locked():
                if file.is_here and is_sound(file.path, file.blob, self._look_on) is False:
                    file.path.unlink()
                if not file.is_here:
                    self._fetch()
                self._on_bytes(file.size_bytes)
                return publish(file.path, file.repo, file.revision, file.commit, file.name)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                missing = file.size_bytes - file.here_bytes
                raise DownloadError(
                    f"the disk is full; make room for {missing:,} more bytes under "
                    f"{file.path.parent}, then run the same command again"
                ) from None
            raise DownloadError(
                f"{error.filename or file.path} cannot be written: {error.strerror}; make it "
                "writable, or set HF_HOME to another folder"
            ) from None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Wait until nobody else fetches this blob."""
        path = lock_path(self._file.path)
        for folder in (path.parent, self._file.path.parent):
            folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path, mode=0o664)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            self._on_note("waits for another process that fetches it")
            while not lock.is_locked:
                self._raise_if_stopped()
                with contextlib.suppress(filelock.Timeout):
                    lock.acquire(timeout=LOCK_POLL_S)
        try:
            yield
        finally:
            lock.release()

    def _raise_if_stopped(self) -> None:
        if self._stop.is_set():
            raise Cancelled("the download was stopped")

    def _look_on(self, share: float) -> None:
        """Tell how much of what is here was hashed."""
        self._on_bytes(round(share * self._file.size_bytes))
        self._raise_if_stopped()

    def _fetch(self) -> None:
        """Complete and check the part, then rename it."""
        part, size_bytes = self._file.part, self._file.size_bytes
        with (
            ThreadPoolExecutor(1) as self._helper,
            part.open("a+b", buffering=0) as stream,
        ):
            if stream.seek(0, os.SEEK_END) > size_bytes:
                stream.truncate(0)
            self._read_part(stream)
            if self._done_bytes < size_bytes:
                persist(
                    lambda: self._receive(stream),
                    self._hub.patience,
                    self._stop,
                    self._on_note,
                    lambda: self._done_bytes,
                )
            os.fsync(stream.fileno())
        if self._hasher.hexdigest() != self._file.blob:
            part.unlink()
            raise DownloadError(
                f"{self._file.repo}/{self._file.name} arrived with a wrong checksum and was "
                "removed; run the same command again to fetch it from the start"
            )
        part.replace(self._file.path)

    def _hash(self, piece: bytes) -> None:
        """Hash in a thread of its own, one piece behind: it costs as much as all the rest."""
        if self._hashing is not None:
            self._hashing.result()
        self._hashing = self._helper.submit(self._hasher.update, piece)

    def _read_part(self, stream: BinaryIO) -> None:
        """Hash what is there already."""
        stream.seek(0)
        while piece := stream.read(READ_BYTES):
            self._hash(piece)
            self._done_bytes += len(piece)
            self._raise_if_stopped()
        self._on_bytes(self._done_bytes)

    def _receive(self, stream: BinaryIO) -> None:
        """Append what one connection delivers. Raise Unavailable if that is not all."""
        file = self._file
        start, size_bytes = self._done_bytes, file.size_bytes
        with self._hub.open(file, start) as response:
            host = response.url.host
            if response.status_code == 416:
                raise Unavailable(f"{host} has no byte {start} of {file.name}")
            # A server that ignores ranges starts over; the part does not.
            skipped = start
            if response.status_code == 206:
                skipped = 0
                found = response.headers.get("content-range", "")
                if found.split("/")[0] != f"bytes {start}-{size_bytes - 1}":
                    raise Unavailable(f"{host} sends {found!r}, not from {start} on")
            length = int(response.headers.get("content-length", size_bytes - start + skipped))
            if length != size_bytes - start + skipped:
                raise Unavailable(
                    f"{host} sends {length} bytes, expected {size_bytes - start + skipped}"
                )
            buffer = bytearray()
            written_s = monotonic()
            try:
                for piece in response.iter_raw():
                    dropped = min(skipped, len(piece))
                    skipped -= dropped
                    buffer += memoryview(piece)[dropped:]
                    if len(buffer) >= WRITE_BYTES or monotonic() - written_s > WRITE_S:
                        self._write(stream, buffer)
                        written_s = monotonic()
                    self._raise_if_stopped()
            finally:
                self._write(stream, buffer)
        if self._done_bytes < size_bytes:
            raise Unavailable(f"the connection ended at byte {self._done_bytes}")

    def _write(self, stream: BinaryIO, buffer: bytearray) -> None:
        """Move the buffer to the end of the part, but no more than belongs there."""
        del buffer[self._file.size_bytes - self._done_bytes :]
        while buffer:
            written = stream.write(buffer)
            self._hash(bytes(memoryview(buffer)[:written]))
            # Before anything can fail: what the part has is no longer in the buffer.
            del buffer[:written]
            self._done_bytes += written
        self._on_bytes(self._done_bytes)
