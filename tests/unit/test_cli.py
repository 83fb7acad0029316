"""The command line on a scripted session: what is printed where, and the exit status."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from metasd_local.backend import library
from metasd_local.cli.surroundings import DONE, FAILED, INTERRUPTED
from metasd_local.errors import BackendError, Cancelled, ModelError
from metasd_local.events import Notice, TextPiece
from metasd_local.options import MAX_RUN_TOKENS
from metasd_local.sampling import SamplerSettings
from tests.scripted_session import (
    DONE_EVENT,
    EVENTS,
    FIGURES,
    BrokenPipe,
    ScriptedSession,
    Shell,
    Step,
    Terminal,
)
from tests.traces import read_trace


def press_ctrl_c() -> None:
    """Do what a terminal does."""
    signal.raise_signal(signal.SIGINT)


def test_the_answer_goes_to_stdout_and_one_line_of_figures_to_stderr() -> None:
    """A pipe gets the answer alone: no reasoning, no progress, no escape sequence."""
    shell = Shell()
    assert shell.run("run", "hello", "--seed", "7") == DONE
    assert shell.out == "Hello world\n"
    assert shell.err == FIGURES + "\n"
    assert shell.session.sent == [("hello", 7, MAX_RUN_TOKENS)]
    assert shell.pool.is_closed


def test_a_newline_is_added_only_where_the_answer_lacks_one() -> None:
    """Files end in exactly the newline the model wrote, or in one."""
    shell = Shell(ScriptedSession([EVENTS[0], TextPiece("line\n"), DONE_EVENT]))
    assert shell.run("run", "x") == DONE
    assert shell.out == "line\n"


def test_text_is_flushed_piece_by_piece() -> None:
    """A reader sees every piece before the next one is asked for."""

    class Recorder(io.StringIO):
        seen = ""

        def flush(self) -> None:
            self.seen = self.getvalue()

    stdout = Recorder()
    seen: list[str] = []
    script: list[Step] = [
        TextPiece("a"),
        lambda: seen.append(stdout.seen),
        TextPiece("b"),
        DONE_EVENT,
    ]
    Shell(ScriptedSession(script), stdout=stdout).run("run", "x")
    assert seen == ["a"]


def test_reasoning_is_dimmed_on_a_terminal_and_kept_off_the_answers_lines() -> None:
    """Both streams end on one screen, so each starts a line of its own."""
    screen = io.StringIO()
    shell = Shell(stdout=Terminal(screen=screen), stderr=Terminal(screen=screen))
    assert shell.run("run", "hello", "--seed", "7") == DONE
    assert screen.getvalue() == f"\x1b[2mweighing\x1b[22m\nHello world\n{FIGURES}\n"


def test_no_color_leaves_reasoning_undimmed() -> None:
    """NO_COLOR is respected."""
    environment = {"XDG_CONFIG_HOME": "/nowhere", "NO_COLOR": "1"}
    shell = Shell(stderr=Terminal(), environment=environment)
    shell.run("run", "hello", "--seed", "7")
    assert shell.err == f"weighing\n{FIGURES}\n"


def test_no_escape_sequence_of_a_model_reaches_a_terminal() -> None:
    """Neither answers nor reasoning nor notices nor error messages bring one along."""
    evil = "a\x1b[31m\x9b2J\x1b]0;x\x07b"
    script: list[Step] = [
        TextPiece(evil),
        TextPiece(evil, kind="reasoning"),
        Notice(evil),
        BackendError(evil),
    ]
    screen = io.StringIO()
    environment = {"XDG_CONFIG_HOME": "/nowhere", "NO_COLOR": "1"}
    shell = Shell(
        ScriptedSession(script),
        stdout=Terminal(screen=screen),
        stderr=Terminal(screen=screen),
        environment=environment,
    )
    assert shell.run("run", "x") == FAILED
    assert screen.getvalue().count("b\n") == 4
    assert not set(screen.getvalue()) & set("\x1b\x9b\x07")


def test_a_pipe_gets_the_answer_as_the_model_said_it() -> None:
    """What a program reads is not edited."""
    shell = Shell(ScriptedSession([TextPiece("a\x1b[31m\r\n\tb"), DONE_EVENT]))
    shell.run("run", "x")
    assert shell.out == "a\x1b[31m\r\n\tb\n"


def test_notices_go_to_stderr_on_a_line_of_their_own() -> None:
    """They interrupt a line of the answer only where both share a screen."""
    screen = io.StringIO()
    script: list[Step] = [
        TextPiece("half "),
        Notice("drafter dropped"),
        TextPiece("half"),
        DONE_EVENT,
    ]
    shell = Shell(
        ScriptedSession(script), stdout=Terminal(screen=screen), stderr=Terminal(screen=screen)
    )
    shell.run("run", "x", "--seed", "1")
    assert screen.getvalue().startswith("half \nmetasd: drafter dropped\nhalf\n")


def test_warnings_of_the_log_are_messages_shown_once() -> None:
    """Whoever logs them, on a line of their own; llama.cpp's own words stay in the log."""
    screen = io.StringIO()
    script: list[Step] = [
        TextPiece("half "),
        lambda: logging.getLogger("metasd_local.anything").warning("it is %s", "odd"),
        lambda: logging.getLogger("metasd_local.anything").info("fine"),
        lambda: library.logger.warning("special_eos_id is odd"),
        TextPiece("half"),
        DONE_EVENT,
    ]
    shell = Shell(
        ScriptedSession(script), stdout=Terminal(screen=screen), stderr=Terminal(screen=screen)
    )
    for _ in range(2):
        screen.truncate(screen.seek(0))
        shell.run("run", "x", "--seed", "1")
        assert screen.getvalue().startswith("half \nmetasd: it is odd\nhalf\n")
        assert screen.getvalue().count("odd") == 1


