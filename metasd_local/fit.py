"""Whether a drafter fits its target, and where on this machine both fit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from metasd_local.backend.library import devices
from metasd_local.backend.llama import LlamaWeights
from metasd_local.backend.loader import DRAFTING, Loader, costs_key, estimate, reckon, room
from metasd_local.backend.placement import Need, Placement, place
from metasd_local.costs import read_curve
from metasd_local.drafters.vocabulary import RuleResult, check_vocabulary
from metasd_local.errors import ModelError
from metasd_local.options import Options
from metasd_local.pools.local import LocalDrafter, LocalPool


def check_drafter(target: LlamaWeights, drafter: LlamaWeights) -> tuple[RuleResult, ...]:
    """Apply every rule a drafter must keep, in order; it can be used if all of them hold."""
    info = drafter.info
    return (
        *check_vocabulary(target.vocabulary, drafter.vocabulary),
        RuleResult(
            "rollback",
            info.rollback == "exact",
            f"{info.name} ({info.architecture}) "
            + (
                "can forget rejected tokens"
                if info.rollback == "exact"
                else "cannot forget rejected tokens, a drafter needs attention only"
            ),
        ),
    )


def load_target(
    loader: Loader,
    pool: LocalPool,
    drafters: Sequence[LocalDrafter],
    options: Options,
    costs_path: Path | None,
) -> tuple[LlamaWeights, Placement]:
    """Load the target, on the GPU as far as it fits if there is one, and place its drafters.

    costs_path: file of costs measured before. Raises what `LlamaWeights` raises.
    """
    main_bytes, gpu_bytes = room()
    decide = partial(
        place, main_bytes=main_bytes, context_size=options.ctx, gpu_layers=options.gpu_layers
    )
    if not gpu_bytes or options.gpu_layers == 0:
        weights = loader.load(pool.target, 0)
        target = estimate(pool.name, pool.target, weights.info)
        return weights, decide(target, [estimate(each.name, each.path) for each in drafters])
    needs: list[Need] = []
    for name, path in ((pool.name, pool.target), *((each.name, each.path) for each in drafters)):
        try:
            with closing(LlamaWeights(path, is_simulated=True)) as simulated:
                needs.append(reckon(name, simulated))
        except ModelError:
            if not needs:
                raise  # a drafter's reason is told where it is loaded
    slow = better_on_cpu(drafters, loader.num_threads, costs_path)
    placement = decide(needs[0], needs[1:], gpu_bytes=gpu_bytes, better_on_cpu=slow)
    return loader.load(pool.target, placement.gpu_layers), placement


def better_on_cpu(
    drafters: Sequence[LocalDrafter], num_threads: int, costs_path: Path | None
) -> list[str]:
    """Return the drafters that were measured on CPU and GPU and draft faster on the CPU."""
    everywhere = [device.name for device in devices()]
    on_cpu = [device.name for device in devices() if device.kind == "cpu"]
    better = []
    for drafter in drafters:
        if costs_path is None or not os.path.isfile(drafter.path):
            continue
        slow, quick = (
            read_curve(costs_path, costs_key(drafter.path, (*names, DRAFTING), num_threads))
            for names in (everywhere, on_cpu)
        )
        if slow and quick and quick.seconds(1) < slow.seconds(1):
            better.append(drafter.name)
    return better
