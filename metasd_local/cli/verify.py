"""`metasd verify`: whether drafting leaves the answers of a pool as they were."""

from __future__ import annotations

from metasd_local.arguments import Request
from metasd_local.cli.measurement import only_typed
from metasd_local.cli.surroundings import DONE, FAILED, Surroundings, opened_pool
from metasd_local.options import Options
from metasd_local.selftest import verify_pool

DEFAULT_MINUTES = 3.0


def verify(options: Options, request: Request, around: Surroundings) -> int:
    """Run the self-test of a pool."""
    options = only_typed(options, request.typed)
    with opened_pool(options, request.first_word, around) as (pool, interrupts):

        def on_progress(share: float) -> bool:
            around.output.progress("checking", share)
            return not interrupts.has_happened

        found = verify_pool(
            pool, options, minutes=options.minutes or DEFAULT_MINUTES, on_progress=on_progress
        )
    around.output.report(found.to_json(), found.lines(), as_json=options.json)
    return DONE if found.ok else FAILED
