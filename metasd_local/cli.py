"""The command line: reads arguments and streams, prints, and decides nothing else.

The only file that prints. Results go to stdout, everything else to stderr; exit status 0 done,
1 failed, 2 wrong usage, 130 interrupted. What a model or a file says reaches a terminal only
through `printable`; a pipe gets the answer as it is, characters without an encoding replaced.
Whatever is slow to import is imported by the command that needs it.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from metasd_local.arguments import parse_arguments
from metasd_local.config import MAX_RUN_TOKENS, Options, config_path, load_options
from metasd_local.errors import MetasdError, UsageError
from metasd_local.events import Event, Notice, PromptRead, TextPiece
from metasd_local.stats import Snapshot, Stats, summary_line
from metasd_local.trace import TraceWriter

if TYPE_CHECKING:
    from metasd_local.session import Session, Setup

DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130
# A drawn seed is short enough to be typed again.
NUM_DRAWN_SEEDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the process finds around it: streams, environment, and the way to a session."""

    stdin: TextIO | None
    stdout: TextIO
    stderr: TextIO
    environment: Mapping[str, str]
    open_session: Callable[..., Session]
    """`compose.open_session`."""
    names_pool: Callable[[str], bool]
    """`compose.names_pool`."""


def main(arguments: Sequence[str] | None = None, around: Surroundings | None = None) -> int:
    """Run one command and return the exit status."""
    around = around or _process_surroundings()
    try:
        status = _run_command(sys.argv[1:] if arguments is None else arguments, around)
        # Here a reader that is gone can still be handled, at Python's exit no more.
        around.stdout.flush()
        return status
    except BrokenPipeError:
        _silence(around.stdout)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except MetasdError as error:
        _Output(around, streams=False).message(str(error))
        return WRONG_USAGE if isinstance(error, UsageError) else FAILED


def _process_surroundings() -> Surroundings:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            encoding = None if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="replace")

    def open_session(*arguments: Any, **keywords: Any) -> Session:
        from metasd_local.compose import open_session

        return open_session(*arguments, **keywords)

    def names_pool(text: str) -> bool:
        from metasd_local.compose import names_pool

        return names_pool(text)

    return Surroundings(sys.stdin, sys.stdout, sys.stderr, os.environ, open_session, names_pool)


