"""Stopping and going on when the shell says so."""

from __future__ import annotations

import asyncio
import os
import signal
from functools import partial
from typing import Any

from textual.app import App


def obey_shell(app: App[Any]) -> None:
    """Give the terminal back before the process is stopped, and draw all anew when it goes on.

    Textual 8.2.8 does so in the signal handlers themselves, where the lock it waits for may be
    held by the very code they interrupted, and takes the terminal twice after a mere SIGSTOP.
    """
    if os.name == "nt":
        return
    loop = asyncio.get_running_loop()

    def stop() -> None:
        with app.suspend():
            os.kill(os.getpid(), signal.SIGSTOP)

    loop.add_signal_handler(signal.SIGTSTP, stop)
    loop.add_signal_handler(signal.SIGCONT, partial(app.refresh, layout=True))


def suspend() -> None:
    """Do what the shell's Ctrl+Z would, which is typed text here."""
    os.kill(os.getpid(), signal.SIGTSTP)
