"""Models run by llama.cpp: weights read from a GGUF file, and token memories on them.

Every call that would abort or crash the process (llama.cpp checks its arguments by assertion)
is refused here with an error of this package. One thread at a time may use a model.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
from llama_cpp import llama_cpp as api

from metasd_local.backend.gguf import check_gguf
from metasd_local.backend.library import LoadProgress, c_library, open_library
from metasd_local.backend.llama_info import read_info, refusal
from metasd_local.backend.llama_memory import BATCH_SIZE, context_parameters
from metasd_local.backend.llama_vocabulary import LlamaVocabulary
from metasd_local.backend.prefix import common_prefix
from metasd_local.errors import BackendError, Cancelled, ContextFull, ModelError
from metasd_local.interrupt import Interrupt
from metasd_local.model_files import part_paths, repair_advice
from metasd_local.protocols import Logits
from metasd_local.stopwatch import Stopwatch

_NO_MAPPING = 0
_MAX_CONTEXT_SIZE = 2**31 - 1
_FEW_TOKENS = 16
_NO_ROOM, _ABORTED, _INVALID_BATCH = 1, 2, -1


class LlamaWeights:
    """Weights and vocabulary of one GGUF file, shared by the models opened on them.

    gpu_layers: layers to put on the GPU, None for all; of no effect without a GPU.
    on_progress: told the share that is loaded, in [0, 1]; loading is cancelled when it returns
    False.
    is_simulated: read everything but the weights, to see what it is and what it would take.
    Raises ModelError and Cancelled.
    """

    def __init__(
        self,
        path: Path,
        *,
        gpu_layers: int | None = None,
        on_progress: Callable[[float], bool] | None = None,
        is_simulated: bool = False,
    ) -> None:
        check_gguf(path)
        path = part_paths(path)[0]
        log = open_library()
        log.clear()
        parameters = api.llama_model_default_params()
        parameters.n_gpu_layers = -1 if gpu_layers is None else max(gpu_layers, 0)
        if is_simulated:
            parameters.no_alloc, parameters.load_mode = True, _NO_MAPPING
        progress = LoadProgress(on_progress)
        parameters.progress_callback = progress.callback
        pointer = api.llama_model_load_from_file(os.fsencode(path), parameters)
        progress.raise_if_stopped(path)
        if pointer is None:
            reason = log.complaints()
            if "allocate" in reason:
                raise ModelError(
                    f"{path} does not fit into memory: {reason}; lower --gpu-layers or choose a "
                    "smaller quantisation"
                )
            raise ModelError(
                f"llama.cpp cannot load {path}: {reason}; expected a language model in "
                f"GGUF format: {repair_advice(path)}, or update llama-cpp-python if its "
                "architecture is new"
            )
        log.clear()
        error = refusal(pointer, path)
        if error is not None:
            api.llama_model_free(pointer)
            raise error
        self.is_simulated = is_simulated
        self._pointer: int | None = pointer
        self._models: list[LlamaModel] = []
        self.vocabulary = LlamaVocabulary(api.llama_model_get_vocab(pointer))
        self.info = read_info(pointer, path, self.vocabulary, uses_gpu=gpu_layers != 0)

    @property
    def pointer(self) -> int:
        """The address of llama.cpp's model, for this package only."""
        if self._pointer is None:
            raise BackendError("the weights are closed; open the model file again")
        return self._pointer

    def attach(self, model: LlamaModel) -> None:
        """Remember a model that must be closed before the weights are freed."""
        self._models.append(model)

    def detach(self, model: LlamaModel) -> None:
        """Forget a model that has been closed."""
        self._models.remove(model)

    def close(self) -> None:
        """Close all models opened on the weights and free them; harmless when called twice."""
        for model in tuple(self._models):
            model.close()
        if self._pointer is not None:
            self.vocabulary.close()
            api.llama_model_free(self._pointer)
            self._pointer = None


