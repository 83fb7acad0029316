"""GGUF files: metadata, vocabulary, chat template and quantised tensors of one network.

Owns everything llama.cpp reads from a file; must not know how the weights were trained. The same
weights and settings always give the same bytes.
"""

import json
import os
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from metasd_local.starter.train.config import ExportSettings, ModelShape
from metasd_local.starter.train.data import END, PAD, SPECIAL_TOKENS

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{- '<|assistant|>' + message['content'] + '<|end|>' -}}"
    "{%- elif message['role'] == 'system' -%}"
    "{{- '<|system|>' + message['content'] -}}"
    "{%- else -%}"
    "{{- '<|user|>' + message['content'] -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
"""The training format, turn after turn: no white space between marks and contents."""


def file_name(name: str, num_parameters: int, type_name: str) -> str:
    """Return e.g. general-0.9M-F16.gguf."""
    millions = num_parameters / 1e6
    size = f"{millions:.0f}M" if millions >= 10 else f"{millions:.1f}M"
    return f"{name}-{size}-{type_name}.gguf"


def write_gguf(
    path: Path,
    name: str,
    shape: ModelShape,
    weights: dict[str, Tensor],
    tokenizer: Tokenizer,
    type_name: str,
    settings: ExportSettings,
) -> None:
    """Write one network, replacing the file at once when it is complete.

    weights: GGUF tensor name to values; matrices are stored as type_name, vectors as F32.
    """
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "llama")
    file_type = {
        "F16": gguf.LlamaFileType.MOSTLY_F16,
        "BF16": gguf.LlamaFileType.MOSTLY_BF16,
        "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    }[type_name]
    writer.add_name(name)
    writer.add_license(settings.licence)
    writer.add_size_label(f"{sum(values.numel() for values in weights.values()) / 1e6:.1f}M")
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.num_layers)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_heads)
    writer.add_head_count_kv(shape.num_heads)
    writer.add_layer_norm_rms_eps(shape.rms_norm_eps)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_rope_dimension_count(shape.hidden_size // shape.num_heads)
    _add_vocabulary(writer, tokenizer)
    for tensor_name in sorted(weights):
        values = weights[tensor_name].detach().float().cpu().numpy()
        stored, kind = _encode(values, type_name)
        writer.add_tensor(tensor_name, stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(partial, path)


def _add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    merges = [
        pair if isinstance(pair, str) else " ".join(pair)
        for pair in json.loads(tokenizer.to_str())["model"]["merges"]
    ]
    control = set(SPECIAL_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([text for text, _ in by_id])
    writer.add_token_types(
        [gguf.TokenType.CONTROL if text in control else gguf.TokenType.NORMAL for text, _ in by_id]
    )
    writer.add_token_merges(merges)
    writer.add_eos_token_id(END)
    writer.add_eot_token_id(END)
    writer.add_pad_token_id(PAD)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _encode(
    values: NDArray[np.float32], type_name: str
) -> tuple[NDArray[np.generic], gguf.GGMLQuantizationType]:
    if values.ndim == 1:
        return values, gguf.GGMLQuantizationType.F32
    kind = gguf.GGMLQuantizationType[type_name]
    return gguf.quants.quantize(values, kind), kind
