"""Who else uses the terminal: the user's editor, `metasd download`, and the shell."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from textual.app import App, SuspendNotSupported

from metasd_local.errors import MetasdError, UsageError


def edit_outside(app: App[Any], text: str) -> str:
    """Return the text as $VISUAL or $EDITOR (else vi) leaves it; raise MetasdError if it fails."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory(prefix="metasd-") as folder:
        path = Path(folder, "question.md")
        path.write_text(text, encoding="utf-8")
        try:
            status = _run(app, [*shlex.split(editor), str(path)])
            edited = path.read_text(encoding="utf-8", errors="replace")
        except (OSError, ValueError) as error:
            raise MetasdError(f"{editor}: {error}; set $EDITOR to an editor") from error
    if status:
        raise MetasdError(f"{editor} ended with status {status}: nothing is taken")
    return edited.rstrip("\n")


def download_outside(app: App[Any], pool: str, *, offline: bool) -> None:
    """Fetch a pool, with its progress on the bare terminal; raise MetasdError if it fails."""
    words = ["download", pool, *(["--offline"] if offline else [])]
    status = _run(app, [sys.executable, "-m", "metasd_local", *words])
    if status:
        raise MetasdError(f"nothing is opened; to see why, leave and type: metasd download {pool}")


def _run(app: App[Any], command: Sequence[str]) -> int:
    """Lend the terminal to a program and return its exit status. Raises OSError, MetasdError."""
    # Ctrl-C is meant for the program alone, which a handler leaves as it is and SIG_IGN would not.
    previous = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with app.suspend():
            # The chat's own stderr is a log.
            return subprocess.run(command, check=False, stderr=subprocess.STDOUT).returncode
    except SuspendNotSupported as error:
        raise MetasdError("this terminal cannot be lent to another program") from error
    finally:
        signal.signal(signal.SIGINT, previous)


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
    """Do what the shell's Ctrl+Z would, which is typed text here. Raises UsageError."""
    if os.name == "nt":
        raise UsageError("there is no shell here that could let the chat go on")
    os.kill(os.getpid(), signal.SIGTSTP)
