"""How a token memory is made, and what it would take, by llama.cpp's own reckoning."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from llama_cpp import llama_cpp as api

from metasd_local.backend.library import open_library
from metasd_local.errors import BackendError

BATCH_SIZE = 512
# Source: llama.cpp, src/llama-kv-cache.cpp, llama-memory-recurrent.cpp and llama-context.cpp. No
# function with a C interface tells these figures.
_MEMORY_SIZE = re.compile(r"llama_(?:kv_cache|memory_\w+): size = +([\d.]+) MiB")
_COMPUTE_SIZE = re.compile(r"(?:compute|output) buffer size = +([\d.]+) MiB")
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class MemoryFigures:
    """What a model opened with a context takes."""

    weights_bytes: int
    context_bytes: int
    """Of the tokens' memory, all of the context full."""
    compute_bytes: int
    """Of the buffers for intermediate results and logits."""

    @property
    def total_bytes(self) -> int:
        """Everything together."""
        return self.weights_bytes + self.context_bytes + self.compute_bytes


def context_parameters(context_size: int, max_rows: int, num_threads: int) -> Any:
    """Return llama.cpp's parameters for a token memory of one sequence that can be rewound."""
    parameters = api.llama_context_default_params()
    parameters.n_ctx = context_size
    parameters.n_batch = parameters.n_ubatch = BATCH_SIZE
    parameters.n_seq_max = 1
    parameters.n_outputs_max = max_rows
    parameters.n_threads = parameters.n_threads_batch = num_threads
    # A sliding window that keeps only its last tokens could not be rewound.
    parameters.swa_full = True
    return parameters


def memory_figures(model: int, name: str, context_size: int, max_rows: int) -> MemoryFigures:
    """Return what a token memory takes, by making one; of simulated weights it takes nothing.

    Raises BackendError.
    """
    log = open_library()
    log.clear()
    context = api.llama_init_from_model(model, context_parameters(context_size, max_rows, 1))
    if context is None:
        raise BackendError(
            f"llama.cpp cannot reckon with a context of {context_size} tokens for {name}: "
            f"{log.complaints()}; ask for a smaller context"
        )
    api.llama_free(context)
    lines = log.sizes()
    return MemoryFigures(
        weights_bytes=int(api.llama_model_size(model)),
        context_bytes=_sum(_MEMORY_SIZE, lines),
        compute_bytes=_sum(_COMPUTE_SIZE, lines),
    )


def _sum(pattern: re.Pattern[str], lines: tuple[str, ...]) -> int:
    sizes = [float(match[1]) for line in lines if (match := pattern.search(line))]
    return int(sum(sizes) * _MIB)