class LlamaModel:
    """A token memory of one sequence on loaded weights.

    max_rows: most logits rows one `feed` may ask for, at most 511.
    interrupt: stops a running `feed`, inside llama.cpp where the CPU computes, else between
    parts of a long prompt.
    inside: counts the seconds spent in llama.cpp; None: nobody asks.
    """

    def __init__(
        self,
        weights: LlamaWeights,
        *,
        context_size: int,
        max_rows: int,
        num_threads: int,
        interrupt: Interrupt,
        inside: Stopwatch | None = None,
    ) -> None:
        self._context: int | None = None
        _check_range("context size", context_size, 1, _MAX_CONTEXT_SIZE)
        _check_range("number of logits rows", max_rows, 1, BATCH_SIZE - 1)
        _check_range("number of threads", num_threads, 1, 1024)
        if weights.is_simulated:
            raise BackendError(f"{weights.info.name} was loaded without its weights; load it again")
        parameters = context_parameters(context_size, max_rows, num_threads)
        log = open_library()
        log.clear()
        self._log = log
        self._context = api.llama_init_from_model(weights.pointer, parameters)
        if self._context is None:
            raise BackendError(
                f"llama.cpp cannot make a token memory of {context_size} tokens for "
                f"{weights.info.name}: {log.complaints()}; ask for a smaller context"
            )
        self._weights = weights
        self._memory = api.llama_get_memory(self._context)
        self._batch = api.llama_batch_init(BATCH_SIZE, 0, 1)
        weights.attach(self)
        if not self._memory:
            self.close()
            raise ModelError(
                f"{weights.info.path} keeps no token memory; expected a model that generates "
                "text: choose another file"
            )
        log.clear()
        self._can_rewind = weights.info.rollback == "exact"
        self.vocab_size = weights.vocabulary.size
        self._max_rows = max_rows
        # llama.cpp rounds the context up, and cuts the batch to it.
        self.context_size = min(context_size, int(api.llama_n_ctx_seq(self._context)))
        self._batch_size = int(api.llama_n_batch(self._context))
        self._history: list[int] = []
        self._inside = inside or Stopwatch()
        self._interrupt = interrupt
        self._should_abort = ctypes.cast(c_library().strlen, api.ggml_abort_callback)
        api.llama_set_abort_callback(self._context, self._should_abort, interrupt.address)
        as_array = np.ctypeslib.as_array
        shape = (BATCH_SIZE,)
        as_array(self._batch.n_seq_id, shape)[:] = 1
        for index in range(BATCH_SIZE):
            self._batch.seq_id[index][0] = 0
        self._tokens = as_array(self._batch.token, shape)
        self._positions = as_array(self._batch.pos, shape)
        self._wants_row = as_array(self._batch.logits, shape)
        self._wanted = (0, 0)
        self._ramp = np.arange(self.context_size, dtype=np.int32)
        # A prototype of our own: the bound one wraps the address in an object per call.
        prototype = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
        self._logits_address = prototype(("llama_get_logits", api._lib))
        self._views: dict[int, Logits] = {}
        self._views_address = 0
        self._no_rows: Logits = np.empty((0, self.vocab_size), dtype=np.float32)

    @property
    def length(self) -> int:
        """Number of tokens in the memory."""
        return len(self._history)

    def keep_prefix(self, tokens: Sequence[int]) -> int:
        """Rewind to the longest common prefix with `tokens` and return its length.

        A model that cannot be rewound forgets everything instead, unless nothing differs.
        """
        self._open_context()
        length = common_prefix(self._history, tokens)
        if length < len(self._history) and not self._can_rewind:
            length = 0
        self.rewind(length)
        return length

    def feed(self, tokens: Sequence[int], num_rows: int) -> Logits:
        """Append `tokens` to the memory and return the logits of the last `num_rows` of them.

        The result is a `(num_rows, vocab_size)` float32 view that dies at the next `feed`.
        Raises ContextFull, Cancelled and BackendError; only whole parts of 512 tokens, or
        everything, can have been appended then.
        """
        self._check_feed(tokens, num_rows)
        begin, num_tokens = 0, len(tokens)
        if num_tokens > self._batch_size:
            while num_tokens - begin > self._batch_size:
                end = min(begin + self._batch_size, num_tokens - max(num_rows, 1))
                self._decode(tokens[begin:end], 0)
                begin = end
                if self._interrupt.is_set:
                    raise Cancelled(_stopped(len(self._history)))
            tokens = tokens[begin:]
        elif not num_tokens:
            return self._no_rows
        return self._decode(tokens, num_rows)

    def rewind(self, length: int) -> None:
        """Forget everything after the first `length` tokens; raise BackendError if impossible."""
        self._open_context()
        num_held = len(self._history)
        if length == num_held:
            return
        _check_range("length to rewind to", length, 0, num_held)
        began = perf_counter()
        if length == 0:
            api.llama_memory_clear(self._memory, False)
            has_rewound = True
        else:
            has_rewound = self._can_rewind and api.llama_memory_seq_rm(self._memory, 0, length, -1)
        self._inside.seconds += perf_counter() - began
        if not has_rewound:
            raise BackendError(
                f"{self._weights.info.name} cannot forget the last {num_held - length} of its "
                f"{num_held} tokens; expected a model with attention only: rewind to 0 instead"
            )
        del self._history[length:]

    def use_threads(self, num_threads: int) -> None:
        """Compute with so many CPU threads from now on."""
        _check_range("number of threads", num_threads, 1, 1024)
        api.llama_set_n_threads(self._open_context(), num_threads, num_threads)

    def close(self) -> None:
        """Free the memory; harmless when called twice."""
        if self._context is None:
            return
        api.llama_batch_free(self._batch)
        api.llama_free(self._context)
        self._context = None
        self._weights.detach(self)

    def _open_context(self) -> int:
        if self._context is None:
            raise BackendError("the model is closed; open it again")
        return self._context

    def _check_feed(self, tokens: Sequence[int], num_rows: int) -> None:
        self._open_context()
        num_tokens = len(tokens)
        if (
            num_tokens == 1
            and 0 <= num_rows <= 1
            and 0 <= tokens[0] < self.vocab_size
            and len(self._history) < self.context_size
        ):
            return  # a drafter's usual step, checked at once
        if not 0 <= num_rows <= min(num_tokens, self._max_rows):
            _check_range("number of logits rows", num_rows, 0, min(num_tokens, self._max_rows))
        if len(self._history) + num_tokens > self.context_size:
            raise ContextFull(
                f"{num_tokens} tokens after {len(self._history)} exceed the context of "
                f"{self.context_size}; shorten the conversation or ask for a larger context"
            )
        if not num_tokens:
            return
        if num_tokens <= _FEW_TOKENS:
            lowest, highest = min(tokens), max(tokens)
        else:
            ids = np.asarray(tokens)
            lowest, highest = int(ids.min()), int(ids.max())
        if lowest < 0 or highest >= self.vocab_size:
            raise BackendError(
                f"token ids {lowest}..{highest} were fed; expected 0..{self.vocab_size - 1}: "
                "feed ids of this model's vocabulary"
            )

    def _decode(self, tokens: Sequence[int], num_rows: int) -> Logits:
        context, batch, start, num_tokens = (
            self._context,
            self._batch,
            len(self._history),
            len(tokens),
        )
        batch.n_tokens = num_tokens
        if num_tokens <= _FEW_TOKENS:
            # Numpy's conversion of a list takes longer than that.
            for index, token in enumerate(tokens):
                self._tokens[index], self._positions[index] = token, start + index
        else:
            self._tokens[:num_tokens] = tokens
            self._positions[:num_tokens] = self._ramp[start : start + num_tokens]
        if self._wanted != (num_tokens, num_rows):
            self._wanted = (num_tokens, num_rows)
            self._wants_row[:num_tokens] = 0
            self._wants_row[num_tokens - num_rows : num_tokens] = 1
        address = 0
        began = perf_counter()
        status = api.llama_decode(context, batch)
        if status == 0:
            # Both wait for a GPU to finish.
            if num_rows:
                address = self._logits_address(context)
            else:
                api.llama_synchronize(context)
        self._inside.seconds += perf_counter() - began
        if status:
            self._raise_failure(status, num_tokens)
        self._history.extend(tokens)
        if not num_rows:
            return self._no_rows
        return self._view(address, num_rows)

    def _view(self, address: int, num_rows: int) -> Logits:
        # The buffer moves when it grows: views of its old place must not be reused.
        if address != self._views_address:
            self._views.clear()
            self._views_address = address
        view = self._views.get(num_rows)
        if view is None:
            if not address:
                raise BackendError(
                    f"{self._weights.info.name} computed no logits; expected a model that "
                    "generates text: choose another file"
                )
            count = num_rows * self.vocab_size
            flat = np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))
            view = self._views[num_rows] = flat.reshape(num_rows, self.vocab_size)
        return view

    def _raise_failure(self, status: int, num_tokens: int) -> None:
        held = self._history
        start = len(held)
        if status < _INVALID_BATCH or (not self._can_rewind and status == _ABORTED):
            # What a recurrent state holds after a failure is unknown.
            api.llama_memory_clear(self._memory, False)
            held.clear()
        else:
            if self._can_rewind:
                api.llama_memory_seq_rm(self._memory, 0, start, -1)
            del held[api.llama_memory_seq_pos_max(self._memory, 0) + 1 :]
        reason = self._log.complaints()
        if status == _ABORTED:
            raise Cancelled(_stopped(len(held)))
        if status == _NO_ROOM:
            raise ContextFull(
                f"llama.cpp found no room for {num_tokens} tokens after {start}; shorten the "
                "conversation or ask for a larger context"
            )
        raise BackendError(
            f"llama.cpp could not compute {num_tokens} tokens after {start} (status {status}: "
            f"{reason}); try a smaller context or fewer layers on the GPU"
        )


def _check_range(what: str, found: int, lowest: int, highest: int) -> None:
    if not lowest <= found <= highest:
        raise BackendError(f"{what} is {found}; expected {lowest}..{highest}: ask for less or more")


def _stopped(length: int) -> str:
    return f"stopped with {length} tokens in memory; go on or ask again"
