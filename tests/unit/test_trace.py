"""A trace gives back the very events it was given, or says why not."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest

from metasd_local.errors import MetasdError, UsageError
from metasd_local.events import Event, GenerationDone, Notice, PromptRead, RoundDone, TextPiece
from metasd_local.trace import Asked, Known, TraceWriter, read_entries
from tests.traces import read_trace

EVENTS: list[Event] = [
    PromptRead(prompt_tokens=12, reused_tokens=3, seconds=0.1),
    RoundDone(
        index=0,
        arm="code",
        window=5,
        drafted=5,
        accepted=1,
        emitted=(7, 8),
        next_kind="recovered",
        catch_up_s=0.0,
        draft_s=1 / 3,
        verify_s=1e-9,
        own_s=0.001,
        reward=0.5,
        scores={"code": math.inf, "plain": -math.inf, "ngram": 0.1},
    ),
    RoundDone(
        index=1,
        arm="plain",
        window=0,
        drafted=0,
        accepted=0,
        emitted=(),
        next_kind=None,
        catch_up_s=0,
        draft_s=0,
        verify_s=0,
        own_s=0,
        reward=0,
    ),
    TextPiece("Grüße\n\u2028\x1b[31m\udcff", kind="reasoning"),
    Notice("the machine is busy"),
    Notice("drafter dropped", dropped="code"),
    GenerationDone("cancelled", None, seconds_decode=2.0, seconds_inside=1.5),
]


def write_trace(path: Path, events: list[Event]) -> Path:
    """Append events to a trace."""
    with TraceWriter(path) as trace:
        for event in events:
            trace.write(event)
    return path


def test_events_survive_exactly(tmp_path: Path) -> None:
    """Every kind of event, infinite scores and odd characters included."""
    assert list(read_trace(write_trace(tmp_path / "t.jsonl", EVENTS))) == EVENTS


def test_what_makes_a_screen_survives_and_readers_of_events_skip_it(tmp_path: Path) -> None:
    """Questions, and the bytes of tokens that are no characters of their own."""
    path = tmp_path / "t.jsonl"
    asked = Asked("why?", 7, "p", "ucb", "greedy", {"top_k": 40}, "CPU", 2, ("code",), 512)
    known = Known(pieces=("a", "\udcf0\udc9f"), prompt_tokens=(1, 2), plain_s=0.5)
    with TraceWriter(path) as trace:
        for entry in (asked, *EVENTS[:2], known, *EVENTS[2:]):
            trace.write(entry)
    assert list(read_trace(path)) == EVENTS
    entries = list(read_entries(path))
    assert entries[0] == (1, asked)
    assert entries[3] == (4, known)
    assert isinstance(entries[3][1], Known)
    assert entries[3][1].pieces[1].encode("utf-8", "surrogateescape") == b"\xf0\x9f"


def test_not_a_number_survives(tmp_path: Path) -> None:
    """It differs from itself, so it has a test of its own."""
    path = write_trace(tmp_path / "t.jsonl", [PromptRead(1, 0, seconds=math.nan)])
    (event,) = read_trace(path)
    assert isinstance(event, PromptRead)
    assert math.isnan(event.seconds)


def test_every_line_is_strict_json_that_names_its_event(tmp_path: Path) -> None:
    """Other tools read it too: no Infinity, one object a line."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    lines = write_trace(tmp_path / "t.jsonl", EVENTS).read_text(encoding="ascii").splitlines()
    documents = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [document["event"] for document in documents] == [type(e).__name__ for e in EVENTS]
    assert documents[1]["scores"] == {"code": "inf", "plain": "-inf", "ngram": 0.1}


def test_a_trace_is_only_appended_to(tmp_path: Path) -> None:
    """A second run leaves the first one alone."""
    path = write_trace(tmp_path / "t.jsonl", EVENTS[:2])
    write_trace(path, EVENTS[2:])
    assert list(read_trace(path)) == EVENTS


