"""The real command on real models: in a process of its own, or faster in this one."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
from pathlib import Path
from subprocess import CompletedProcess

from metasd_local.cli import main
from metasd_local.cli.surroundings import process_surroundings
from tui.start import chat


def metasd(*arguments: str, cwd: Path | None = None) -> CompletedProcess[str]:
    """Run a process."""
    command = [sys.executable, "-m", "metasd_local", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, stdin=subprocess.DEVNULL
    )


def metasd_here(*arguments: str) -> CompletedProcess[str]:
    """Run what the process would run, without its start of half a second."""
    stdout, stderr = io.StringIO(), io.StringIO()
    around = dataclasses.replace(
        process_surroundings(chat), stdin=io.StringIO(), stdout=stdout, stderr=stderr
    )
    status = main(arguments, around)
    return CompletedProcess(arguments, status, stdout.getvalue(), stderr.getvalue())
