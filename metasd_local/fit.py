"""Whether a drafter fits its target, and where on this machine both fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from metasd_local.backend.llama import LlamaWeights
from metasd_local.backend.loader import Loader, costs_key, reckon, room
from metasd_local.backend.placement import Need, Placement, place
from metasd_local.costs import read_curve
from metasd_local.drafters.vocabulary import RuleResult, check_vocabulary
from metasd_local.errors import BackendError, IncompatibleVocabulary, ModelError
from metasd_local.options import Options
from metasd_local.pools.local import LocalDrafter

TARGET = ""
"""Stands for the target among names of drafters."""


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


@dataclass(frozen=True, slots=True)
class PoolWeights:
    """The files of a pool, opened."""

    target: LlamaWeights
    drafters: dict[str, LlamaWeights]
    """Those that fit a target that can have drafters."""
    failures: dict[str, ModelError | BackendError]
    """Of the other drafters."""


def fit_pool(
    target: LlamaWeights,
    drafters: Mapping[str, LlamaWeights],
    options: Options,
    num_threads: int,
    costs_path: Path | None,
) -> Fit:
    """Place opened models: the target on the GPU as far as it fits, if there is one.

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


def load_pool(
    loader: Loader,
    path: Path,
    drafters: Sequence[LocalDrafter],
    options: Options,
    costs_path: Path | None,
) -> tuple[PoolWeights, Placement]:
    """Load a target and its drafters where `fit_pool` puts them.

    Raises what `LlamaWeights` raises of the target, and BackendError.
    """

    def place_opened(opened: PoolWeights) -> Placement:
        target, usable = opened.target, opened.drafters
        return fit_pool(target, usable, options, loader.num_threads, costs_path).placement

    if options.gpu_layers == 0 or not room()[1]:
        opened = _open_all(path, drafters, lambda _, path: loader.load(path, 0))
        return opened, place_opened(opened)
    with ExitStack() as resources:

        def simulate(_: str, path: Path) -> LlamaWeights:
            return resources.enter_context(closing(LlamaWeights(path, is_simulated=True)))

        placement = place_opened(_open_all(path, drafters, simulate))
    layers: dict[str, int | None] = dict.fromkeys(placement.drafters_on_gpu)
    layers[TARGET] = placement.gpu_layers
    return _open_all(
        path, drafters, lambda name, path: loader.load(path, layers.get(name, 0))
    ), placement


def _open_all(
    path: Path, drafters: Sequence[LocalDrafter], open_file: Callable[[str, Path], LlamaWeights]
) -> PoolWeights:
    target = open_file(TARGET, path)
    opened = PoolWeights(target, {}, {})
    for drafter in drafters if target.info.rollback == "exact" else ():
        try:
            weights = open_file(drafter.name, drafter.path)
            for result in check_drafter(target, weights):
                if not result.holds:
                    weights.close()
                    raise IncompatibleVocabulary(
                        f"it does not fit its target, by the rule {result.rule}: {result.detail}; "
                        "choose another drafter"
                    )
        except (ModelError, BackendError) as error:
            opened.failures[drafter.name] = error
        else:
            opened.drafters[drafter.name] = weights
    return opened


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
