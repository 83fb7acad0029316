"""Where the models of a pool go and how much context they get: sizes in, decision out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

LARGEST_DEFAULT_CONTEXT = 8192
SMALLEST_DEFAULT_CONTEXT = 512
DRAFT_CONTEXT = 2048
"""Most tokens a drafter keeps in mind: a full context of each would cost gigabytes."""
GPU_RESERVE_SHARE, MOST_GPU_RESERVE_BYTES = 0.1, 2**30
"""Left free on a GPU, which others use too and where a lack of memory ends the process."""
MAIN_SHARE = 0.9
"""Of main memory that may be used, if the user insists; by default half of it is."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one model takes."""

    name: str
    weights_bytes: int
    bytes_per_token: int
    """Of its context."""
    fixed_bytes: int
    """Of buffers, whatever the context."""
    trained_context: int
    num_layers: int

    def at(self, context_size: int) -> int:
        """Return the bytes it takes with a context."""
        return self.weights_bytes + self.fixed_bytes + self.bytes_per_token * context_size

    def fitting_context(self, room_bytes: float) -> int:
        """Return the largest context for which it fits; 0 or less if it fits with none."""
        free_bytes = room_bytes - self.weights_bytes - self.fixed_bytes
        return int(free_bytes // max(self.bytes_per_token, 1))


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the models go."""

    context_size: int
    gpu_layers: int
    """Of the target."""
    drafters_on_gpu: frozenset[str]
    main_bytes: int
    """Needed of main memory."""
    gpu_bytes: int
    """Needed on the GPUs."""
    advice: str = ""
    """What would fit, if this does not; else empty."""


def draft_context(context_size: int, trained_context: int) -> int:
    """Return a drafter's context beside a target's."""
    return min(context_size, trained_context, DRAFT_CONTEXT)


def usable_gpu_bytes(free_bytes: Sequence[int]) -> int:
    """Return what may be taken of GPUs with so much free memory."""
    return sum(
        free - int(min(free * GPU_RESERVE_SHARE, MOST_GPU_RESERVE_BYTES)) for free in free_bytes
    )


def place(
    target: Need,
    drafters: Sequence[Need],
    *,
    main_bytes: int,
    gpu_bytes: int = 0,
    context_size: int | None = None,
    gpu_layers: int | None = None,
    better_on_cpu: Collection[str] = (),
) -> Placement:
    """Put the target on the GPU as far as it fits, then drafters, smallest first.

    main_bytes: all of main memory, 0 if unknown; gpu_bytes: what may be taken of the GPUs.
    context_size, gpu_layers: what the user insists on.
    better_on_cpu: drafters that are known to draft faster there.
    """
    ordered = sorted(drafters, key=lambda drafter: drafter.weights_bytes)
    context = context_size or _default_context(target, main_bytes, gpu_bytes)

    def lay_out(context: int, kept: Sequence[Need], layers: int | None) -> Placement:
        return _lay_out(target, kept, gpu_bytes, context, layers, better_on_cpu)

    def fits(found: Placement) -> bool:
        return found.gpu_bytes <= gpu_bytes and (
            not main_bytes or found.main_bytes <= main_bytes * MAIN_SHARE
        )

    found = lay_out(context, ordered, gpu_layers)
    if fits(found):
        return found
    advice = "choose a smaller quantisation of the target, or a smaller target"
    if found.gpu_bytes > gpu_bytes:
        advice = f"--gpu-layers {lay_out(context, ordered, None).gpu_layers} fits on the GPU"
        return replace(found, advice=advice)
    smaller = context
    while smaller > SMALLEST_DEFAULT_CONTEXT:
        smaller = max(min(smaller // 2, target.trained_context), SMALLEST_DEFAULT_CONTEXT)
        if fits(lay_out(smaller, ordered, gpu_layers)):
            return replace(found, advice=f"--ctx {smaller} would fit")
    for num_kept in reversed(range(len(ordered))):
        if fits(lay_out(smaller, ordered[:num_kept], gpu_layers)):
            names = ",".join(drafter.name for drafter in ordered[:num_kept])
            which = f"--drafters {names}" if names else "--policy plain"
            advice = f"{which} with --ctx {smaller} would fit"
            break
    return replace(found, advice=advice)


def _lay_out(
    target: Need,
    drafters: Sequence[Need],
    gpu_bytes: int,
    context_size: int,
    gpu_layers: int | None,
    better_on_cpu: Collection[str],
) -> Placement:
    all_layers = target.num_layers + 1  # llama.cpp counts the output as one
    layer_bytes = target.at(context_size) / all_layers
    layers = int(gpu_bytes / layer_bytes) if gpu_layers is None else gpu_layers
    layers = min(layers, all_layers) if gpu_bytes else 0
    taken = int(layers * layer_bytes)
    main = target.at(context_size) - taken
    on_gpu: set[str] = set()
    for drafter in drafters:
        size = drafter.at(draft_context(context_size, drafter.trained_context))
        # What is left beside a part of a target is better used for more of it.
        has_room = layers == all_layers and taken + size <= gpu_bytes
        if has_room and drafter.name not in better_on_cpu:
            on_gpu.add(drafter.name)
            taken += size
        else:
            main += size
    return Placement(context_size, layers, frozenset(on_gpu), main, taken)


def _default_context(target: Need, main_bytes: int, gpu_bytes: int) -> int:
    """Return what was trained and fits: on the GPU, else in half of main memory."""
    largest = min(target.trained_context, LARGEST_DEFAULT_CONTEXT)
    if target.fitting_context(gpu_bytes) >= min(largest, SMALLEST_DEFAULT_CONTEXT):
        return min(largest, target.fitting_context(gpu_bytes))
    fitting = target.fitting_context(main_bytes // 2) if main_bytes else 0
    return min(largest, max(fitting, SMALLEST_DEFAULT_CONTEXT))
