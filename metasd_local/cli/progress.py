"""How a download is shown: bars on a terminal, lines in a pipe, or one JSON object per event."""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any, Protocol, TextIO

from metasd_local.cli.output import Output
from metasd_local.download.fetch import DownloadEvent, FileDone, FileFailed, FileNote, FileProgress
from metasd_local.download.plan import DownloadPlan
from metasd_local.hub.remote import RemoteFile
from metasd_local.text import printable, size_text

PAINT_S = 0.1
JSON_S = 0.5
SPEED_S = 8.0
"""Of which a speed is the mean."""
LINE_SHARE = 0.1
"""Of a file, between two lines about it."""
BAR_COLUMNS = 20


class View(Protocol):
    """What shows a download."""

    def show(self, event: DownloadEvent) -> None:
        """Show one event."""
        ...


class Gauge:
    """How much of something is there, and how fast it grows."""

    def __init__(
        self, done_bytes: int, size_bytes: int, clock: Callable[[], float] = monotonic
    ) -> None:
        self._clock = clock
        self._size_bytes = size_bytes
        self._points = deque([(clock(), done_bytes)])

    def observe(self, done_bytes: int) -> None:
        """Take note of how much is there now."""
        now = self._clock()
        self._points.append((now, done_bytes))
        while len(self._points) > 2 and now - self._points[1][0] > SPEED_S:
            self._points.popleft()

    @property
    def share(self) -> float:
        """Return how much is there, in [0, 1]."""
        return self._points[-1][1] / self._size_bytes if self._size_bytes else 1.0

    @property
    def bytes_per_second(self) -> float:
        """Return the mean over the last seconds; 0 if nothing came."""
        (first_s, first), (last_s, last) = self._points[0], self._points[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0

    def __str__(self) -> str:
        """Return sizes, speed and time left."""
        done_bytes, rate = self._points[-1][1], self.bytes_per_second
        sizes = f"{size_text(done_bytes)} of {size_text(self._size_bytes)}"
        if rate <= 0:
            return sizes
        minutes, seconds = divmod(int((self._size_bytes - done_bytes) / rate), 60)
        hours, minutes = divmod(minutes, 60)
        left = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
        return f"{sizes}  {size_text(rate)}/s  {left} left"


class Bars:
    """One bar for all files and one for each that is on its way."""

    def __init__(self, plan: DownloadPlan, stream: TextIO, output: Output) -> None:
        self._stream = stream
        self._output = output
        self._done_bytes = {file: file.here_bytes for file in plan.files}
        self._all = Gauge(sum(self._done_bytes.values()), sum(f.size_bytes for f in plan.files))
        self._moving: dict[RemoteFile, Gauge] = {}
        self._num_lines = 0
        self._painted_s = 0.0

    def show(self, event: DownloadEvent) -> None:
        """Show one event."""
        file = event.file
        if isinstance(event, FileProgress):
            self._done_bytes[file] = event.done_bytes
            self._all.observe(sum(self._done_bytes.values()))
            if file not in self._moving:
                self._moving[file] = Gauge(event.done_bytes, file.size_bytes)
            self._moving[file].observe(event.done_bytes)
            if monotonic() - self._painted_s > PAINT_S:
                self._paint()
            return
        self._erase()
        if not isinstance(event, FileNote):
            self._moving.pop(file, None)
        self._output.line(_sentence(event))

    def _paint(self) -> None:
        bars = [("all", self._all)]
        bars += [(Path(file.name).name, gauge) for file, gauge in self._moving.items()]
        width = shutil.get_terminal_size().columns - 1
        self._erase()
        for name, gauge in bars:
            full = "#" * int(gauge.share * BAR_COLUMNS)
            line = f"{gauge.share:4.0%} [{full:-<{BAR_COLUMNS}}] {gauge}  {name}"
            self._stream.write(f"{printable(line)[:width]}\n")
        self._stream.flush()
        self._num_lines = len(bars)
        self._painted_s = monotonic()

    def _erase(self) -> None:
        if self._num_lines:
            self._stream.write(f"\x1b[{self._num_lines}A\r\x1b[J")
            self._num_lines = 0


def _sentence(event: FileNote | FileDone | FileFailed) -> str:
    match event:
        case FileDone():
            text = "complete, checksum right"
        case FileFailed():
            text = f"failed: {event.text}"
        case FileNote():
            text = event.text
    return f"{event.file.name}: {text}"


class Lines:
    """A line about a file now and then."""

    def __init__(self, plan: DownloadPlan, output: Output) -> None:
        self._output = output
        self._gauges = {file: Gauge(file.here_bytes, file.size_bytes) for file in plan.files}
        self._next_share = dict.fromkeys(plan.files, LINE_SHARE)

    def show(self, event: DownloadEvent) -> None:
        """Show one event."""
        if not isinstance(event, FileProgress):
            self._output.line(_sentence(event))
            return
        gauge = self._gauges[event.file]
        gauge.observe(event.done_bytes)
        if self._next_share[event.file] <= gauge.share < 1.0:
            self._next_share[event.file] = gauge.share + LINE_SHARE
            self._output.line(f"{event.file.name}: {gauge.share:.0%}, {gauge}")


class JsonLines:
    """One JSON object per line and event, progress of a file at most twice a second."""

    def __init__(self, stdout: TextIO) -> None:
        self._stdout = stdout
        self._told_s: dict[RemoteFile, float] = {}

    def show_plan(self, plan: DownloadPlan) -> None:
        """Show what is to be done."""
        names = ("repo", "name", "size_bytes", "here_bytes")
        document = {
            "present": [str(model) for model in plan.present],
            "files": [{name: getattr(file, name) for name in names} for file in plan.files],
            "problems": plan.problems,
            "missing_bytes": plan.missing_bytes,
            "free_bytes": plan.free_bytes,
        }
        self.write("plan", document)

    def show(self, event: DownloadEvent) -> None:
        """Show one event."""
        file = event.file
        about: dict[str, Any] = {"repo": file.repo, "name": file.name}
        match event:
            case FileProgress():
                if monotonic() - self._told_s.get(file, 0.0) < JSON_S:
                    return
                self._told_s[file] = monotonic()
                about |= {"done_bytes": event.done_bytes, "size_bytes": file.size_bytes}
                self.write("progress", about)
            case FileNote():
                self.write("note", about | {"text": event.text})
            case FileDone():
                self.write("done", about | {"path": str(event.path)})
            case FileFailed():
                self.write("failed", about | {"text": event.text})

    def write(self, kind: str, about: dict[str, Any]) -> None:
        """Write a line."""
        self._stdout.write(json.dumps({"event": kind, **about}) + "\n")
        self._stdout.flush()
