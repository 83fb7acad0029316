"""`metasd doctor`: what works on this machine, what does not, and what to do about it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from metasd_local.arguments import Request
from metasd_local.cli.surroundings import DONE, FAILED, Interrupts, Surroundings
from metasd_local.config import state_path
from metasd_local.doctor.costs import CostsMeter
from metasd_local.doctor.machine import examine_machine
from metasd_local.doctor.pool import PoolExamination
from metasd_local.doctor.report import is_ok, lines, to_json
from metasd_local.errors import Cancelled
from metasd_local.interrupt import Interrupt
from metasd_local.kept import COSTS_FILE
from metasd_local.options import Options
from metasd_local.pools.catalogue import DrafterEntry, Pool, read_catalogue
from metasd_local.pools.local import find_source, named_drafter, named_pool
from metasd_local.protocols import NGRAM


def doctor(options: Options, request: Request, around: Surroundings) -> int:
    """Examine the machine and one pool in depth, or all that are here."""
    catalogue = read_catalogue(around.environment)
    # A path was here when it was written down: one that has moved is shown as broken.
    pools = [
        pool for pool in catalogue if isinstance(pool.target, Path) or find_source(pool.target)
    ]
    for name in request.words:
        pools = [_with_drafters(named_pool(name, catalogue), options.drafters)]
    with Interrupts() as interrupts:
        interrupt = Interrupt()
        interrupts.stop = interrupt.set

        def on_step(what: str, share: float | None) -> None:
            if interrupts.has_happened:
                raise Cancelled("stopped")
            around.output.progress(what, share)

        machine = examine_machine()
        meter = CostsMeter(
            num_threads=options.threads or machine.threads.num_threads,
            costs_path=state_path(around.environment) / COSTS_FILE,
            interrupt=interrupt,
            measures=bool(request.words),
        )
        reports = [PoolExamination(pool, options, meter, on_step).run() for pool in pools]
    text = lines(machine, reports, shutil.get_terminal_size().columns)
    around.output.report(to_json(machine, reports), text, as_json=options.json)
    return DONE if is_ok(reports) else FAILED


def _with_drafters(pool: Pool, names: Sequence[str] | None) -> Pool:
    """Return the pool with the drafters of `--drafters` in the place of its own."""
    if names is None:
        return pool
    known = {drafter.name: drafter for drafter in pool.drafters}
    chosen = []
    for name in names:
        if name in known:
            chosen.append(known[name])
        elif name != NGRAM:
            found = named_drafter(name, [*known])
            chosen.append(DrafterEntry(found.name, found.path))
    return dataclasses.replace(pool, drafters=tuple(chosen))
