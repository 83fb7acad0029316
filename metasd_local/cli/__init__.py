"""The command line: reads arguments and streams, prints, and decides nothing else.

The only package that prints. Results go to stdout, everything else to stderr; exit status 0 done,
1 failed, 2 wrong usage, 130 interrupted. What a model or a file says reaches a terminal only
through `printable`; a pipe gets the answer as it is, characters without an encoding replaced.
Whatever is slow to import is imported by the command that needs it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TextIO

from metasd_local.arguments import COMMANDS, Request, parse_arguments
from metasd_local.cli.output import Output
from metasd_local.cli.surroundings import DONE, FAILED, INTERRUPTED, WRONG_USAGE, Surroundings
from metasd_local.config import config_path, load_options
from metasd_local.errors import Cancelled, MetasdError, UsageError

logger = logging.getLogger(__name__)

LLAMA_LOGGER = "metasd_local.backend.library"
"""What llama.cpp says; of that a user sees what an error quotes."""


def main(arguments: Sequence[str], around: Surroundings) -> int:
    """Run one command and return the exit status."""
    try:
        with _tidy(around.output):
            status = _run_command(arguments, around)
        # Here a reader that is gone can still be handled, at Python's exit no more.
        around.stdout.flush()
        return status
    except OSError as error:
        _silence(around.stdout)
        if not isinstance(error, BrokenPipeError):  # a reader that is gone wants no more
            around.output.message(f"stopped: {error.strerror or error}")
        return FAILED
    except (KeyboardInterrupt, Cancelled):
        return INTERRUPTED
    except MetasdError as error:
        around.output.message(str(error))
        return WRONG_USAGE if isinstance(error, UsageError) else FAILED
    except Exception as error:
        logger.debug("unexpected", exc_info=True)
        what = f"unexpected {type(error).__name__}: {error}"
        around.output.message(f"{what}; this is a fault of metasd: report it with what you typed")
        return FAILED


def _run_command(arguments: Sequence[str], around: Surroundings) -> int:
    request = parse_arguments(arguments)
    if request.text is not None:
        around.stdout.write(request.text)
        return DONE
    options = load_options(request.typed, around.environment, config_path(around.environment))
    runs = COMMANDS[request.command].runs
    if not runs or _is_to_talk(request, around):
        return around.chat(options, request.words, around)
    module, _, function = runs.partition(":")
    run = getattr(import_module(f"{__name__}.{module}"), function)
    return int(run(options, request, around))


def _is_to_talk(request: Request, around: Surroundings) -> bool:
    """Tell whether `metasd run POOL` was typed on a terminal."""
    if request.command != "run" or len(request.words) != 1:
        return False
    streams = (around.stdin, around.stdout)
    is_terminal = all(stream is not None and stream.isatty() for stream in streams)
    return is_terminal and around.names_pool(request.words[0])


@contextmanager
def _tidy(output: Output) -> Iterator[None]:
    """Show what the package warns of on lines of their own, and leave no line open."""

    class Messages(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            output.message(record.getMessage())

    log, messages = logging.getLogger("metasd_local"), Messages(logging.WARNING)
    messages.addFilter(lambda record: record.name != LLAMA_LOGGER)
    log.addHandler(messages)
    try:
        yield
    finally:
        log.removeHandler(messages)
        output.end()


def _silence(stream: TextIO) -> None:
    """Let Python's flush at exit go nowhere; without this it complains of the broken pipe."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError):
        return
