"""What benches of real and of emulated acceptance have in common: everything around them."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metasd_local.arguments import Request
from metasd_local.bench.figures import Setting, make_document, plain_spread
from metasd_local.bench.machine import describe_build, describe_machine, judge_idleness
from metasd_local.bench.measure import Decoder
from metasd_local.bench.plot import check_writable, write_plot
from metasd_local.bench.prompts import Prompt, prompts_hash
from metasd_local.bench.report import report_block, table_lines
from metasd_local.bench.schedule import Bench, Wishes
from metasd_local.busy import BusyMeter
from metasd_local.cli.surroundings import (
    DONE,
    INTERRUPTED,
    Interrupts,
    Surroundings,
    opened_pool,
)
from metasd_local.costs import measure_curve
from metasd_local.events import Event, Notice
from metasd_local.options import Options
from metasd_local.selection.factory import DEFAULT_WINDOW
from metasd_local.trace import TraceWriter

if TYPE_CHECKING:
    from metasd_local.compose import OpenPool
    from metasd_local.session import Setup

CURVE_DEPTH = 128
CURVE_BUDGET = 0.05
"""Share of the time budget spent on the cost curve."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A bench as a command, with everything around it ready."""

    options: Options
    command: str
    """As it was typed."""
    around: Surroundings
    pool: OpenPool
    interrupts: Interrupts
    trace: TraceWriter | None

    def run(self, decoder: Decoder, wishes: Wishes, setup: Setup, *, emulated: bool) -> int:
        """Measure, print, and return the exit status."""
        options, output, pool = self.options, self.around.output, self.pool
        clock = time.perf_counter
        started_s = clock()
        meter = BusyMeter(clock)
        rng = np.random.default_rng(options.seed or 0)
        depth = min(CURVE_DEPTH, pool.target.context_size // 2)
        curve = measure_curve(
            pool.target,
            depth=depth,
            budget_s=CURVE_BUDGET * wishes.budget_s,
            clock=clock,
            is_busy=lambda: not meter.leaves(setup.threads),
        )
        pool.kept.write_curve(curve)
        bench = Bench(
            wishes=wishes, curve=curve, decoder=decoder, rng=rng, clock=clock, on_events=self._note
        )
        for step in bench.run(started_s):
            if self.interrupts.has_happened:
                break
            if isinstance(step, str):
                output.message(step)
            else:
                output.progress("measuring", min(step, 1.0))
        output.end()
        if not bench.runs:
            output.message("stopped before anything was measured")
            return INTERRUPTED
        is_partial = self.interrupts.has_happened
        is_idle, seen = judge_idleness(meter.other_cores(), plain_spread(bench.runs))
        document = {
            **describe_build(),
            "command": self.command,
            "pool": setup.pool,
            "device": setup.device,
            "threads": setup.threads,
            "scheme": setup.scheme,
            "temperature": setup.sampling.temperature,
            "emulated": emulated,
            "machine": describe_machine(),
            "max_tokens": wishes.max_tokens,
            "prompts_hash": prompts_hash(wishes.prompts),
            "seconds": clock() - started_s,
            "idle": is_idle,
            "idle_detail": seen,
            "warnings": [
                *setup.notices,
                *bench.left_out,
                *(["stopped early by Ctrl-C"] * is_partial),
            ],
            "cost_curve": {str(size): seconds for size, seconds in curve.points.items()},
            "curve_depth": depth,
            **make_document(
                bench.runs,
                Setting(
                    policies=wishes.policies,
                    candidates=bench.candidates,
                    curve=curve,
                    max_tokens=wishes.max_tokens,
                    default_window=options.window or DEFAULT_WINDOW,
                ),
                rng,
            ),
        }
        self._print(document)
        return INTERRUPTED if is_partial else DONE

    def _note(self, policy: str, prompt: Prompt, repeat: int, events: Sequence[Event]) -> None:
        """Write a generation to the trace, after its end so that nothing of it is timed."""
        if self.trace is not None:
            self.trace.write(Notice(f"bench: {policy}, {prompt.domain}, repeat {repeat}"))
            for event in events:
                self.trace.write(event)

    def _print(self, document: Mapping[str, Any]) -> None:
        options, stdout = self.options, self.around.stdout
        if options.plot:
            write_plot(Path(options.plot), document)
        if options.json:
            stdout.write(json.dumps(document, indent=1, allow_nan=False) + "\n")
        elif options.report:
            stdout.write(report_block(document))
        else:
            stdout.write("\n".join(table_lines(document)) + "\n")


@contextmanager
def measurement(
    options: Options, request: Request, pool_name: str | None, around: Surroundings
) -> Iterator[Measurement]:
    """Open what a measurement needs: first the files, where failing takes no time."""
    if options.plot:
        check_writable(Path(options.plot))
    with ExitStack() as stack:
        trace = stack.enter_context(TraceWriter(Path(options.trace))) if options.trace else None
        pool, interrupts = stack.enter_context(opened_pool(options, pool_name, around))
        command = shlex.join(["metasd", *request.arguments])
        yield Measurement(options, command, around, pool, interrupts, trace)
