"""`metasd verify`: whether drafting leaves the answers of a pool as they were."""

from __future__ import annotations

import dataclasses

from metasd_local.arguments import Request
from metasd_local.cli.surroundings import DONE, FAILED, Surroundings, opened_pool
from metasd_local.options import Options
from metasd_local.selftest import verify_pool

DEFAULT_MINUTES = 3.0


def verify(options: Options, request: Request, around: Surroundings) -> int:
    """Run the self-test of a pool."""
    fresh = dataclasses.replace(options, fresh=True)
    with opened_pool(fresh, request.first_word, around) as (pool, interrupts):

        def on_progress(share: float) -> bool:
            around.output.progress("checking", share)
            return not interrupts.has_happened

        found = verify_pool(
            pool, options, minutes=options.minutes or DEFAULT_MINUTES, on_progress=on_progress
        )
    around.output.report(found.to_json(), found.lines(), as_json=options.json)
    return DONE if found.ok else FAILED
