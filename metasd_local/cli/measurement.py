"""What benches of real and of emulated acceptance have in common: everything around them."""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
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
from metasd_local.cli.surroundings import DONE, INTERRUPTED, Interrupts, Surroundings, opened_pool
from metasd_local.costs import measure_curve
from metasd_local.errors import Cancelled
from metasd_local.events import Event, Notice
from metasd_local.options import Options
from metasd_local.protocols import PLAIN
from metasd_local.selection import COMPARED
from metasd_local.selection.factory import DEFAULT_WINDOW
from metasd_local.trace import TraceWriter

if TYPE_CHECKING:
    from metasd_local.compose import OpenPool

MAX_BENCH_TOKENS = 256
DEFAULT_MINUTES = 5.0
SAID_HERE = (
    *("policy", "window", "max_tokens", "scheme", "seed", "json", "trace", "system", "stop"),
    *("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "think"),
)
"""Options that count only if they are typed: a chat's settings must not change a measurement."""
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

    def run(
        self,
        decoder: Decoder,
        prompts: Sequence[Prompt],
        arms: Sequence[str],
        check: Callable[[str], object],
        label: str = "",
    ) -> int:
        """Measure, print, and return the exit status.

        check: raises UsageError for a policy that cannot be. label: of emulated acceptance.
        """
        options, output, pool = self.options, self.around.output, self.pool
        policies = choose_policies(options, arms)
        for policy in policies.values():
            check(policy)  # what cannot be is said before anything is measured
        wishes = Wishes(
            prompts=prompts,
            policies=policies,
            arms=arms,
            max_tokens=options.max_tokens or MAX_BENCH_TOKENS,
            budget_s=60 * (options.minutes or DEFAULT_MINUTES),
            repeats=options.repeats,
        )
        setup = pool.session(dataclasses.replace(options, policy=PLAIN)).setup
        clock = time.perf_counter
        started_s = clock()
        meter = BusyMeter(clock)
        rng = np.random.default_rng(options.seed or 0)
        depth = min(CURVE_DEPTH, pool.target.context_size // 2)
        bench = None
        with suppress(Cancelled):
            minutes = f"{wishes.budget_s / 60:g} min"
            output.message(f"at most about {minutes}; Ctrl-C ends it with what there is by then")
            output.progress("measuring the cost curve")
            curve = measure_curve(
                pool.target,
                depth=depth,
                budget_s=CURVE_BUDGET * wishes.budget_s,
                clock=self._polled_clock,
                is_busy=lambda: not meter.leaves(setup.threads),
            )
            pool.kept.use_curve(curve)
            bench = Bench(
                wishes=wishes,
                curve=curve,
                decoder=decoder,
                rng=rng,
                clock=clock,
                on_events=self._note,
            )
            for step in bench.run(started_s):
                if self.interrupts.has_happened:
                    break
                if isinstance(step, str):
                    output.message(step)
                else:
                    output.progress("measuring", min(step, 1.0))
        output.end()
        if bench is None or not bench.runs:
            output.message("stopped before anything was measured")
            return INTERRUPTED
        is_partial = self.interrupts.has_happened
        is_idle, seen = judge_idleness(meter.other_cores(), plain_spread(bench.runs))
        document = {
            **describe_build(),
            "command": self.command,
            "pool": f"{setup.pool}, {label}" if label else setup.pool,
            "device": setup.device,
            # By now the machine may have been too busy for all it began with.
            "threads": pool.loader.num_threads,
            "scheme": setup.scheme,
            "temperature": setup.sampling.temperature,
            "emulated": bool(label),
            "machine": describe_machine(),
            "max_tokens": wishes.max_tokens,
            "prompts_hash": prompts_hash(wishes.prompts),
            "seconds": clock() - started_s,
            "idle": is_idle,
            "idle_detail": seen,
            "warnings": [
                *setup.notices,
                *bench.warnings,
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
        lines = report_block(document).splitlines() if options.report else table_lines(document)
        output.report(document, lines, as_json=options.json)
        if options.plot:
            write_plot(Path(options.plot), document)
        return INTERRUPTED if is_partial else DONE

    def _polled_clock(self) -> float:
        """Return the time; raise Cancelled after Ctrl-C, which a GPU would not notice."""
        if self.interrupts.has_happened:
            raise Cancelled("stopped while measuring the cost curve")
        return time.perf_counter()

    def _note(self, policy: str, prompt: Prompt, repeat: int, events: Sequence[Event]) -> None:
        """Write a generation to the trace, after its end so that nothing of it is timed."""
        if self.trace is not None:
            self.trace.write(Notice(f"bench: {policy}, {prompt.domain}, repeat {repeat}"))
            for event in events:
                self.trace.write(event)


@contextmanager
def measurement(
    options: Options, request: Request, pool_name: str | None, around: Surroundings
) -> Iterator[Measurement]:
    """Open what a measurement needs: first the files, where failing takes no time.

    It is at temperature 0 if no other is typed.
    """
    options = only_typed(options, request.typed)
    options = dataclasses.replace(options, temperature=options.temperature or 0.0)
    if options.plot:
        check_writable(Path(options.plot))
    with ExitStack() as stack:
        trace = stack.enter_context(TraceWriter(Path(options.trace))) if options.trace else None
        pool, interrupts = stack.enter_context(opened_pool(options, pool_name, around))
        command = shlex.join(["metasd", *request.arguments])
        yield Measurement(options, command, around, pool, interrupts, trace)


def only_typed(options: Options, typed: Mapping[str, Any]) -> Options:
    """Return the options without what a chat was configured to; nothing was learned before."""
    unsaid: dict[str, Any] = {name: None for name in SAID_HERE if name not in typed}
    return dataclasses.replace(options, **unsaid, fresh=True)


def choose_policies(options: Options, arms: Sequence[str]) -> Mapping[str, str]:
    """Return the policies to compare by name, `plain` among them; a second `auto` is `auto#2`."""
    chosen = list(options.policies or (*(f"fixed:{arm}" for arm in arms), *COMPARED))
    if PLAIN not in chosen:
        chosen.append(PLAIN)
    named: dict[str, str] = {}
    for policy in sorted(chosen, key=lambda each: each != PLAIN):
        number = list(named.values()).count(policy) + 1
        named[f"{policy}#{number}" if number > 1 else policy] = policy
    return named