def _silence(stream: TextIO) -> None:
    """Let Python's flush at exit go nowhere; without this it complains of the broken pipe."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError):
        return


def _run_command(arguments: Sequence[str], around: Surroundings) -> int:
    request = parse_arguments(arguments)
    if request.text is not None:
        around.stdout.write(request.text)
        return DONE
    environment = around.environment
    options = load_options(request.values, environment, config_path(environment))
    if options.policy == "help":
        _list_policies(around.stdout)
        return DONE
    return _run(options, request.words, around)


def _list_policies(stdout: TextIO) -> None:
    from metasd_local.selection import POLICIES

    width = max(len(policy.name) for policy in POLICIES)
    for policy in POLICIES:
        stdout.write(f"{policy.name:{width}}  {policy.summary}\n")


def _run(options: Options, words: Sequence[str], around: Surroundings) -> int:
    pool, prompt = _read_prompt(words, around)
    is_drawn = options.seed is None
    seed = secrets.randbelow(NUM_DRAWN_SEEDS) if options.seed is None else options.seed
    output = _Output(around, streams=not options.json)
    stats = Stats()
    with ExitStack() as stack:
        trace = stack.enter_context(TraceWriter(Path(options.trace))) if options.trace else None
        interrupts = stack.enter_context(_Interrupts())

        def on_progress(share: float) -> bool:
            output.progress(share)
            return not interrupts.has_happened

        stack.callback(output.end)
        try:
            session = around.open_session(options, pool, on_progress=on_progress)
        except MetasdError:
            if interrupts.has_happened:
                return INTERRUPTED
            raise
        stack.callback(session.close)
        interrupts.stop = session.interrupt
        if interrupts.has_happened:
            return INTERRUPTED
        events = session.send(prompt, seed=seed, max_tokens=options.max_tokens or MAX_RUN_TOKENS)
        for event in events:
            if interrupts.has_happened:
                # `send` forgets what was asked before it started.
                session.interrupt()
            if isinstance(event, PromptRead):
                stats.begin(session.prompt_tokens)
            stats.observe(event)
            output.show(event)
            if trace is not None:
                trace.write(event)
        output.end()
        if options.json:
            document = _result(output, session.setup, seed, stats.snapshot)
            around.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
            around.stdout.flush()
        else:
            shows_seed = is_drawn and session.setup.sampling.temperature > 0
            output.line(summary_line(stats.snapshot, seed if shows_seed else None))
    return INTERRUPTED if stats.snapshot.finish_reason == "cancelled" else DONE


def _read_prompt(words: Sequence[str], around: Surroundings) -> tuple[str | None, str]:
    """Return the pool, if one was named, and the prompt with what came through a pipe."""
    if len(words) > 2:
        raise UsageError(
            f"found {len(words)} words, expected [POOL] PROMPT; put the prompt in quotes"
        )
    stdin = around.stdin
    is_piped = stdin is not None and not stdin.closed and not stdin.isatty()
    prompt = words[-1] if words else ""
    piped = _read_text(stdin) if stdin is not None and (is_piped or prompt == "-") else ""
    if prompt == "-":
        prompt = ""
    pool = words[0] if len(words) == 2 else None
    if len(words) == 1 and prompt and around.names_pool(prompt):
        pool, prompt = prompt, ""
    prompt = "\n\n".join(part for part in (prompt, piped) if part.strip())
    if not prompt:
        example = f"metasd run {pool} " if pool else "metasd run "
        raise UsageError(
            f'no prompt; type {example}"...", or send one through a pipe (see metasd run --help)'
        )
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"the prompt is no UTF-8 text: {error.reason}") from error
    return pool, prompt


def _read_text(stdin: TextIO) -> str:
    try:
        if isinstance(stdin, io.TextIOWrapper):
            return str(stdin.buffer.read(), "utf-8")
        return stdin.read()
    except ValueError as error:
        raise UsageError(f"stdin is no UTF-8 text: {error}") from error


def _result(output: _Output, setup: Setup, seed: int, snapshot: Snapshot) -> dict[str, Any]:
    sampling = setup.sampling
    return {
        "text": output.answer,
        "reasoning": output.reasoning,
        "finish_reason": snapshot.finish_reason,
        "pool": setup.pool,
        "policy": setup.policy,
        "seed": seed,
        "scheme": setup.scheme,
        "sampling": {
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "repeat_penalty": sampling.repeat_penalty,
        },
        "device": setup.device,
        "threads": setup.threads,
        "stats": snapshot.to_json(),
    }


class _Interrupts:
    """Turn the first Ctrl-C into a request to stop; the second one ends the process at once."""

    def __init__(self) -> None:
        self.has_happened = False
        self.stop: Callable[[], None] = lambda: None

    def __enter__(self) -> _Interrupts:
        self._previous = signal.getsignal(signal.SIGINT)
        # A process in the background was told to ignore Ctrl-C, and goes on doing so.
        if self._previous != signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _handle(self, _signal: int, _frame: FrameType | None) -> None:
        # Python's own handler would have to wait until llama.cpp returns.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        self.has_happened = True
        self.stop()


class _Output:
    """Shows one answer: text as it comes on stdout, all else on stderr, never mixed in a line."""

    def __init__(self, around: Surroundings, *, streams: bool) -> None:
        from metasd_local.text import printable

        self.answer = ""
        self.reasoning = ""
        self._printable = printable
        self._stdout = around.stdout
        self._stderr = around.stderr
        self._streams = streams
        self._out_is_terminal = around.stdout.isatty()
        self._err_is_terminal = around.stderr.isatty()
        self._dims = not around.environment.get("NO_COLOR")
        self._has_progress = False
        self._open: TextIO | None = None
        """The stream whose last line is not finished."""

    def progress(self, share: float) -> None:
        """Show how much of the models is loaded, if somebody is looking."""
        if self._err_is_terminal:
            self._stderr.write(f"\rloading {share:4.0%}")
            self._stderr.flush()
            self._has_progress = True

    def show(self, event: Event) -> None:
        """Show what an event has to say to a reader."""
        if isinstance(event, Notice):
            self.message(event.text)
        elif isinstance(event, TextPiece) and event.kind == "reasoning":
            self.reasoning += event.text
            self._show_reasoning(event.text)
        elif isinstance(event, TextPiece):
            self.answer += event.text
            if self._streams:
                text = self._printable(event.text) if self._out_is_terminal else event.text
                self._write(self._stdout, text, text)

    def _show_reasoning(self, text: str) -> None:
        if self._streams and self._err_is_terminal:
            text = self._printable(text)
            self._write(self._stderr, text, f"\x1b[2m{text}\x1b[22m" if self._dims else text)

    def _write(self, stream: TextIO, text: str, dressed: str) -> None:
        if not text:
            return
        if self._open is not stream:
            self.end()
        stream.write(dressed)
        stream.flush()
        self._open = None if text.endswith("\n") else stream

    def message(self, text: str) -> None:
        """Say something to the user, on a line of its own."""
        self.line(f"metasd: {text}")

    def line(self, text: str) -> None:
        """Write a line to stderr."""
        self.end()
        self._stderr.write(self._printable(text) + "\n")
        self._stderr.flush()

    def end(self) -> None:
        """Finish the line that is open and erase the progress."""
        if self._has_progress:
            self._stderr.write("\r\x1b[2K")
            self._stderr.flush()
            self._has_progress = False
        if self._open is not None:
            stream, self._open = self._open, None
            stream.write("\n")
            stream.flush()