def test_json_is_one_object_with_exactly_the_promised_fields() -> None:
    """The stable interface for programs."""
    shell = Shell()
    assert shell.run("run", "hello", "--json", "--seed", "7") == DONE
    document = json.loads(shell.out)
    stats = document.pop("stats")
    assert document == {
        "text": "Hello world",
        "reasoning": "weighing",
        "finish_reason": "stop",
        "pool": "starter",
        "policy": "ucb",
        "seed": 7,
        "scheme": "coupled",
        "sampling": {
            "temperature": 0.8,
            "top_k": 40,
            "top_p": 0.95,
            "min_p": 0.05,
            "repeat_penalty": 1.0,
        },
        "device": "cpu",
        "threads": 2,
    }
    assert stats["emitted"] == 3
    assert stats["arms"]["code"]["accepted"] == 2
    assert shell.err == ""


def test_json_carries_any_character_in_ascii() -> None:
    """No terminal and no encoding can be upset by it."""
    text = "é\x1b[31m\udcff\u202e"
    shell = Shell(ScriptedSession([TextPiece(text), DONE_EVENT]))
    shell.run("run", "x", "--json")
    assert shell.out.isascii()
    assert "\x1b" not in shell.out
    assert json.loads(shell.out)["text"] == text


def test_a_drawn_seed_is_shown_and_reaches_the_session() -> None:
    """The answer can be asked for again."""
    shell = Shell()
    shell.run("run", "hello")
    ((_, seed, _),) = shell.session.sent
    assert shell.err.endswith(f" · seed {seed}\n")


def test_at_temperature_zero_no_seed_is_shown() -> None:
    """It would decide nothing."""
    session = ScriptedSession()
    session.setup = replace(session.setup, sampling=SamplerSettings(temperature=0.0))
    shell = Shell(session)
    shell.run("run", "hello")
    assert "seed" not in shell.err


def test_a_model_that_does_not_load_fails_with_its_message() -> None:
    """Exit status 1 and no traceback."""

    def fail(_: Callable[[float], bool]) -> None:
        raise ModelError("no file there; give another path")

    shell = Shell(on_open=fail)
    assert shell.run("run", "x") == FAILED
    assert shell.err == "metasd: no file there; give another path\n"


def test_a_generation_that_fails_keeps_what_was_said() -> None:
    """The text so far ends its line, the session is closed."""
    shell = Shell(ScriptedSession([TextPiece("so far"), BackendError("llama_decode failed")]))
    assert shell.run("run", "x") == FAILED
    assert shell.out == "so far\n"
    assert shell.err == "metasd: llama_decode failed\n"
    assert shell.pool.is_closed


