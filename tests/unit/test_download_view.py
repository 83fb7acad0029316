"""How a download is shown, on a terminal and elsewhere."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path

import pytest

from metasd_local.cli.progress import Bars, End, Gauge, JsonLines, Lines
from metasd_local.cli.surroundings import Surroundings, process_surroundings
from metasd_local.download.fetch import FileDone, FileFailed, FileNote, FileProgress
from metasd_local.download.plan import DownloadPlan
from metasd_local.hub.remote import RemoteFile
from metasd_local.text import size_text
from tests.scripted_session import Terminal
from tui.start import chat

FILES = tuple(
    RemoteFile(
        "user/repo", f"{name}{40 * 'e'}\x1b-00001-of-00002.gguf", "main", "a" * 40, name * 64, 1000
    )
    for name in ("b", "c")
)
PLAN = DownloadPlan((), (), files=FILES)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))


def around(stderr: io.StringIO, stdout: io.StringIO | None = None) -> Surroundings:
    stdout = stdout or io.StringIO()
    return dataclasses.replace(process_surroundings(chat), stdout=stdout, stderr=stderr)


@pytest.mark.parametrize("columns", [60, 80])
def test_a_terminal_has_a_bar_for_all_and_one_for_each_file_on_its_way(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """They are erased before anything else is written, and a file's name cannot steer it."""
    monkeypatch.setenv("COLUMNS", str(columns))
    screen = Terminal()
    bars = Bars(around(screen))
    bars(PLAN)
    screen.truncate(screen.seek(0))
    bars(FileProgress(FILES[0], 500))
    both, one = screen.getvalue().splitlines()
    assert both.split()[:6] == ["all", "##--------", "25%", "of", "2", "kB"]
    assert re.match(r"[be]*[-of\d]*0002 #####----- 50% of 1 kB  .*/s  0:00 left", one)
    assert len(one) < columns
    assert "\x1b" not in screen.getvalue()
    bars(FileNote(FILES[0], "waits"))
    erased = screen.getvalue().split("\x1b[2A\r\x1b[J")
    assert len(erased) == 2
    assert erased[1].endswith(".gguf: waits\n")


def test_a_pipe_gets_a_line_now_and_then() -> None:
    """At most ten for a file, and what ends it; the paths are the result."""
    stream, result = io.StringIO(), io.StringIO()
    lines = Lines(around(stream, result))
    lines(PLAN)
    stream.truncate(stream.seek(0))
    for done_bytes in range(0, 1001, 10):
        lines(FileProgress(FILES[0], done_bytes))
    lines(FileDone(FILES[0], Path("x")))
    lines(FileFailed(FILES[1], "gone"))
    lines(End(False, (Path("x"),)))
    said = stream.getvalue().splitlines()
    assert 5 <= len(said) <= 12
    assert said[-2].endswith("complete, checksum right")
    assert said[-1].endswith("failed: gone")
    assert result.getvalue() == "x\n"


def test_json_tells_the_end_of_every_file_but_not_every_byte() -> None:
    """A line each."""
    stream = io.StringIO()
    view = JsonLines(stream)
    for done_bytes in range(100):
        view(FileProgress(FILES[0], done_bytes))
    view(FileDone(FILES[0], Path("x")))
    said = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [each["event"] for each in said] == ["progress", "done"]


def test_speed_is_that_of_the_last_seconds() -> None:
    """What was there before counts for nothing."""
    now = 0.0
    speed = Gauge(5000, 10_000, lambda: now)
    assert str(speed) == "50% of 10 kB"
    for now in range(1, 30):
        speed.observe(5000 + 10 * now if now < 15 else 5150 + 100 * (now - 15))
    assert speed.bytes_per_second == pytest.approx(100, rel=0.01)
    assert str(speed) == "66% of 10 kB  100 bytes/s  0:34 left"


def test_sizes_are_written_as_people_do() -> None:
    """In decimal units, as shops and the Hub do."""
    sizes = [size_text(size) for size in (999, 25_000, 999_600, 4_920_000_000, 17.62e9, 2e12)]
    assert sizes == ["999 bytes", "25 kB", "1 MB", "4.92 GB", "17.6 GB", "2000 GB"]
