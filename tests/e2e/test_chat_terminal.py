"""The chat as a user meets it: real processes, the embedded models, a real terminal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from metasd_local.trace import TraceWriter
from tests.e2e.terminal import Screen, Terminal
from tests.scripted_session import EVENTS
from tui.store import Store

CHAT = (
    *(sys.executable, "-m", "metasd_local", "chat", "--threads=1", "--seed=1"),
    "--drafters=general,ngram",
)
QUESTION = "User: I want to find a restaurant in San Jose."
# Long answers: nothing is likely enough to be the end.
RAMBLING = ("--temperature=1.5", "--top-k=0", "--top-p=1", "--min-p=0")
# A part of an answer with an arm's sign: what follows on the line is the panel's.
MARK = re.compile(r"^[^│\n]*[¹²]\w[^│\n]*│", re.MULTILINE)
F2, F4, ESCAPE, LEAVE, PALETTE = "\x1bOQ", "\x1bOS", "\x1b", "\x11", "\x10"


def home(folder: Path) -> Mapping[str, str]:
    return {f"XDG_{name}_HOME": str(folder / name.lower()) for name in ("DATA", "STATE", "CONFIG")}


def store(folder: Path) -> Store:
    return Store(folder / "data" / "metasd" / "chats.db")


def is_ready(screen: Screen) -> bool:
    return "demo models" in screen.text and "loading" not in screen.text


def is_answering(screen: Screen) -> bool:
    return "last rounds" in screen.text and "now" in screen.text


def figures(screen: Screen) -> str:
    """Return the panel's line with the speed."""
    return next((row for row in screen.rows if "tok/s now" in row), "")


def has_ended(process: int) -> bool:
    """Tell whether a process is gone or waits only to be buried."""
    command = ("ps", "-o", "stat=", "-p", str(process))
    state = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return not state or state.startswith("Z")


def assert_usable(terminal: Terminal) -> None:
    """Check that nothing is left of what the chat switched on."""
    assert terminal.modes == terminal.modes_before
    assert terminal.screen.modes <= {"25", "7"}
    assert "25" in terminal.screen.modes
    assert terminal.screen.key_modes == {False: 0, True: 0}


def test_a_visit_and_another_one(tmp_path: Path) -> None:
    """Ask, see the drafters at work, stop, leave; come back and find it all."""
    with Terminal(*CHAT, *RAMBLING, "--policy=ucb", environment=home(tmp_path)) as terminal:
        terminal.until(is_ready)
        terminal.type(F2)
        terminal.type(f"{QUESTION}\r")
        screen = terminal.until(is_answering)
        before = figures(screen)
        terminal.until(
            lambda screen: figures(screen) not in ("", before) and MARK.search(screen.text)
        )
        marked = MARK.findall(screen.text)
        assert any("underline" in style and len(style) > 1 for style in screen.styles(marked[0]))
        terminal.type(ESCAPE)
        terminal.until(lambda screen: "(stopped)" in screen.text)
        terminal.type(LEAVE)
        assert terminal.wait() == 0
        assert_usable(terminal)
    with Terminal(*CHAT, environment=home(tmp_path)) as terminal:
        terminal.until(lambda screen: "Ask something" in screen.text)
        terminal.type(F4)
        terminal.until(lambda screen: QUESTION in screen.text)
        terminal.type("\r")
        terminal.until(lambda screen: "(stopped)" in screen.text)
        terminal.type(LEAVE)
        assert terminal.wait() == 0


def test_a_terminal_is_usable_after_the_chat_died(tmp_path: Path) -> None:
    with Terminal(*CHAT, *RAMBLING, environment=home(tmp_path)) as terminal:
        terminal.until(is_ready)
        terminal.type(f"{QUESTION}\r")
        terminal.until(is_answering)
        [child] = terminal.children
        os.kill(child, signal.SIGSEGV)
        assert terminal.wait() == 1
        assert_usable(terminal)
        assert "(signal 11)" in terminal.screen.said
        assert "What was said is saved" in terminal.screen.said
    found = store(tmp_path)
    assert [entry.title for entry in found.entries()] == [QUESTION]
    found.close()


ABORTING = """
import dataclasses, sys
from metasd_local.backend.library import open_library
from metasd_local.cli import main
from metasd_local.cli.surroundings import process_surroundings
from tui.start import chat
from llama_cpp import llama_cpp

def open_pool(*arguments, **keywords):
    open_library()._receive(3, b"the device has 1 MiB left\\n", None)
    llama_cpp._lib.ggml_abort(b"ggml.c", 7, b"not enough memory for %d tensors", 3)

around = dataclasses.replace(process_surroundings(chat), open_pool=open_pool)
sys.exit(main(["chat"], around))
"""


def test_what_llama_cpp_said_last_is_named(tmp_path: Path) -> None:
    """Its own abort, with what it logged before."""
    with Terminal(sys.executable, "-c", ABORTING, environment=home(tmp_path)) as terminal:
        assert terminal.wait() == 1
        assert_usable(terminal)
        said = " ".join(terminal.screen.said.split())
        assert "(signal 6); llama.cpp's last message: the device has 1 MiB left | " in said
        assert "ggml.c:7: not enough memory for 3 tensors" in said
        assert "Traceback" not in said


CRASHING = """
import dataclasses, sys
from metasd_local.cli import main
from metasd_local.cli.surroundings import process_surroundings
from tui.start import chat

def hint(*_):
    from textual.constants import ESCAPE_DELAY
    raise RuntimeError(f"Esc waits {ESCAPE_DELAY} s")

def open_pool(*arguments, **keywords):
    sys.modules["tui.board"].Board.hint = hint
    return around.open_pool(*arguments, **keywords)

around = process_surroundings(chat)
sys.exit(main(["chat"], dataclasses.replace(around, open_pool=open_pool)))
"""


