"""Whether a drafter fits its target, and where on this machine both fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

from metasd_local.backend.llama import LlamaWeights
from metasd_local.backend.loader import Loader, costs_key, reckon, room
from metasd_local.backend.placement import Need, Placement, place
from metasd_local.costs import read_curve
from metasd_local.drafters.vocabulary import RuleResult, check_vocabulary
from metasd_local.errors import ModelError
from metasd_local.options import Options
from metasd_local.pools.local import LocalDrafter


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


@dataclass(frozen=True, slots=True)
class Fit:
    """Where the models of a pool go, and what that follows from."""

    placement: Placement
    target: Need
    drafters: Sequence[Need]
    main_bytes: int
    """All of main memory, 0 if unknown."""
    gpu_bytes: int
    """What may be taken of the GPUs."""


def fit_pool(
    target: LlamaWeights,
    drafters: Mapping[str, LlamaWeights],
    options: Options,
    num_threads: int,
    costs_path: Path | None,
) -> Fit:
    """Place simulated models: the target on the GPU as far as it fits, if there is one.

    costs_path: file of costs measured before. Raises BackendError.
    """
    main_bytes, gpu_bytes = room()
    if options.gpu_layers == 0:
        gpu_bytes = 0
    need = reckon(target.info.path.name, target)
    needs = [reckon(name, weights) for name, weights in drafters.items()]
    paths = {name: weights.info.path for name, weights in drafters.items() if gpu_bytes}
    placement = place(
        need,
        needs,
        main_bytes=main_bytes,
        gpu_bytes=gpu_bytes,
        context_size=options.ctx,
        gpu_layers=options.gpu_layers,
        better_on_cpu=_better_on_cpu(paths, num_threads, costs_path),
    )
    return Fit(placement, need, needs, main_bytes, gpu_bytes)


def load_target(
    loader: Loader,
    path: Path,
    drafters: Sequence[LocalDrafter],
    options: Options,
    costs_path: Path | None,
) -> tuple[LlamaWeights, Placement]:
    """Load the target where `fit_pool` puts it. Raises what `LlamaWeights` raises, and its own."""
    with ExitStack() as resources:

        def simulate(path: Path) -> LlamaWeights:
            return resources.enter_context(closing(LlamaWeights(path, is_simulated=True)))

        target = simulate(path)
        usable = {}
        for drafter in drafters:
            with suppress(ModelError):  # told where it is loaded
                usable[drafter.name] = simulate(drafter.path)
        found = fit_pool(target, usable, options, loader.num_threads, costs_path)
    return loader.load(path, found.placement.gpu_layers), found.placement


def _better_on_cpu(
    paths: Mapping[str, Path], num_threads: int, costs_path: Path | None
) -> list[str]:
    """Return the drafters that were measured on CPU and GPU and draft faster on the CPU."""
    better = list[str]()
    if costs_path is None:
        return better
    for name, path in paths.items():
        quick, slow = (
            read_curve(costs_path, costs_key(path, layers, num_threads, drafts=True))
            for layers in (0, None)
        )
        if slow and quick and quick.seconds(1) < slow.seconds(1):
            better.append(name)
    return better
