"""`metasd` in a pseudo-terminal, and what a terminal would show of it."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping
from typing import Any

from rich.cells import cell_len

WAIT_S = 0.05
WAITS_UNTIL_PRESSED_AGAIN = 40
MOST_WAITS = 1200
"""Not seconds of a clock, which goes on when a test is stopped together with what it tests."""
ROWS, COLUMNS = 40, 140
# What the tests were told to ignore, by nohup for instance, is no business of the program's.
CONTROLLING = (
    "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "[signal.signal(number, signal.SIG_DFL) for number in (1, 2, 3)]; "
    "os.execvp(sys.argv[1], sys.argv[1:])"
)
SEQUENCE = re.compile(
    r"\x1b\[(?P<mark>[<>?=]?)(?P<numbers>[\d;:]*)[ -/]*(?P<final>[@-~])"  # CSI
    r"|\x1b[P\]X^_].*?(?:\x07|\x1b\\)"  # strings
    r"|\x1b[ -/]*[0-~]"
    r"|(?P<text>[^\x1b])",
    re.DOTALL,
)
UNFINISHED = re.compile(r"\x1b(\[[<>?=\d;:]*|[P\]X^_][^\x07]*)?\Z", re.DOTALL)


class Screen:
    """The part of a terminal that Textual uses: places, styles, modes, the other screen."""

    def __init__(self) -> None:
        self.modes = {"25"}
        """Private modes that are on: 25 shows the cursor, 1049 is the other screen."""
        self.key_modes = {False: 0, True: 0}
        """How often kitty's keys were asked for, on the main and on the other screen."""
        self.said = ""
        """All text outside the other screen."""
        self._characters: list[list[str]] = []
        self._styles: dict[tuple[int, int], frozenset[str]] = {}
        self._clear()
        self._style: frozenset[str] = frozenset()
        self._row = self._column = 0
        self._rest = ""

    def feed(self, text: str) -> None:
        """Obey what a program wrote."""
        text = self._rest + text
        unfinished = UNFINISHED.search(text)
        end = unfinished.start() if unfinished else len(text)
        text, self._rest = text[:end], text[end:]
        for found in SEQUENCE.finditer(text):
            if found["text"]:
                self._show(found["text"])
            elif found["final"]:
                self._control(found["mark"], found["numbers"], found["final"])

    @property
    def rows(self) -> list[str]:
        """What is to be seen, line by line."""
        return ["".join(row).rstrip() for row in self._characters]

    @property
    def text(self) -> str:
        """What is to be seen."""
        return "\n".join(self.rows)

    def styles(self, text: str) -> list[frozenset[str]]:
        """Return the styles of the first line that holds `text`, place by place."""
        row = next(index for index, line in enumerate(self.rows) if text in line)
        return [self._styles.get((row, column), frozenset()) for column in range(COLUMNS)]

    def _clear(self) -> None:
        self._characters = [[" "] * COLUMNS for _ in range(ROWS)]

    def _show(self, character: str) -> None:
        if "1049" not in self.modes:
            self.said += character
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._row += 1
        elif character >= " ":
            for shown in (character, *[""] * (cell_len(character) - 1)):
                if self._row < ROWS and self._column < COLUMNS:
                    self._characters[self._row][self._column] = shown
                    self._styles[self._row, self._column] = self._style
                self._column += 1

    def _control(self, mark: str, numbers: str, final: str) -> None:
        parts = numbers.split(";")
        if mark == "?" and final in "hl":
            for mode in parts:
                (self.modes.add if final == "h" else self.modes.discard)(mode)
                if mode == "1049":
                    self._clear()
        elif final == "u" and mark in "<>":
            screen = "1049" in self.modes
            self.key_modes[screen] = max(0, self.key_modes[screen] + (1 if mark == ">" else -1))
        elif final == "H":
            row, column = (int(part or 1) for part in (*parts, "1")[:2])
            self._row, self._column = row - 1, column - 1
        elif final == "J":
            self._clear()
        elif final == "m":
            # Textual gives a style whole, and resets after it.
            named = {"1": "bold", "4": "underline"}
            colour = re.search(r"38;(2;\d+;\d+;\d+|5;\d+)", numbers)
            rest = re.sub(r"[34]8;(2;\d+;\d+;\d+|5;\d+)", "", numbers).split(";")
            style = {named[part] for part in rest if part in named}
            self._style = frozenset(style | ({colour[0]} if colour else set()))


class Terminal:
    """A program in the foreground of a terminal of its own."""

    def __init__(self, *command: str, environment: Mapping[str, str] | None = None) -> None:
        self.screen = Screen()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._primary, self._secondary = pty.openpty()
        fcntl.ioctl(self._primary, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.modes_before = termios.tcgetattr(self._secondary)
        self.process = subprocess.Popen(
            [sys.executable, "-c", CONTROLLING, *command],
            stdin=self._secondary,
            stdout=self._secondary,
            stderr=self._secondary,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
            | dict(environment or {}),
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        for process in _processes():
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(process) == self.process.pid:
                    os.kill(process, signal.SIGKILL)
        self.process.wait()
        os.close(self._primary)
        os.close(self._secondary)

    @property
    def children(self) -> list[int]:
        """The processes that the program has started and that still run."""
        return _processes("--ppid", str(self.process.pid))

    @property
    def modes(self) -> list[Any]:
        """What the kernel does with what is typed."""
        return termios.tcgetattr(self._secondary)

    def until(self, is_so: Callable[[Screen], object], pressing: str = "") -> Screen:
        """Read until something is to be seen; pressing: as in `wait`."""
        num_waits = 0
        self.type(pressing)
        while not is_so(self.screen):
            if not self._read(WAIT_S):
                num_waits += 1
                assert num_waits < MOST_WAITS, self.screen.text or self.screen.said
                if num_waits % WAITS_UNTIL_PRESSED_AGAIN == 0:
                    self.type(pressing)
        return self.screen

    def let_pass(self, is_over: Callable[[], bool]) -> None:
        """Look at nothing until it is over, as looking takes time from the program; then at all."""
        passed: list[bytes] = []
        while not is_over():
            if select.select([self._primary], [], [], WAIT_S)[0]:
                passed.append(os.read(self._primary, 65536))
        self.screen.feed(self._decoder.decode(b"".join(passed)))

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._primary, text.encode())

    def wait(self, pressing: str = "") -> int:
        """Read until the program has ended, and return its exit status.

        pressing: what is typed, again whenever nothing happens: Python does not notice a Ctrl-C
        that comes between writing a prompt and waiting for what is typed there.
        """
        num_waits = 0
        self.type(pressing)
        while self.process.poll() is None:
            if not self._read(WAIT_S):
                num_waits += 1
                assert num_waits < MOST_WAITS, self.screen.text
                if num_waits % WAITS_UNTIL_PRESSED_AGAIN == 0:
                    self.type(pressing)
        while self._read(0):
            pass
        return self.process.returncode

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self._primary], [], [], timeout_s)[0]:
            return False
        self.screen.feed(self._decoder.decode(os.read(self._primary, 65536)))
        return True


def _processes(*which: str) -> list[int]:
    """Return the numbers of processes, by default of all."""
    command = ("ps", "-o", "pid=", *(which or ("-A",)))
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    return [int(line) for line in listed.stdout.split()]
