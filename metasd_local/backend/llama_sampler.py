"""llama.cpp's own sampler chain as a sampler of the target's tokens."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import numpy as np
from llama_cpp import llama_cpp as api
from numpy.typing import NDArray

from metasd_local.backend.library import open_library
from metasd_local.errors import BackendError, UsageError
from metasd_local.protocols import Logits, Probabilities

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("probability", np.float32)])
# llama.cpp takes this seed for a random one.
_NUM_SEEDS = 2**32 - 1


class LlamaSampler:
    """Draw the target's tokens by llama.cpp's chain, in llama.cpp's default order.

    Penalties, top-k, top-p, min-p, temperature, draw; penalties and the largest logit at
    temperature 0.
    top_k: 0 keeps all tokens; top_p: 1 keeps all; min_p: 0 keeps all; repeat_penalty: 1 changes
    nothing; penalty_last_n: number of last tokens it looks at.
    Source: llama.cpp, common/common.h (common_params_sampling), common/sampling.cpp.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        repeat_penalty: float,
        penalty_last_n: int,
    ) -> None:
        self._chain: int | None = None
        for name, value, lowest in (
            ("temperature", temperature, 0.0),
            ("top-k", top_k, 0),
            ("top-p", top_p, 0.0),
            ("min-p", min_p, 0.0),
            ("repeat penalty", repeat_penalty, 1e-6),
            ("number of tokens to penalise", penalty_last_n, 0),
        ):
            if not lowest <= value < math.inf:
                raise UsageError(
                    f"{name} is {value}; expected a number from {lowest}: change the option"
                )
        open_library()
        self._temperature = temperature
        self._top_k = top_k
        self._top_p = top_p
        self._min_p = min_p
        self._repeat_penalty = repeat_penalty
        self._penalty_last_n = penalty_last_n
        self._ids = np.arange(vocab_size, dtype=np.int32)
        self._candidates = np.zeros(vocab_size, dtype=_CANDIDATE)
        self._array = api.llama_token_data_array()
        self._data = ctypes.cast(self._candidates.ctypes.data, ctypes.POINTER(api.llama_token_data))

    def begin(self, seed: int, context: Sequence[int]) -> None:
        """Start a generation after `context`: same seed and context, same draws."""
        self.close()
        chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        steps = [
            api.llama_sampler_init_penalties(
                len(self._ids), self._penalty_last_n, self._repeat_penalty, 0.0, 0.0
            )
        ]
        if self._temperature == 0:
            steps.append(api.llama_sampler_init_greedy())
        else:
            steps += [
                api.llama_sampler_init_top_k(self._top_k),
                api.llama_sampler_init_top_p(self._top_p, 0),
                api.llama_sampler_init_min_p(self._min_p, 0),
                api.llama_sampler_init_temp(self._temperature),
                api.llama_sampler_init_dist(seed % _NUM_SEEDS),
            ]
        for step in steps:
            api.llama_sampler_chain_add(chain, step)
        for token in context[max(len(context) - self._penalty_last_n, 0) :]:
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
        highest = float(logits.max())
        if not math.isfinite(highest):
            raise BackendError(
                f"the highest logit of a row is {highest}; expected a finite number: the model "
                "file may be damaged, download it again"
            )
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

    def last_distribution(self) -> tuple[NDArray[np.int32], Probabilities]:
        """Return the token ids the last draw could have given and their probabilities.

        Both are `(n,)` copies in no particular order; not defined at temperature 0.
        """
        count = int(self._array.size)
        address = ctypes.addressof(self._array.data.contents)
        raw = (ctypes.c_uint8 * (count * _CANDIDATE.itemsize)).from_address(address)
        candidates = np.frombuffer(bytes(raw), dtype=_CANDIDATE)
        return candidates["id"].copy(), candidates["probability"].astype(np.float64)

    def close(self) -> None:
        """Free the chain; harmless when called twice."""
        if self._chain is not None:
            api.llama_sampler_free(self._chain)
            self._chain = None