def test_a_fault_nobody_foresaw_is_one_line() -> None:
    """Exit status 1; the traceback is for the log."""
    shell = Shell(ScriptedSession([TextPiece("so far"), RuntimeError("odd")]))
    assert shell.run("run", "x") == FAILED
    assert shell.err.startswith("metasd: unexpected RuntimeError: odd; ")
    assert shell.err.count("\n") == 1


def test_loading_shows_progress_on_a_terminal_and_erases_it() -> None:
    """One line, gone before the answer begins; a pipe sees none of it."""

    def load(on_progress: Callable[[float], bool]) -> None:
        assert on_progress(0.5)
        assert on_progress(0.501)

    terminal, pipe = Shell(stderr=Terminal(), on_open=load), Shell(on_open=load)
    terminal.run("run", "x", "--seed", "7")
    pipe.run("run", "x", "--seed", "7")
    assert terminal.err.startswith("\rloading  50%\r\x1b[2K")
    assert pipe.err == FIGURES + "\n"


def test_ctrl_c_stops_cleanly_and_a_second_one_is_the_systems() -> None:
    """Exit status 130 with the figures; afterwards Ctrl-C means what it meant before."""
    before = signal.getsignal(signal.SIGINT)
    handlers: list[object] = []

    def look() -> None:
        press_ctrl_c()
        handlers.append(signal.getsignal(signal.SIGINT))

    session = ScriptedSession([*EVENTS[:4], look, *EVENTS[4:]])
    shell = Shell(session)
    assert shell.run("run", "x", "--seed", "7") == INTERRUPTED
    assert shell.out == "Hello \n"
    assert shell.err.startswith("3 tokens (stopped) · ")
    assert session.num_interrupts > 0
    assert shell.pool.is_closed
    assert handlers == [signal.SIG_DFL]
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_while_loading_stops_the_loading() -> None:
    """The progress callback tells llama.cpp to give up; nothing is said."""

    def load(on_progress: Callable[[float], bool]) -> None:
        press_ctrl_c()
        assert not on_progress(0.5)
        raise Cancelled("loading was given up")

    shell = Shell(on_open=load)
    assert shell.run("run", "x") == INTERRUPTED
    assert shell.err == ""


def test_ctrl_c_at_the_end_of_loading_sends_nothing() -> None:
    """A session that opened all the same is closed unused."""
    shell = Shell(on_open=lambda _: press_ctrl_c())
    assert shell.run("run", "x") == INTERRUPTED
    assert shell.session.sent == []
    assert shell.pool.is_closed


def test_an_interrupt_python_raises_itself_is_no_traceback() -> None:
    """Before the handler is in place Ctrl-C is a KeyboardInterrupt."""
    shell = Shell(ScriptedSession([KeyboardInterrupt()]))
    assert shell.run("run", "x") == INTERRUPTED


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    """Such is a process a shell started in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        script: list[Step] = [
            TextPiece("a"),
            lambda: signal.raise_signal(signal.SIGINT),
            DONE_EVENT,
        ]
        assert Shell(ScriptedSession(script)).run("run", "x") == DONE
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_broken_pipe_ends_quietly_and_closes_the_session() -> None:
    """As in `metasd run ... | head -1`."""
    shell = Shell(stdout=BrokenPipe())
    assert shell.run("run", "x") == FAILED
    assert shell.pool.is_closed
    assert shell.err == ""


def test_a_pipe_closed_before_python_exits_is_no_complaint() -> None:
    """Text still buffered at the end meets the closed pipe inside `main`."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "metasd_local", "--help"]
    finished = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, check=False)
    os.close(write_end)
    assert finished.returncode == FAILED
    assert finished.stderr == b""


def test_a_trace_holds_every_event(tmp_path: Path) -> None:
    """Nothing the session reported is missing."""
    path = tmp_path / "t.jsonl"
    assert Shell().run("run", "x", "--trace", str(path)) == DONE
    assert list(read_trace(path)) == list(EVENTS)
