"""How a download is shown: bars on a terminal, lines in a pipe, or one JSON object per event."""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, TextIO, TypeAlias

from metasd_local.cli.surroundings import Surroundings
from metasd_local.download.fetch import DownloadEvent, FileDone, FileFailed, FileNote, FileProgress
from metasd_local.download.plan import DownloadPlan
from metasd_local.hub.cache import cache_folder
from metasd_local.hub.remote import RemoteFile
from metasd_local.text import printable, size_text

PAINT_S = 0.1
JSON_S = 0.5
SPEED_S = 8.0
"""Of which a speed is the mean."""
LINE_SHARE = 0.1
"""Of a file, between two lines about it."""
BAR_COLUMNS = 10
GAUGE_COLUMNS = 50
"""Of a line, for its bar and figures."""


@dataclass(frozen=True, slots=True)
class End:
    """Nothing more will come."""

    is_complete: bool
    paths: tuple[Path, ...] = ()
    """Of the models that were asked for and are here."""


View: TypeAlias = Callable[[DownloadPlan | DownloadEvent | End], None]
"""What shows a download, from its plan to its end."""


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
    def done_bytes(self) -> int:
        """Return how much is there."""
        return self._points[-1][1]

    @property
    def share(self) -> float:
        """Return how much is there, in [0, 1]."""
        return self.done_bytes / self._size_bytes if self._size_bytes else 1.0

    @property
    def bytes_per_second(self) -> float:
        """Return the mean over the last seconds; 0 if nothing came."""
        (first_s, first), (last_s, last) = self._points[0], self._points[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0

    def __str__(self) -> str:
        """Return share, size, speed and time left."""
        rate = self.bytes_per_second
        text = f"{self.share:3.0%} of {size_text(self._size_bytes)}"
        if rate <= 0:
            return text
        minutes, seconds = divmod(int((self._size_bytes - self.done_bytes) / rate), 60)
        hours, minutes = divmod(minutes, 60)
        left = f"{hours}:{minutes:02}" if hours else f"{minutes}"
        return f"{text}  {size_text(rate)}/s  {left}:{seconds:02} left"


class Lines:
    """A line about a file now and then."""

    def __init__(self, around: Surroundings) -> None:
        self._stdout = around.stdout
        self._output = around.output
        self._gauges: dict[RemoteFile, Gauge] = {}
        self._next_share: dict[RemoteFile, float] = {}

    def __call__(self, event: DownloadPlan | DownloadEvent | End) -> None:
        """Show one event."""
        match event:
            case DownloadPlan():
                self._show_plan(event)
            case FileProgress():
                gauge = self._gauges[event.file]
                gauge.observe(event.done_bytes)
                self._show_progress(event.file, gauge)
            case FileNote():
                self._output.line(f"{event.file.name}: {event.text}")
            case FileDone():
                self._output.line(f"{event.file.name}: complete, checksum right")
            case FileFailed():
                self._output.line(f"{event.file.name}: failed: {event.text}")
            case End():
                self._stdout.writelines(f"{path}\n" for path in event.paths)

    def _show_plan(self, plan: DownloadPlan) -> None:
        self._gauges = {file: Gauge(file.here_bytes, file.size_bytes) for file in plan.files}
        self._next_share = dict.fromkeys(plan.files, LINE_SHARE)
        for model in plan.present:
            self._output.line(f"{'here':>9}  {model}")
        for file in plan.files:
            here = f", {size_text(file.here_bytes)} of it are here" if file.here_bytes else ""
            self._output.line(f"{size_text(file.size_bytes):>9}  {file.repo}/{file.name}{here}")
        for problem in plan.problems:
            self._output.message(f"left out: {problem}")
        if plan.files:
            sizes = [size_text(size) for size in (plan.missing_bytes, plan.free_bytes)]
            self._output.line(f"{sizes[0]} to fetch, {sizes[1]} free under {cache_folder()}")

    def _show_progress(self, file: RemoteFile, gauge: Gauge) -> None:
        if self._next_share[file] <= gauge.share < 1.0:
            self._next_share[file] = gauge.share + LINE_SHARE
            self._output.line(f"{file.name}: {gauge}")


class Bars(Lines):
    """One bar for all files and one for each that is on its way."""

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around)
        self._stream = around.stderr
        self._all = Gauge(0, 0)
        self._moving: dict[RemoteFile, Gauge] = {}
        self._num_lines = 0
        self._painted_s = 0.0

    def __call__(self, event: DownloadPlan | DownloadEvent | End) -> None:
        """Show one event."""
        if not isinstance(event, FileProgress):
            self._erase()
        if isinstance(event, FileDone | FileFailed):
            self._moving.pop(event.file, None)
        super().__call__(event)

    def _show_plan(self, plan: DownloadPlan) -> None:
        super()._show_plan(plan)
        size_bytes = sum(file.size_bytes for file in plan.files)
        self._all = Gauge(size_bytes - plan.missing_bytes, size_bytes)

    def _show_progress(self, file: RemoteFile, gauge: Gauge) -> None:
        self._all.observe(sum(each.done_bytes for each in self._gauges.values()))
        self._moving[file] = gauge
        if monotonic() - self._painted_s <= PAINT_S:
            return
        bars = [("all", self._all)]
        bars += [(Path(file.name).stem, gauge) for file, gauge in self._moving.items()]
        num_columns = shutil.get_terminal_size().columns - 1
        width = max(1, min(num_columns - GAUGE_COLUMNS, max(len(name) for name, _ in bars)))
        self._erase()
        for name, gauge in bars:
            full = "#" * int(gauge.share * BAR_COLUMNS)
            # The end of a name tells quantisations and parts apart.
            line = f"{printable(name)[-width:]:{width}} {full:-<{BAR_COLUMNS}} {gauge}"
            self._stream.write(f"{line[:num_columns]}\n")
        self._stream.flush()
        self._num_lines = len(bars)
        self._painted_s = monotonic()

    def _erase(self) -> None:
        if self._num_lines:
            self._stream.write(f"\x1b[{self._num_lines}A\r\x1b[J")
            self._num_lines = 0


class JsonLines:
    """One JSON object per line and event, progress of a file at most twice a second."""

    def __init__(self, stdout: TextIO) -> None:
        self._stdout = stdout
        self._told_s: dict[RemoteFile, float] = {}

    def __call__(self, event: DownloadPlan | DownloadEvent | End) -> None:
        """Show one event."""
        match event:
            case DownloadPlan():
                names = ("repo", "name", "size_bytes", "here_bytes")
                self._write(
                    "plan",
                    present=[str(model) for model in event.present],
                    files=[{name: getattr(file, name) for name in names} for file in event.files],
                    problems=event.problems,
                    missing_bytes=event.missing_bytes,
                    free_bytes=event.free_bytes,
                )
            case End():
                self._write("end", ok=event.is_complete, paths=list(map(str, event.paths)))
            case FileProgress(file, done_bytes):
                if monotonic() - self._told_s.get(file, 0.0) >= JSON_S:
                    self._told_s[file] = monotonic()
                    about = {"done_bytes": done_bytes, "size_bytes": file.size_bytes}
                    self._write("progress", file, **about)
            case FileNote(file, text):
                self._write("note", file, text=text)
            case FileDone(file, path):
                self._write("done", file, path=str(path))
            case FileFailed(file, text):
                self._write("failed", file, text=text)

    def _write(self, kind: str, file: RemoteFile | None = None, **about: Any) -> None:
        if file is not None:
            about = {"repo": file.repo, "name": file.name, **about}
        self._stdout.write(json.dumps({"event": kind, **about}) + "\n")
        self._stdout.flush()
