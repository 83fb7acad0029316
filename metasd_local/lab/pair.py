"""Writes a random target and a random drafter as GGUF files: real compute without a download.

Their texts mean nothing and the drafts never fit; they serve emulated acceptance only.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metasd_local.backend.gguf import check_gguf
from metasd_local.errors import ModelError, UsageError

_LETTERS = "etaoinshrdlcumwfgypbvkjxqz"
_CONTEXT_TOKENS = 8192
_HEAD_SIZE = 64
# Width over layers of small language models is near this.
_USUAL_ASPECT = 32
_MOST_LAYERS = 128
# A softmax over logits of this spread leaves a few dozen likely tokens, as a language model's
# does: the sampler chain must not meet rows that are flatter than real ones.
_LOGITS_DEVIATION = 5.0
_BLOCK_SIZE = 32
_BLOCK = np.dtype([("scale", "<f2"), ("weights", "i1", (_BLOCK_SIZE,))])  # Q8_0
_LARGEST_WEIGHT = 127
_WEIGHT_BYTES = {"Q8_0": _BLOCK.itemsize / _BLOCK_SIZE, "BF16": 2.0}


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a llama-architecture model whose embedding is also its output matrix."""

    vocabulary_size: int
    width: int
    num_layers: int

    @property
    def inner_width(self) -> int:
        """Return the width of the feed-forward part."""
        return round(self.width * 8 / 3 / _BLOCK_SIZE) * _BLOCK_SIZE

    @property
    def num_heads(self) -> int:
        """Return the number of query heads."""
        return self.width // _HEAD_SIZE

    @property
    def num_kv_heads(self) -> int:
        """Return the number of heads with keys and values: at most a third of the heads."""
        most = max(self.num_heads // 3, 1)
        return max(count for count in range(1, most + 1) if self.num_heads % count == 0)

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the name and the shape (outputs, inputs) or (width,) of every tensor, in order."""
        width, inner, kv_width = self.width, self.inner_width, self.num_kv_heads * _HEAD_SIZE
        yield "token_embd.weight", (self.vocabulary_size, width)
        yield "output_norm.weight", (width,)
        for layer in range(self.num_layers):
            for name, shape in (
                ("attn_norm", (width,)),
                ("attn_q", (width, width)),
                ("attn_k", (kv_width, width)),
                ("attn_v", (kv_width, width)),
                ("attn_output", (width, width)),
                ("ffn_norm", (width,)),
                ("ffn_gate", (inner, width)),
                ("ffn_up", (inner, width)),
                ("ffn_down", (width, inner)),
            ):
                yield f"blk.{layer}.{name}.weight", shape

    @property
    def num_params(self) -> int:
        """Return the number of weights."""
        return sum(math.prod(shape) for _, shape in self.tensors())


def make_pair(
    directory: Path,
    *,
    target_params: int,
    drafter_params: int,
    vocabulary: int | Path,
    quantisation: str = "Q8_0",
    seed: int = 0,
) -> tuple[Path, ...]:
    """Write a target and a drafter and return their paths.

    vocabulary: a number of tokens, or the GGUF file whose tokenizer is copied. quantisation: one
    of `options.QUANTISATIONS`. The same arguments write the same bytes. Nothing is overwritten, and
    no file is left half written.
    Raises UsageError and ModelError.
    """
    tokenizer = _tokenizer(vocabulary)
    size = len(tokenizer["tokenizer.ggml.tokens"][0])
    files = [
        (
            directory / f"{role}-{num_params / 1e6:g}M-{quantisation}.gguf",
            find_shape(num_params, size),
        )
        for role, num_params in (("target", target_params), ("drafter", drafter_params))
    ]
    for path, _ in files:
        if path.exists():
            raise UsageError(f"{path} exists; choose another directory or remove the file")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for index, (path, shape) in enumerate(files):
            _write(path, shape, tokenizer, quantisation, (seed, index))
    except OSError as error:
        num_bytes = sum(shape.num_params for _, shape in files) * _WEIGHT_BYTES[quantisation]
        raise UsageError(
            f"cannot write to {directory}: {error.strerror or error}; expected a writable "
            f"directory with {num_bytes / 0.95e9:.1f} GB free"
        ) from error
    return tuple(path for path, _ in files)


def find_shape(num_params: int, vocabulary_size: int) -> Shape:
    """Return the shape of about `num_params` weights with the most usual ratio of its sides."""
    best, best_distance = None, math.inf
    for width in range(_HEAD_SIZE, 16_384 + 1, _HEAD_SIZE):
        outside = Shape(vocabulary_size, width, 0).num_params
        per_layer = Shape(vocabulary_size, width, 1).num_params - outside
        shape = Shape(vocabulary_size, width, round((num_params - outside) / per_layer))
        if not 1 <= shape.num_layers <= _MOST_LAYERS:
            continue
        if abs(shape.num_params - num_params) > 0.1 * num_params:
            continue
        distance = abs(math.log(width / shape.num_layers / _USUAL_ASPECT))
        if distance < best_distance:
            best, best_distance = shape, distance
    if best is None:
        least = Shape(vocabulary_size, _HEAD_SIZE, 1).num_params
        raise UsageError(
            f"no model with {vocabulary_size} tokens has about {num_params / 1e6:g}M parameters; "
            f"expected {math.ceil(least / 1e6)}M or more"
        )
    return best


def _write(
    path: Path,
    shape: Shape,
    tokenizer: dict[str, Any],
    quantisation: str,
    seed: tuple[int, int],
) -> None:
    gguf = _import_gguf()
    partial = path.with_name(f"{path.name}.partial")
    writer = gguf.GGUFWriter(partial, "llama")
    writer.add_name(f"{path.stem} (random weights, for emulation only)")
    writer.add_context_length(_CONTEXT_TOKENS)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.num_layers)
    writer.add_feed_forward_length(shape.inner_width)
    writer.add_head_count(shape.num_heads)
    writer.add_head_count_kv(shape.num_kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(_HEAD_SIZE)
    for key, value_and_types in tokenizer.items():
        writer.add_key_value(key, *value_and_types)
    for name, sizes in shape.tensors():
        num_weights = math.prod(sizes)
        if len(sizes) == 1:
            writer.add_tensor_info(name, sizes, np.dtype(np.float32), 4 * num_weights)
        else:
            num_bytes = int(num_weights * _WEIGHT_BYTES[quantisation])
            kind = gguf.GGMLQuantizationType[quantisation]
            writer.add_tensor_info(name, sizes, np.dtype(np.float16), num_bytes, kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for index, (name, sizes) in enumerate(shape.tensors()):
            gain = _LOGITS_DEVIATION if name == "token_embd.weight" else 1.0
            tensor = _random_tensor(sizes, gain, (*seed, index))
            if len(sizes) > 1 and quantisation == "BF16":
                tensor = _bfloat16(tensor)
            writer.write_tensor_data(tensor)
        writer.close()
        os.replace(partial, path)
    finally:
        writer.close()
        partial.unlink(missing_ok=True)


def _random_tensor(sizes: tuple[int, ...], gain: float, seed: tuple[int, ...]) -> NDArray[Any]:
    """Return a norm's ones, or Q8_0 blocks that map unit variance to the deviation `gain`."""
    if len(sizes) == 1:
        return np.ones(sizes, np.float32)
    num_out, num_in = sizes
    blocks = np.empty((num_out, num_in // _BLOCK_SIZE), _BLOCK)
    # Quantised weights are drawn directly: that is faster than drawing and quantising them.
    blocks["weights"] = np.random.default_rng(seed).integers(
        -_LARGEST_WEIGHT, _LARGEST_WEIGHT, blocks["weights"].shape, np.int8, endpoint=True
    )
    deviation = math.sqrt(_LARGEST_WEIGHT * (_LARGEST_WEIGHT + 1) / 3)
    blocks["scale"] = gain / math.sqrt(num_in) / deviation
    return blocks


def _bfloat16(blocks: NDArray[Any]) -> NDArray[np.uint16]:
    """Return the bits of the blocks' weights in BF16, cut: the upper half of single precision."""
    weights = blocks["weights"] * blocks["scale"][..., None].astype(np.float32)
    return (weights.view(np.uint32) >> 16).astype(np.uint16).reshape(len(blocks), -1)


def _tokenizer(vocabulary: int | Path) -> dict[str, Any]:
    """Return what a file says of its tokenizer: key -> (value, type, type of elements if any)."""
    gguf = _import_gguf()
    if isinstance(vocabulary, int):
        return _synthetic_tokenizer(vocabulary, gguf.GGUFValueType, gguf.TokenType)
    check_gguf(vocabulary)
    copied = {
        key: (field.contents(), *field.types)
        for key, field in gguf.GGUFReader(vocabulary).fields.items()
        if key.startswith("tokenizer.")
    }
    if "tokenizer.ggml.tokens" not in copied:
        raise ModelError(f"{vocabulary} has no tokenizer; expected a language model")
    return copied


def _synthetic_tokenizer(size: int, types: Any, kinds: Any) -> dict[str, Any]:
    """Return byte-level BPE: an end token, the bytes, then joined pairs of letters and of pairs."""
    first_tokens = ["<|end|>", *_byte_texts()]
    num_merges = size - len(first_tokens)
    assert num_merges >= 0, f"a vocabulary of {size} tokens has no room for the bytes"
    merges = [f"{first} {second}" for first in _LETTERS for second in _LETTERS]
    pairs = [merge.replace(" ", "") for merge in merges]
    merges += [f"{first} {second}" for first in pairs for second in pairs]
    del merges[num_merges:]
    tokens = first_tokens + [merge.replace(" ", "") for merge in merges]
    token_kinds = [int(kinds.CONTROL)] + [int(kinds.NORMAL)] * (size - 1)
    return {
        "tokenizer.ggml.model": ("gpt2", types.STRING),
        "tokenizer.ggml.pre": ("gpt-2", types.STRING),
        "tokenizer.ggml.tokens": (tokens, types.ARRAY, types.STRING),
        "tokenizer.ggml.token_type": (token_kinds, types.ARRAY, types.INT32),
        "tokenizer.ggml.merges": (merges, types.ARRAY, types.STRING),
        "tokenizer.ggml.eos_token_id": (0, types.UINT32),
        "tokenizer.ggml.add_bos_token": (False, types.BOOL),
    }


def _byte_texts() -> list[str]:
    """Return the printable stand-in of every byte. Source: GPT-2, encoder.py, bytes_to_unicode."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _import_gguf() -> Any:
    try:
        import gguf
    except ImportError:
        raise UsageError("writing GGUF files needs the gguf package: pip install gguf") from None
    return gguf