def test_a_mistake_of_ours_is_said_with_where_it_happened(tmp_path: Path) -> None:
    """And Esc, which begins the codes of other keys, does not wait for them long."""
    with Terminal(sys.executable, "-c", CRASHING, environment=home(tmp_path)) as terminal:
        terminal.until(is_ready)
        terminal.type("x")
        assert terminal.wait() == 1
        assert_usable(terminal)
        said = " ".join(terminal.screen.said.split())
        assert "unexpected RuntimeError: Esc waits 0.04 s; what was said is saved" in said
        assert "Traceback" not in said
    written = (tmp_path / "state" / "metasd" / "crash.log").read_text(encoding="utf-8")
    assert "in hint" in written


def test_leaving_without_models_says_why_and_fails(tmp_path: Path) -> None:
    with Terminal(*CHAT, "--drafters=nope", environment=home(tmp_path)) as terminal:
        terminal.until(lambda screen: "/set drafters: found 'nope'" in screen.text)
        terminal.type(LEAVE)
        assert terminal.wait() == 2
        assert "metasd: --drafters: found 'nope'" in terminal.screen.said


def test_a_trace_is_shown_on_the_same_screen(tmp_path: Path) -> None:
    """Without a model; a broken one is refused with file and line before the screen changes."""
    path = tmp_path / "trace.jsonl"
    with TraceWriter(path) as trace:
        for event in EVENTS:
            trace.write(event)
    with Terminal(*CHAT, f"--replay={path}", environment=home(tmp_path)) as terminal:
        terminal.until(lambda screen: "Hello world" in screen.text and "40% acc." in screen.text)
        terminal.type(LEAVE)
        assert terminal.wait() == 0
    assert not (tmp_path / "data").exists()
    path.write_text(f"{path.read_text(encoding='utf-8')}nonsense\n", encoding="utf-8")
    with Terminal(*CHAT, f"--replay={path}", environment=home(tmp_path)) as terminal:
        assert terminal.wait() == 1
        assert f"{path.name}, line {len(EVENTS) + 1}: " in terminal.screen.said
        assert "1049" not in terminal.screen.modes


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_what_ends_the_parent_ends_the_chat(tmp_path: Path, number: signal.Signals) -> None:
    """Also a death that nothing is told of, and where a hangup is ignored, as under nohup."""
    ignoring = ("sh", "-c", 'trap \'\' HUP; exec "$0" "$@"') if number == signal.SIGKILL else ()
    with Terminal(*ignoring, *CHAT, environment=home(tmp_path)) as terminal:
        terminal.until(lambda screen: "Ask something" in screen.text)
        [child] = terminal.children
        terminal.process.send_signal(number)
        assert terminal.wait() == -number
        if number != signal.SIGKILL:
            assert_usable(terminal)
        terminal.until(lambda _: has_ended(child))


@pytest.mark.full
def test_a_ctrl_c_to_both_processes_leaves(tmp_path: Path) -> None:
    """As a terminal sends it while the screen is not there yet."""
    with Terminal(*CHAT, environment=home(tmp_path)) as terminal:
        terminal.until(lambda screen: "Ask something" in screen.text)
        os.killpg(terminal.process.pid, signal.SIGINT)
        assert terminal.wait() == 130
        assert_usable(terminal)
        assert terminal.screen.said.strip() == ""


@pytest.mark.full
def test_a_shell_can_stop_the_chat_and_go_on(tmp_path: Path) -> None:
    """Both processes stop, the terminal is the shell's meanwhile, and `fg` draws the chat anew."""
    environment = {**home(tmp_path), "PS1": "ready> ", "ENV": ""}

    def has_prompts(number: int, screen: Screen) -> bool:
        return screen.said.count("ready>") == number

    with Terminal("sh", "-i", environment=environment) as terminal:
        terminal.until(partial(has_prompts, 1))
        terminal.type(" ".join(CHAT) + "\r")
        terminal.until(is_ready)
        [parent] = terminal.children
        for number in (2, 3):
            if number == 2:
                os.killpg(parent, signal.SIGTSTP)
            else:  # from within, as Ctrl+Z is typed text there
                terminal.type(PALETTE)
                terminal.until(lambda screen: "Search" in screen.text)
                terminal.type("suspend")
                terminal.until(lambda screen: "where `fg` goes on" in screen.text)
                terminal.type("\r")
            terminal.until(partial(has_prompts, number))
            assert "1049" not in terminal.screen.modes
            terminal.type("fg\r")
            terminal.until(is_ready)
        terminal.type(LEAVE)
        terminal.until(partial(has_prompts, 4))
        terminal.type("echo left with $?; exit\r")
        assert terminal.wait() == 0
        assert "left with 0" in terminal.screen.said


@pytest.mark.full
def test_lines_on_a_terminal_stop_and_leave_by_ctrl_c(tmp_path: Path) -> None:
    lines = (*CHAT, *RAMBLING, "--lines")
    with Terminal(*lines, environment=home(tmp_path)) as terminal:
        terminal.until(lambda screen: "> " in screen.said)
        terminal.until(
            lambda screen: "once more" in screen.said and screen.said.endswith("> "),
            pressing="\x03",
        )
        terminal.type(f"{QUESTION}\r")
        terminal.until(lambda screen: len(screen.said.partition(QUESTION)[2]) > 40)
        terminal.type("\x03")
        terminal.until(lambda screen: "(stopped)" in screen.said and screen.said.endswith("> "))
        assert terminal.wait(pressing="\x03") == 130
        assert "Traceback" not in terminal.screen.said
        assert_usable(terminal)
    found = store(tmp_path)
    assert [entry.title for entry in found.entries()] == [QUESTION]
    found.close()
