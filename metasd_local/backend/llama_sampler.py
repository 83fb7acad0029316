"""llama.cpp's own sampler chain as a sampler of the target's tokens."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import numpy as np
from llama_cpp import llama_cpp as api

from metasd_local.backend.library import open_library
from metasd_local.errors import BackendError
from metasd_local.protocols import Logits
from metasd_local.sampling import SamplerSettings, refuse_peak

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("probability", np.float32)])
# llama.cpp takes this seed for a random one.
_NUM_SEEDS = 2**32 - 1


class LlamaSampler:
    """Draw the target's tokens by llama.cpp's chain, in llama.cpp's default order.

    Penalties, top-k, top-p, min-p, temperature, draw; penalties and the largest logit at
    temperature 0.
    Source: llama.cpp, common/common.h (common_params_sampling), common/sampling.cpp.
    """

    def __init__(self, settings: SamplerSettings, vocab_size: int) -> None:
        self._chain: int | None = None
        open_library()
        self._settings = settings
        self._ids = np.arange(vocab_size, dtype=np.int32)
        self._candidates = np.zeros(vocab_size, dtype=_CANDIDATE)
        self._array = api.llama_token_data_array()
        self._data = ctypes.cast(self._candidates.ctypes.data, ctypes.POINTER(api.llama_token_data))

    def begin(self, seed: int, context: Sequence[int]) -> None:
        """Start a generation after `context`: same seed and context, same draws."""
        self.close()
        settings, size = self._settings, len(self._ids)
        chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        steps = [
            api.llama_sampler_init_penalties(
                size, settings.penalty_last_n, settings.repeat_penalty, 0.0, 0.0
            )
        ]
        if settings.temperature == 0:
            steps.append(api.llama_sampler_init_greedy())
        else:
            steps += [
                api.llama_sampler_init_top_k(settings.top_k),
                api.llama_sampler_init_top_p(settings.top_p, 0),
                api.llama_sampler_init_min_p(settings.min_p, 0),
                api.llama_sampler_init_temp(settings.temperature),
                api.llama_sampler_init_dist(seed % _NUM_SEEDS),
            ]
        for step in steps:
            api.llama_sampler_chain_add(chain, step)
        for token in context[max(len(context) - settings.penalty_last_n, 0) :]:
            api.llama_sampler_accept(chain, token)
        self._chain = chain

    def sample(self, logits: Logits) -> int:
        """Draw the next token from a `(vocab_size,)` row and remember it as emitted.

        Raises BackendError if the highest logit is not a finite number: llama.cpp would draw
        nonsense in silence.
        """
        if self._chain is None:
            raise BackendError("the sampler has no generation; begin one before sampling")
        if len(logits) != len(self._ids):
            raise BackendError(
                f"a row of {len(logits)} logits was given; expected {len(self._ids)}: "
                "sample from the model the sampler was made for"
            )
        highest = logits.max()
        if not math.isfinite(highest):
            refuse_peak(highest)
        candidates, array = self._candidates, self._array
        candidates["id"] = self._ids
        candidates["logit"] = logits
        array.data = self._data
        array.size = len(candidates)
        array.selected = -1
        array.sorted = False
        api.llama_sampler_apply(self._chain, ctypes.byref(array))
        if not 0 <= array.selected < array.size:
            raise BackendError("llama.cpp's sampler chose no token; begin the generation again")
        token = int(array.data[array.selected].id)
        api.llama_sampler_accept(self._chain, token)
        return token

    def close(self) -> None:
        """Free the chain; harmless when called twice."""
        if self._chain is not None:
            api.llama_sampler_free(self._chain)
            self._chain = None
