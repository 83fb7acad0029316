"""A small parent for the chat, which gives the terminal back whatever the chat dies of.

llama.cpp can abort the process, and a device can run out of memory; neither lets Python clean up.
The chat runs in a forked child: the parent has loaded nothing heavy, only waits, passes signals
on, and stops when the child stops, so that the two look like one process to the shell.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from threading import Thread
from types import FrameType

from metasd_local.cli.surroundings import FAILED, INTERRUPTED, Surroundings

# Sources: XTerm Control Sequences (ctlseqs); kitty's keyboard protocol, whose modes belong to the
# screen they were set on; Textual 8.2.8, linux_driver.py, for what it switches on.
RESET = (
    "\x1b\\"  # ends a string that was being sent
    "\x1b[?2026l"  # synchronized output
    "\x1b[<u"  # kitty's keys, before its screen is left
    "\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1015l\x1b[?1016l"  # mouse
    "\x1b[?2004l\x1b[?1004l\x1b[?2048l\x1b[?7h"  # paste, focus, sizes, line wrap
    "\x1b[?1049l\x1b[?25h\x1b[0m\r"  # alternate screen, cursor, colours
)
MOST_LOG_BYTES = 2000
MOST_LOG_LINES = 4


def guarded(work: Callable[[], int], around: Surroundings) -> int:
    """Run `work`, which may take over the terminal of stdout, and return the exit status.

    A child that dies by a signal is reported with the last lines of its log: what C libraries
    write to stderr, and warnings of the package's own.
    """
    if os.name == "nt":  # Windows has neither fork nor modes that outlive a program
        return work()
    import termios

    terminal = around.stdout.fileno()
    modes = termios.tcgetattr(terminal)
    log = _open_log()
    leash, hand = os.pipe()
    passed = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    # A terminal sends these to both.
    left = (signal.SIGINT, signal.SIGTSTP)
    signal.pthread_sigmask(signal.SIG_BLOCK, (*passed, *left))
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*passed, *left))
        os.close(hand)
        Thread(target=_follow, args=(leash,), daemon=True).start()
        return _run_logged(work, log)
    os.close(leash)

    def pass_on(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in (*passed, *left):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, pass_on if number in passed else signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*passed, *left))
    status = _wait(child)
    with contextlib.suppress(OSError, termios.error):
        is_left = os.WIFSIGNALED(status) or termios.tcgetattr(terminal) != modes
        if is_left and _may_touch(terminal):
            os.write(terminal, RESET.encode())
            termios.tcsetattr(terminal, termios.TCSAFLUSH, modes)
    if not os.WIFSIGNALED(status):
        return os.WEXITSTATUS(status)
    cause = os.WTERMSIG(status)
    if cause == signal.SIGINT:
        return INTERRUPTED
    _report(cause, "" if cause in passed else _last_lines(log), around)
    if cause in passed:
        signal.signal(cause, signal.SIG_DFL)
        os.kill(os.getpid(), cause)
    return FAILED


def _open_log() -> int:
    """Return a file without a name, which only this process and its child can see."""
    try:
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
    except OSError:
        return os.open(os.devnull, os.O_RDWR)


def _run_logged(work: Callable[[], int], log: int) -> int:
    """Run `work` with the log for its stderr."""
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        # Python's own handler would wait for the event loop, and the loop for the models.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Else it starts a debugger, which takes seconds and writes pages.
    os.environ["GGML_NO_BACKTRACE"] = "1"
    stderr, screen = os.dup(2), sys.__stderr__
    os.dup2(log, 2)
    with open(log, "w", encoding="utf-8", errors="replace", buffering=1) as stream:
        handler = logging.StreamHandler(stream)
        handler.setLevel(logging.WARNING)
        logging.getLogger("metasd_local.backend").addHandler(handler)
        # Textual draws on the original stderr.
        sys.__stderr__ = sys.__stdout__  # type: ignore[misc]
        try:
            return work()
        finally:
            sys.__stderr__ = screen  # type: ignore[misc]
            logging.getLogger("metasd_local.backend").removeHandler(handler)
            os.dup2(stderr, 2)


def _follow(leash: int) -> None:
    """End this process when its parent has ended, as nothing would be left to type into it."""
    os.read(leash, 1)
    os.kill(os.getpid(), signal.SIGKILL)  # all others may be ignored, as under nohup


def _wait(child: int) -> int:
    """Return the child's end; stop and go on as it does."""
    while True:
        found, status = os.waitpid(child, os.WUNTRACED)
        while found and os.WIFSTOPPED(status):
            os.kill(os.getpid(), signal.SIGSTOP)
            found, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            if not found:  # else the shell let the whole group go on; twice confuses the screen
                os.kill(child, signal.SIGCONT)
        if found and not os.WIFCONTINUED(status):
            return status


def _may_touch(terminal: int) -> bool:
    """Tell whether this process would not be stopped for that: it is in the foreground."""
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:  # it controls nobody
        return True


def _last_lines(log: int) -> str:
    """Return the end of the log on one line."""
    size = os.lseek(log, 0, os.SEEK_END)
    tail = os.pread(log, MOST_LOG_BYTES, max(0, size - MOST_LOG_BYTES)).decode("utf-8", "replace")
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    return " | ".join(lines[-MOST_LOG_LINES:])


def _report(number: int, said: str, around: Surroundings) -> None:
    cause = f"the chat died: {signal.strsignal(number)} (signal {number})"
    if number == signal.SIGKILL:
        cause += ", perhaps because memory ran out"
    if said:
        cause += f"; llama.cpp's last message: {said}"
    with contextlib.suppress(OSError):
        around.output.message(
            f"{cause}\nWhat was said is saved; to go on, start metasd again and type /chats."
        )
