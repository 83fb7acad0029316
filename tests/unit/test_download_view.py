"""How a download is shown, on a terminal and elsewhere."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import pytest

from metasd_local.cli.output import Output
from metasd_local.cli.progress import Bars, Gauge, JsonLines, Lines
from metasd_local.cli.surroundings import process_surroundings
from metasd_local.download.fetch import FileDone, FileFailed, FileNote, FileProgress
from metasd_local.download.plan import DownloadPlan
from metasd_local.hub.remote import RemoteFile
from metasd_local.text import size_text
from tests.scripted_session import Terminal
from tui.start import chat

FILES = tuple(
    RemoteFile("user/repo", f"{name}\x1b.gguf", "main", "a" * 40, name * 64, 1000)
    for name in ("b", "c")
)
PLAN = DownloadPlan((), (), files=FILES)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "60")


def output_to(stderr: io.StringIO) -> Output:
    return dataclasses.replace(process_surroundings(chat), stderr=stderr).output


def test_a_terminal_has_a_bar_for_all_and_one_for_each_file_on_its_way() -> None:
    """They are erased before anything else is written, and a file's name cannot steer it."""
    screen = Terminal()
    bars = Bars(PLAN, screen, output_to(screen))
    bars.show(FileProgress(FILES[0], 500))
    assert [line[:6] for line in screen.getvalue().splitlines()] == [" 25% [", " 50% ["]
    assert all(len(line) < 60 for line in screen.getvalue().splitlines())
    assert "\x1b" not in screen.getvalue()
    bars.show(FileNote(FILES[0], "waits"))
    erased = screen.getvalue().split("\x1b[2A\r\x1b[J")
    assert len(erased) == 2
    assert erased[1].endswith(".gguf: waits\n")


def test_a_pipe_gets_a_line_now_and_then() -> None:
    """At most ten for a file, and what ends it."""
    stream = io.StringIO()
    lines = Lines(PLAN, output_to(stream))
    for done_bytes in range(0, 1001, 10):
        lines.show(FileProgress(FILES[0], done_bytes))
    lines.show(FileDone(FILES[0], Path("x")))
    lines.show(FileFailed(FILES[1], "gone"))
    said = stream.getvalue().splitlines()
    assert 5 <= len(said) <= 12
    assert said[-2].endswith("complete, checksum right")
    assert said[-1].endswith("failed: gone")


def test_json_tells_the_end_of_every_file_but_not_every_byte() -> None:
    """A line each."""
    stream = io.StringIO()
    view = JsonLines(stream)
    for done_bytes in range(100):
        view.show(FileProgress(FILES[0], done_bytes))
    view.show(FileDone(FILES[0], Path("x")))
    said = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [each["event"] for each in said] == ["progress", "done"]


def test_speed_is_that_of_the_last_seconds() -> None:
    """What was there before counts for nothing."""
    now = 0.0
    speed = Gauge(5000, 10_000, lambda: now)
    assert str(speed) == "5 kB of 10 kB"
    for now in range(1, 30):
        speed.observe(5000 + 10 * now if now < 15 else 5150 + 100 * (now - 15))
    assert speed.bytes_per_second == pytest.approx(100, rel=0.01)
    assert str(speed) == "7 kB of 10 kB  100 bytes/s  0 min 34 s left"


def test_sizes_are_written_as_people_do() -> None:
    """In decimal units, as shops and the Hub do."""
    sizes = [size_text(size) for size in (999, 25_000, 999_600, 4_920_000_000, 17.62e9, 2e12)]
    assert sizes == ["999 bytes", "25 kB", "1 MB", "4.92 GB", "17.6 GB", "2000 GB"]
