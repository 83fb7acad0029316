"""Opening the model files of a pool: one progress for all of them, all freed together."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

from metasd_local.backend.library import devices
from metasd_local.backend.llama import LlamaModel, LlamaWeights
from metasd_local.backend.llama_memory import memory_figures
from metasd_local.backend.placement import Need, usable_gpu_bytes
from metasd_local.backend.threads import memory_limit
from metasd_local.interrupt import Interrupt
from metasd_local.model_files import size_of_parts
from metasd_local.stopwatch import Stopwatch

MAX_ROWS = 33
"""Most logits rows of a target: the widest batch of a measured cost curve."""
RECKONED_CONTEXTS = (512, 1024)
"""What a model takes is linear in its context; small ones are made quickly of real weights."""


class Loader:
    """Opens model files, one progress for all of them; what it opens is closed by `resources`."""

    def __init__(
        self,
        *,
        resources: ExitStack,
        num_threads: int,
        on_progress: Callable[[float], bool] | None,
        paths: Sequence[Path],
    ) -> None:
        self.interrupt = Interrupt()
        self.inside = Stopwatch()
        """Of all models opened."""
        self.num_threads = num_threads
        self.memory_bytes = 0
        """Taken by all that was loaded and opened."""
        self._resources = resources
        self._on_progress = on_progress
        self._total_bytes = sum(map(size_of_parts, paths))
        self._loaded_bytes = 0
        self._models: list[LlamaModel] = []

    def load(self, path: Path, gpu_layers: int | None) -> LlamaWeights:
        """Read a file's weights; `gpu_layers`: None for all."""
        file_bytes = size_of_parts(path)

        def report(share: float) -> bool:
            if self._on_progress is None:
                return True
            return self._on_progress(
                (self._loaded_bytes + share * file_bytes) / max(self._total_bytes, 1)
            )

        weights = LlamaWeights(path, gpu_layers=gpu_layers, on_progress=report)
        self._resources.callback(weights.close)
        self._loaded_bytes += file_bytes
        self.memory_bytes += weights.info.file_bytes
        return weights

    def open(self, weights: LlamaWeights, context_size: int, *, max_rows: int) -> LlamaModel:
        """Make a token memory on loaded weights."""
        model = LlamaModel(
            weights,
            context_size=context_size,
            max_rows=max_rows,
            num_threads=self.num_threads,
            interrupt=self.interrupt,
            inside=self.inside,
        )
        self._models.append(model)
        self.memory_bytes += context_size * weights.info.memory_bytes_per_token
        return model

    def use_threads(self, num_threads: int) -> None:
        """Compute with so many threads from now on, in all models."""
        self.num_threads = num_threads
        for model in self._models:
            model.use_threads(num_threads)


def room() -> tuple[int, int]:
    """Return the bytes of main memory, 0 if unknown, and those that may be taken of the GPUs."""
    found = devices()
    main = max((device.memory_bytes for device in found if device.kind == "cpu"), default=0)
    main = min(main, memory_limit() or main)
    return main, usable_gpu_bytes([each.free_bytes for each in found if each.kind == "gpu"])


def reckon(name: str, weights: LlamaWeights) -> Need:
    """Return what a model takes by llama.cpp's own reckoning."""
    small, large = RECKONED_CONTEXTS
    low, high = (
        memory_figures(weights.pointer, name, size, MAX_ROWS) for size in RECKONED_CONTEXTS
    )
    bytes_per_token = max(high.total_bytes - low.total_bytes, 0) // (large - small)
    return Need(
        name,
        weights_bytes=low.weights_bytes,
        bytes_per_token=bytes_per_token,
        fixed_bytes=low.total_bytes - low.weights_bytes - bytes_per_token * small,
        trained_context=weights.info.trained_context,
        num_layers=weights.info.num_layers,
    )


def costs_key(path: Path, gpu_layers: int | None, num_threads: int, *, drafts: bool = False) -> str:
    """Return what the cost of a model's calls depends on, as one line.

    gpu_layers: as in `Loader.load`. drafts: costs of a drafter's single tokens, the same file may
    be a target as well.
    """
    found = devices()
    place = [device.name for device in found if device.kind == "cpu" or gpu_layers != 0]
    if gpu_layers and len(place) > 1:
        place.append(f"{gpu_layers} layers")
    file = (platform.node(), path.name, size_of_parts(path), path.stat().st_mtime_ns)
    parts = (*file, *place, *["drafting"] * drafts, num_threads, version("llama-cpp-python"))
    return " ".join(map(str, parts))
