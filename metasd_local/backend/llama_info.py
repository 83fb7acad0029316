"""What a loaded GGUF file says of its model, and whether this package can use it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from llama_cpp import llama_cpp as api

from metasd_local.backend.library import devices
from metasd_local.backend.llama_vocabulary import LlamaVocabulary
from metasd_local.errors import IncompatibleVocabulary, ModelError
from metasd_local.model_files import size_of_parts

Rollback: TypeAlias = Literal["exact", "none"]

_NO_VOCABULARY = 0
_KEY_VALUE_BYTES = 2


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a GGUF file says of its model."""

    path: Path
    architecture: str
    name: str
    """The file's own name for the model, or the stem of the path."""
    file_bytes: int
    """Size of the file, or of all its parts."""
    num_parameters: int
    trained_context: int
    """Most tokens the model was trained on."""
    memory_bytes_per_token: int
    """Bytes of token memory per token at 16 bits, taking all layers to be like the first."""
    chat_template: str | None
    """Jinja source; not to be trusted."""
    bos_text: str
    """Text of the token that begins a sequence; empty if there is none."""
    eos_text: str
    """Text of the token that ends a sequence; empty if there is none."""
    rollback: Rollback
    """`none` for recurrent and hybrid models: they cannot forget their last tokens."""
    num_layers: int
    has_window: bool
    """Whether some layers look at a sliding window only."""
    devices: tuple[str, ...]
    """Names of the devices its layers may lie on."""


def refusal(model: int, path: Path) -> ModelError | None:
    """Return why a loaded model cannot generate text token by token, None if it can."""
    expected = "expected a model that generates text token by token: choose another file"
    if api.llama_vocab_type(api.llama_model_get_vocab(model)) == _NO_VOCABULARY:
        return IncompatibleVocabulary(f"{path} has no vocabulary; {expected}")
    if api.llama_model_has_encoder(model) or not api.llama_model_has_decoder(model):
        return ModelError(f"{path} needs an encoder; {expected}")
    if api.llama_model_is_diffusion(model):
        return ModelError(f"{path} is a diffusion model; {expected}")
    return None


def read_info(model: int, path: Path, vocabulary: LlamaVocabulary, *, uses_gpu: bool) -> ModelInfo:
    """Read the facts of a loaded model."""
    architecture = _metadata(model, "general.architecture") or "unknown"
    num_heads = int(api.llama_model_n_head(model))
    head_size = int(api.llama_model_n_embd(model)) // max(num_heads, 1)
    key_size, value_size = (
        _number(model, f"{architecture}.attention.{kind}_length", head_size)
        for kind in ("key", "value")
    )
    is_recurrent = api.llama_model_is_recurrent(model) or api.llama_model_is_hybrid(model)
    return ModelInfo(
        path=path,
        architecture=architecture,
        name=_metadata(model, "general.name") or path.stem,
        file_bytes=size_of_parts(path),
        num_parameters=int(api.llama_model_n_params(model)),
        trained_context=int(api.llama_model_n_ctx_train(model)),
        memory_bytes_per_token=int(
            api.llama_model_n_layer(model)
            * api.llama_model_n_head_kv(model)
            * (key_size + value_size)
            * _KEY_VALUE_BYTES
        ),
        chat_template=_metadata(model, "tokenizer.chat_template"),
        bos_text=_text(model, vocabulary, "bos", vocabulary.bos),
        eos_text=_text(model, vocabulary, "eos", vocabulary.eos),
        rollback="none" if is_recurrent else "exact",
        num_layers=int(api.llama_model_n_layer(model)),
        has_window=api.llama_model_n_swa(model) > 0,
        devices=tuple(device.name for device in devices() if device.kind == "cpu" or uses_gpu),
    )


def _metadata(model: int, key: str) -> str | None:
    raw_key = key.encode()
    length = api.llama_model_meta_val_str(model, raw_key, None, 0)
    if length < 0:
        return None
    buffer = ctypes.create_string_buffer(length + 1)
    api.llama_model_meta_val_str(model, raw_key, buffer, length + 1)
    return buffer.value.decode("utf-8", "replace")


def _number(model: int, key: str, default: int) -> int:
    text = _metadata(model, key)
    return int(text) if text is not None and text.isdecimal() else default


def _text(model: int, vocabulary: LlamaVocabulary, name: str, token: int | None) -> str:
    # Where a file names no such token llama.cpp assumes one, which may be an ordinary word.
    if token is None or not (
        _metadata(model, f"tokenizer.ggml.{name}_token_id")
        or api.llama_vocab_is_control(api.llama_model_get_vocab(model), token)
    ):
        return ""
    return vocabulary.text(token)
