"""What benches of real and of emulated acceptance have in common: everything around them."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metasd_local.bench.figures import Setting, make_document, plain_spread
from metasd_local.bench.machine import BusyMeter, describe_build, describe_machine, judge_idleness
from metasd_local.bench.measure import Decoder
from metasd_local.bench.plot import check_writable, write_plot
from metasd_local.bench.prompts import Prompt, prompts_hash
from metasd_local.bench.report import report_block, table_lines
from metasd_local.bench.schedule import Bench, Wishes
from metasd_local.cli.output import Output
from metasd_local.cli.surroundings import DONE, INTERRUPTED, Interrupts, Surroundings
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


class Measurement:
    """A bench as a command: files checked first, progress, Ctrl-C, and the report at the end."""

    def __init__(self, options: Options, around: Surroundings) -> None:
        self._options = options
        self._around = around
        self._output = Output(around, streams=False)
        self._stack = ExitStack()

    def __enter__(self) -> Measurement:
        if self._options.plot:
            check_writable(Path(self._options.plot))
        trace = self._options.trace
        self._trace = self._stack.enter_context(TraceWriter(Path(trace))) if trace else None
        self._interrupts = self._stack.enter_context(Interrupts())
        self._stack.callback(self._output.end)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def load(self, open_pool: Callable[..., OpenPool]) -> OpenPool:
        """Open a pool with progress; Ctrl-C stops what is decoded with it. Raises Cancelled.

        open_pool: as `compose.open_pool`, everything but `on_progress` already given.
        """

        def on_progress(share: float) -> bool:
            self._output.progress("loading", share)
            return not self._interrupts.has_happened

        pool = open_pool(on_progress=on_progress)
        self._interrupts.stop = pool.interrupt.set
        self._output.end()
        return pool

    def run(
        self, decoder: Decoder, pool: OpenPool, wishes: Wishes, setup: Setup, *, emulated: bool
    ) -> int:
        """Measure, print, and return the exit status."""
        output = self._output
        clock = time.perf_counter
        started_s = clock()
        meter = BusyMeter(clock)
        rng = np.random.default_rng(self._options.seed or 0)
        depth = min(CURVE_DEPTH, pool.target.context_size // 2)
        curve = measure_curve(
            pool.target, depth=depth, budget_s=CURVE_BUDGET * wishes.budget_s, clock=clock
        )
        pool.keep_curve(curve)
        bench = Bench(
            wishes=wishes, curve=curve, decoder=decoder, rng=rng, clock=clock, on_events=self._note
        )
        for step in bench.run(started_s):
            if self._interrupts.has_happened:
                break
            if isinstance(step, str):
                output.message(step)
            else:
                output.progress("measuring", min(step, 1.0))
        output.end()
        if not bench.runs:
            output.message("stopped before anything was measured")
            return INTERRUPTED
        is_partial = self._interrupts.has_happened
        is_idle, seen = judge_idleness(meter.other_cores(), plain_spread(bench.runs))
        document = {
            **describe_build(),
            "command": self._command(),
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
                    default_window=self._options.window or DEFAULT_WINDOW,
                ),
                rng,
            ),
        }
        self._print(document)
        return INTERRUPTED if is_partial else DONE

    def _note(self, policy: str, prompt: Prompt, repeat: int, events: Sequence[Event]) -> None:
        """Write a generation to the trace, after its end so that nothing of it is timed."""
        if self._trace is not None:
            self._trace.write(Notice(f"bench: {policy}, {prompt.domain}, repeat {repeat}"))
            for event in events:
                self._trace.write(event)

    def _command(self) -> str:
        return shlex.join(["metasd", *self._around.arguments])

    def _print(self, document: Mapping[str, Any]) -> None:
        stdout = self._around.stdout
        if self._options.plot:
            write_plot(Path(self._options.plot), document)
        if self._options.json:
            stdout.write(json.dumps(document, indent=1, allow_nan=False) + "\n")
        elif self._options.report:
            stdout.write(report_block(document))
        else:
            stdout.write("\n".join(table_lines(document)) + "\n")
