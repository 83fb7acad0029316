"""Opening the model files of a pool: one progress for all of them, all freed together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from metasd_local.backend.llama import LlamaModel, LlamaWeights
from metasd_local.interrupt import Interrupt


class Loader:
    """Opens model files, one progress for all of them; what it opens is closed by `resources`."""

    def __init__(
        self,
        *,
        resources: ExitStack,
        num_threads: int,
        gpu_layers: int | None,
        on_progress: Callable[[float], bool] | None,
        paths: Sequence[Path],
    ) -> None:
        self.interrupt = Interrupt()
        self.num_threads = num_threads
        self.memory_bytes = 0
        """Taken by all that was loaded and opened."""
        self._resources = resources
        self._gpu_layers = gpu_layers
        self._on_progress = on_progress
        self._total_bytes = sum(path.stat().st_size for path in paths if path.is_file())
        self._loaded_bytes = 0
        self._models: list[LlamaModel] = []

    def load(self, path: Path) -> LlamaWeights:
        """Read a file's weights."""
        file_bytes = path.stat().st_size if path.is_file() else 0

        def report(share: float) -> bool:
            if self._on_progress is None:
                return True
            return self._on_progress(
                (self._loaded_bytes + share * file_bytes) / max(self._total_bytes, 1)
            )

        weights = LlamaWeights(path, gpu_layers=self._gpu_layers, on_progress=report)
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
        )
        self._models.append(model)
        self.memory_bytes += context_size * weights.info.memory_bytes_per_token
        return model

    def use_threads(self, num_threads: int) -> None:
        """Compute with so many threads from now on, in all models."""
        self.num_threads = num_threads
        for model in self._models:
            model.use_threads(num_threads)
