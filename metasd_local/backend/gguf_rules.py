"""Facts of a model's header that llama.cpp takes for granted and answers with an abort.

Found by altering the headers of small models until llama.cpp ended the process. Everything else
that is wrong with a header ends in an error message of llama.cpp's own.
Source: llama.cpp, src/llama-model.cpp (load_hparams), src/llama-vocab.cpp, ggml-cpu/ops.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from metasd_local.backend.gguf_header import Header, Tensor
from metasd_local.backend.gguf_strings import StringArray
from metasd_local.errors import ModelError
from metasd_local.model_files import repair_advice

_MAX_LAYERS = 512
_MAX_EXPERTS = 1024
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
_EPSILONS = ("layer_norm_rms_epsilon", "layer_norm_epsilon", "group_norm_epsilon")
_F32, _F16, _BF16 = 0, 1, 30
_NO_WEIGHT_TYPES = {9: "Q8_1", 15: "Q8_K", 24: "I8", 25: "I16", 27: "I64", 28: "F64"}
_I32 = 26
_TABLE_OF_IDS = "tid2eid"
_F32_NAMES = ("norm.weight", "ssm_a", "ssm_d", "ssm_conv1d.weight", "ssm_conv1d.bias")


def check_header(header: Header, path: Path) -> None:
    """Raise ModelError if a fact of the header would end the process."""
    for rules in (_layers, _rope, _experts, _scalars, _tensors, _tokens):
        for found, expected in rules(header):
            raise ModelError(f"{path} {found}; expected {expected}: {repair_advice(path)}")


def _layers(header: Header) -> Iterator[tuple[str, str]]:
    architecture = header.scalars.get("general.architecture")
    num_layers = header.scalars.get(f"{architecture}.block_count", 1)
    if not 1 <= _as_number(num_layers) <= _MAX_LAYERS:
        yield f"has {num_layers} layers", f"1 to {_MAX_LAYERS}"
    num_extra = header.scalars.get(f"{architecture}.nextn_predict_layers", 0)
    if _as_number(num_extra) > _as_number(num_layers):
        yield f"has {num_extra} layers for later tokens", f"at most its {num_layers} layers"


def _rope(header: Header) -> Iterator[tuple[str, str]]:
    architecture = header.scalars.get("general.architecture")
    width, num_heads, key_size, key_size_in_window, num_rotated, num_rotated_in_window = (
        int(_as_number(header.scalars.get(f"{architecture}.{name}", 0)))
        for name in (
            "embedding_length",
            "attention.head_count",
            "attention.key_length",
            "attention.key_length_swa",
            "rope.dimension_count",
            "rope.dimension_count_swa",
        )
    )
    head_size = key_size or width // max(num_heads, 1)
    for rotated, size in (
        (num_rotated, head_size),
        (num_rotated_in_window or num_rotated, key_size_in_window or head_size),
    ):
        if rotated > size > 0 or rotated % 2:
            yield f"rotates {rotated} of {size} numbers per head", "an even number of them"
    # This one does not abort, it never ends.
    if num_heads and header.scalars.get(f"{architecture}.rope.dimension_count") == 0:
        yield "rotates none of the numbers of a head", "some of them"


def _experts(header: Header) -> Iterator[tuple[str, str]]:
    architecture = header.scalars.get("general.architecture")
    prefix = f"{architecture}.expert_"
    count, groups, used_groups = (
        _as_number(header.scalars.get(f"{prefix}{name}", 0))
        for name in ("count", "group_count", "group_used_count")
    )
    used = _as_number(header.scalars.get(f"{prefix}used_count", 0))
    used_per_layer = header.arrays.get(f"{prefix}used_count")
    if isinstance(used_per_layer, np.ndarray) and used_per_layer.size:
        used = _as_number(used_per_layer.max().item())
    if count <= 1 and str(architecture).startswith("hunyuan"):
        # llama.cpp takes such a model for one without experts, whatever else it says.
        return
    if count > _MAX_EXPERTS:
        yield f"has {count:.0f} experts", f"at most {_MAX_EXPERTS}"
    if used > count or (count and not used):
        yield f"uses {used:.0f} of {count:.0f} experts", "some of them"
    has_groups = groups > 1
    if groups >= max(count, 1) or (has_groups and (count % groups or not 0 < used_groups < groups)):
        yield f"uses {used_groups:.0f} of {groups:.0f} groups of experts", "some equal groups"


def _scalars(header: Header) -> Iterator[tuple[str, str]]:
    for key, value in header.scalars.items():
        if key.endswith(_EPSILONS) and not _as_number(value) >= 0:
            yield f"gives {key!r} the value {value}", "0 or more"
        if key.endswith(".rope.scaling.type") and value not in _ROPE_SCALINGS:
            yield f"has the rope scaling {value!r}", f"one of {', '.join(_ROPE_SCALINGS)}"


def _tensors(header: Header) -> Iterator[tuple[str, str]]:
    for tensor in header.tensors.values():
        type_id = tensor.type_id
        if type_id in _NO_WEIGHT_TYPES:
            yield f"stores {tensor.name!r} as {_NO_WEIGHT_TYPES[type_id]}", "a type of weights"
        if type_id == _I32 and _TABLE_OF_IDS not in tensor.name:
            yield f"stores {tensor.name!r} as I32", "a type of weights"
        if type_id != _F32 and _must_be_f32(tensor):
            yield f"stores {tensor.name!r} in type {type_id}", "F32"


def _must_be_f32(tensor: Tensor) -> bool:
    if tensor.name.endswith(_F32_NAMES):
        return True
    is_bias = tensor.name.endswith(".bias") and tensor.type_id in (_F16, _BF16)
    return len(tensor.shape) == 1 and not is_bias


def _tokens(header: Header) -> Iterator[tuple[str, str]]:
    tokens = header.arrays.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, StringArray):
        return
    duplicate = tokens.find_duplicate()
    if duplicate is not None:
        yield f"holds the token {duplicate!r} twice", "each token once"
    if header.scalars.get("tokenizer.ggml.model") == "llama":
        missing = _missing_byte(tokens)
        if missing is not None:
            yield f"has no token for the byte 0x{missing:02X}", "one for every byte"


def _missing_byte(tokens: StringArray) -> int | None:
    """Return a byte a SentencePiece vocabulary cannot encode: asking for it aborts."""
    raw = tokens.data.tobytes()
    for byte in range(256):
        for text in (b"<0x%02X>" % byte, bytes([byte])):
            if len(text).to_bytes(8, "little") + text in raw:
                break
        else:
            return byte
    return None


def _as_number(value: object) -> float:
    """Return a number for comparisons; 0 for what is none, which llama.cpp itself refuses."""
    return float(value) if isinstance(value, int | float) else 0.0
