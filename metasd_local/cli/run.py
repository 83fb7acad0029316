"""`metasd run`: one answer."""

from __future__ import annotations

import io
import json
import secrets
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from metasd_local.arguments import Request
from metasd_local.cli.surroundings import DONE, INTERRUPTED, Surroundings, opened_pool
from metasd_local.errors import UsageError
from metasd_local.events import Event, PromptRead, TextKind, TextPiece
from metasd_local.options import MAX_RUN_TOKENS, Options
from metasd_local.replay import record
from metasd_local.stats import Snapshot, Stats, answer_line
from metasd_local.trace import TraceWriter

if TYPE_CHECKING:
    from metasd_local.session import Setup

# A drawn seed is short enough to be typed again.
NUM_DRAWN_SEEDS = 1_000_000


def run(options: Options, request: Request, around: Surroundings) -> int:
    """Answer once."""
    name, prompt = _read_prompt(request.words, around)
    is_drawn = options.seed is None
    seed = secrets.randbelow(NUM_DRAWN_SEEDS) if options.seed is None else options.seed
    output, stats = around.output, Stats()
    said: dict[TextKind, str] = {"answer": "", "reasoning": ""}
    with ExitStack() as stack:
        trace = stack.enter_context(TraceWriter(Path(options.trace))) if options.trace else None
        pool, interrupts = stack.enter_context(opened_pool(options, name, around))
        session = pool.session(options)
        events: Generator[Event] = session.send(
            prompt, seed=seed, max_tokens=options.max_tokens or MAX_RUN_TOKENS
        )
        if trace is not None:
            events = record(events, trace, session, question=prompt, seed=seed)
        for event in stack.enter_context(closing(events)):
            if interrupts.has_happened:
                # `send` forgets what was asked before it started.
                session.interrupt()
            if isinstance(event, PromptRead):
                stats.begin(session.prompt_tokens)
            elif isinstance(event, TextPiece):
                said[event.kind] += event.text
            stats.observe(event)
            if not (options.json and isinstance(event, TextPiece)):
                output.show(event)
        output.end()
        if options.json:
            document = _result(said, session.setup, seed, stats.snapshot)
            around.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
        else:
            shows_seed = is_drawn and session.setup.sampling.temperature > 0
            output.line(answer_line(stats.snapshot, seed=seed if shows_seed else None))
    return INTERRUPTED if stats.snapshot.finish_reason == "cancelled" else DONE


def _read_prompt(words: Sequence[str], around: Surroundings) -> tuple[str | None, str]:
    """Return the pool, if one was named, and the prompt with what came through a pipe."""
    stdin = around.stdin
    is_piped = stdin is not None and not stdin.closed and not stdin.isatty()
    prompt = words[-1] if words else ""
    piped = _read_text(stdin) if stdin is not None and (is_piped or prompt == "-") else ""
    piped = piped.rstrip("\r\n")  # as a shell's $(...) does
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


def _result(
    said: Mapping[TextKind, str], setup: Setup, seed: int, snapshot: Snapshot
) -> dict[str, Any]:
    sampling = setup.sampling
    return {
        "text": said["answer"],
        "reasoning": said["reasoning"],
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