def test_the_end_of_a_generation_is_on_the_disk_at_once(tmp_path: Path) -> None:
    """A reader sees whole generations while the writer is still open."""
    with TraceWriter(tmp_path / "t.jsonl") as trace:
        for event in EVENTS:
            trace.write(event)
        assert list(read_trace(tmp_path / "t.jsonl")) == EVENTS


def test_a_torn_last_line_is_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Wherever the line was cut, the events before it are read."""
    path = write_trace(tmp_path / "t.jsonl", EVENTS[:2])
    whole = path.read_bytes()
    first_length = whole.index(b"\n") + 1
    for length in range(first_length + 1, len(whole) - 1):
        path.write_bytes(whole[:length])
        caplog.clear()
        with caplog.at_level(logging.WARNING, "metasd_local.trace"):
            assert list(read_trace(path)) == EVENTS[:1]
        assert "line 2 is cut off" in caplog.text


def test_a_last_line_that_lacks_only_its_newline_is_read(tmp_path: Path) -> None:
    """Nothing of it is missing."""
    path = write_trace(tmp_path / "t.jsonl", EVENTS[:2])
    path.write_bytes(path.read_bytes().rstrip())
    assert list(read_trace(path)) == EVENTS[:2]


def prompt_read(tokens: int, seconds: int) -> str:
    """Return a line of a trace."""
    numbers = {"prompt_tokens": tokens, "reused_tokens": 0, "seconds": seconds}
    return json.dumps({"event": "PromptRead", **numbers})


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ('{"event": "Notice"', "delimiter"),
        ("[]", "expected an object"),
        ('{"event": "Noise", "text": ""}', "found event 'Noise', expected one of PromptRead"),
        ('{"text": ""}', "found event None"),
        ('{"event": "Notice"}', "Notice has missing or unknown fields: text"),
        ('{"event": "Notice", "text": "", "more": 1}', "missing or unknown fields: more"),
        ('{"event": "Notice", "text": 1}', "Notice.text: found 1"),
        ('{"event": "TextPiece", "text": "", "kind": "aside"}', "TextPiece.kind: found 'aside'"),
        (
            '{"event": "PromptRead", "prompt_tokens": true, "reused_tokens": 0, "seconds": 0}',
            "PromptRead.prompt_tokens: found True",
        ),
        (
            '{"event": "PromptRead", "prompt_tokens": 1, "reused_tokens": 0, "seconds": "1"}',
            "PromptRead.seconds: found '1'",
        ),
        (
            '{"event": "PromptRead", "prompt_tokens": 1, "reused_tokens": 0, "seconds": null}',
            "PromptRead.seconds: found None",
        ),
        (prompt_read(2**70, 0), "PromptRead.prompt_tokens: found 1180591620717411303424"),
        (prompt_read(0, 10**400), "too large"),
        ("[" * 100_000, "recursion"),
        ("\udcff", "codec"),
    ],
)
def test_any_other_damage_names_line_and_cause(tmp_path: Path, line: str, cause: str) -> None:
    """A trace is never half believed."""
    path = write_trace(tmp_path / "t.jsonl", EVENTS[:1])
    with path.open("ab") as file:
        file.write(line.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.raises(MetasdError) as caught:
        list(read_trace(path))
    assert f"{path}, line 2: " in str(caught.value)
    assert cause in str(caught.value)


@pytest.mark.parametrize("content", ["my notes", "my notes\n", "{}\n"])
def test_nothing_is_appended_to_a_torn_line_or_a_foreign_file(tmp_path: Path, content: str) -> None:
    """Appending there would damage the middle of the file for good."""
    path = tmp_path / "notes.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match="give another file"):
        TraceWriter(path)
    assert path.read_text(encoding="utf-8") == content


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Before any model is loaded."""
    with pytest.raises(UsageError, match="cannot write a trace"):
        TraceWriter(tmp_path / "missing" / "t.jsonl")
    with pytest.raises(MetasdError, match="cannot be read"):
        list(read_trace(tmp_path / "missing.jsonl"))
