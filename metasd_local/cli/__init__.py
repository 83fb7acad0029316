"""The command line: reads arguments and streams, prints, and decides nothing else.

The only package that prints. Results go to stdout, everything else to stderr; exit status 0 done,
1 failed, 2 wrong usage, 130 interrupted. What a model or a file says reaches a terminal only
through `printable`; a pipe gets the answer as it is, characters without an encoding replaced.
Whatever is slow to import is imported by the command that needs it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TextIO

from metasd_local.arguments import parse_arguments
from metasd_local.cli.output import Output
from metasd_local.cli.surroundings import (
    DONE,
    FAILED,
    INTERRUPTED,
    WRONG_USAGE,
    Surroundings,
)
from metasd_local.config import config_path, load_options
from metasd_local.errors import Cancelled, MetasdError, UsageError
from metasd_local.selection import FOR_STUDY, FOR_USE, POLICIES


def main(arguments: Sequence[str], around: Surroundings) -> int:
    """Run one command and return the exit status."""
    try:
        status = _run_command(arguments, around)
        # Here a reader that is gone can still be handled, at Python's exit no more.
        around.stdout.flush()
        return status
    except BrokenPipeError:
        _silence(around.stdout)
        return FAILED
    except (KeyboardInterrupt, Cancelled):
        return INTERRUPTED
    except MetasdError as error:
        Output(around, streams=False).message(str(error))
        return WRONG_USAGE if isinstance(error, UsageError) else FAILED


def _run_command(arguments: Sequence[str], around: Surroundings) -> int:
    request = parse_arguments(arguments)
    if request.text is not None:
        around.stdout.write(request.text)
        return DONE
    environment = around.environment
    options = load_options(request.values, environment, config_path(environment))
    if options.policy == "help" or options.policies == ("help",):
        _list_policies(around.stdout)
        return DONE
    command = request.command
    if command == "run" and _names_a_pool_only(request.words, around):
        command = "chat"
    match command:
        case "chat":
            return around.chat(options, request.words, around)
        case "run":
            from metasd_local.cli.run import run

            return run(options, request.words, around)
        case "bench":
            from metasd_local.cli.bench import bench

            return bench(options, request.words, request.values, around)
        case "verify":
            from metasd_local.cli.verify import verify

            return verify(options, request.words, around)
        case "doctor":
            from metasd_local.cli.doctor import doctor

            return doctor(options, request.words, around)
        case "download":
            from metasd_local.cli.download import download_models

            return download_models(options, request.words, around)
        case "ls":
            from metasd_local.cli.models import ls

            return ls(options, request.words, around)
        case "show":
            from metasd_local.cli.models import show

            return show(options, request.words, around)
        case "add":
            from metasd_local.cli.own import add

            return add(options, request.words, around)
        case "rm":
            from metasd_local.cli.own import rm

            return rm(options, request.words, around)
        case "lab simulate":
            from metasd_local.cli.lab import run_simulation

            return run_simulation(options, request.words, around)
        case "lab emulate":
            from metasd_local.cli.lab import run_emulation

            return run_emulation(options, request.words, request.values, around)
        case "lab make-pair":
            from metasd_local.cli.lab import write_pair

            return write_pair(options, request.words, around)
    raise AssertionError(command)


def _names_a_pool_only(words: Sequence[str], around: Surroundings) -> bool:
    """Tell whether `metasd run POOL` was typed on a terminal, which is to talk to that pool."""
    streams = (around.stdin, around.stdout)
    is_terminal = all(stream is not None and stream.isatty() for stream in streams)
    return is_terminal and len(words) == 1 and around.names_pool(words[0])


def _list_policies(stdout: TextIO) -> None:
    width = max(len(policy.name) for policy in POLICIES)
    for title, policies in (("for use", FOR_USE), ("for study", FOR_STUDY)):
        stdout.write(f"{title}:\n")
        stdout.writelines(f"  {each.name:{width}}  {each.summary}\n" for each in policies)


def _silence(stream: TextIO) -> None:
    """Let Python's flush at exit go nowhere; without this it complains of the broken pipe."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError):
        return
