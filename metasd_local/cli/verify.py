"""`metasd verify`: whether drafting leaves the answers of a pool as they were."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from metasd_local.cli.output import Output
from metasd_local.cli.surroundings import DONE, FAILED, Interrupts, Surroundings
from metasd_local.errors import UsageError
from metasd_local.options import Options
from metasd_local.selftest import verify_pool

DEFAULT_MINUTES = 3.0


def verify(options: Options, words: Sequence[str], around: Surroundings) -> int:
    """Run the self-test of a pool."""
    if len(words) > 1:
        raise UsageError(f"found {len(words)} words, expected [POOL] (see metasd verify --help)")
    output = Output(around, streams=False)
    with ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())
        stack.callback(output.end)

        def on_progress(what: str, share: float) -> bool:
            output.progress(what, share)
            return not interrupts.has_happened

        fresh = dataclasses.replace(options, fresh=True)
        pool = around.open_pool(fresh, *words, on_progress=partial(on_progress, "loading"))
        stack.callback(pool.close)
        interrupts.stop = pool.interrupt.set
        found = verify_pool(
            pool,
            options,
            minutes=options.minutes or DEFAULT_MINUTES,
            on_progress=partial(on_progress, "checking"),
        )
        output.end()
        text = json.dumps(found.to_json(), indent=1) if options.json else "\n".join(found.lines())
        around.stdout.write(text + "\n")
        return DONE if found.ok else FAILED
