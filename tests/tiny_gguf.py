"""Writes tiny GGUF models with random weights, for tests that need a real llama.cpp.

The logits of a model are peaked (standard deviation near 4), so greedy text neither repeats one
token nor depends on rounding; models that share a seed and differ in `disturbance` agree often,
like a target and its drafter.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

import gguf
import numpy as np
from numpy.typing import NDArray

Architecture: TypeAlias = Literal["llama", "gemma3", "mamba", "lfm2"]
"""Full attention, sliding-window attention, recurrent, hybrid."""

CONTROL_TOKENS = ("<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
"""Texts of the control tokens, which are the first ids; `<|end|>` ends a generation."""
BEGIN, END = 0, 1
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NUM_BYTES = 256
NUM_HEADS = 4


def write_tiny_gguf(
    path: Path,
    *,
    architecture: Architecture = "llama",
    vocab_size: int = 320,
    seed: int = 0,
    disturbance: float = 0.0,
    num_layers: int = 2,
    width: int = 64,
    context_length: int = 512,
    chat_template: str | None = CHAT_TEMPLATE,
    has_bos: bool = True,
    adds_bos: bool = False,
    pre_tokenizer: str = "gpt-2",
    tokenizer: str = "gpt2",
    texts: Mapping[int, str] | None = None,
    tensors_per_part: int = 0,
) -> Path:
    """Write a byte-level model with F32 weights and return `path`.

    vocab_size: control tokens, the 256 bytes, then merged pairs of letters; at least 262.
    disturbance: share of every weight's spread that is drawn anew, in [0, 1).
    has_bos: whether the file names a token that begins a sequence.
    pre_tokenizer: llama.cpp's name of the rule that splits a text before pairs are merged.
    tokenizer: `gpt2`, `rwkv`, `llama` (SentencePiece, a space before the first word), or
    `no_vocab` for a file without a vocabulary.
    texts: of tokens, in the place of the usual ones.
    tensors_per_part: if not 0, the model is split, and the path of its first part is returned.
    """
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=tensors_per_part)
    writer.add_name(path.stem)
    writer.add_context_length(context_length)
    writer.add_embedding_length(width)
    writer.add_block_count(num_layers)
    writer.add_layer_norm_rms_eps(1e-5)
    if tokenizer == "no_vocab":
        writer.add_tokenizer_model(tokenizer)
        writer.add_vocab_size(vocab_size)
    elif tokenizer == "llama":
        _add_sentence_pieces(writer, vocab_size, adds_bos)
    else:
        _add_vocabulary(writer, vocab_size, adds_bos, pre_tokenizer, tokenizer, texts or {})
    if has_bos:
        writer.add_bos_token_id(BEGIN)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    weights = _Weights(writer, seed, disturbance)
    weights.matrix("token_embd.weight", vocab_size, width, gain=float(np.sqrt(width)))
    weights.matrix("output.weight", vocab_size, width, gain=4.0)
    norm = "token_embd_norm" if architecture == "lfm2" else "output_norm"
    weights.vector(f"{norm}.weight", np.ones(width))
    if architecture == "mamba":
        _add_mamba(writer, weights, num_layers, width)
    else:
        _add_attention(writer, weights, num_layers, width, architecture)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    parts = sorted(path.parent.glob(f"{path.stem}-00001-of-*.gguf")) if tensors_per_part else []
    return parts[0] if parts else path


class _Weights:
    """Draws the tensors in a fixed order, each from its own stream."""

    def __init__(self, writer: gguf.GGUFWriter, seed: int, disturbance: float) -> None:
        self._writer = writer
        self._seed = seed
        self._disturbance = disturbance
        self._num_tensors = 0

    def vector(self, name: str, values: NDArray[np.float64]) -> None:
        self._writer.add_tensor(name, values.astype(np.float32))

    def matrix(self, name: str, num_out: int, num_in: int, *, gain: float = 1.0) -> None:
        """Add a matrix that maps unit-variance input to outputs with deviation `gain`."""
        self._num_tensors += 1
        values = np.random.default_rng((self._seed, self._num_tensors)).normal(
            size=(num_out, num_in)
        )
        if self._disturbance:
            key = (self._seed, self._num_tensors, round(self._disturbance * 1e6))
            other = np.random.default_rng(key).normal(size=values.shape)
            values = np.sqrt(1 - self._disturbance**2) * values + self._disturbance * other
        self.vector(name, values * (gain / np.sqrt(num_in)))


def _add_attention(
    writer: gguf.GGUFWriter,
    weights: _Weights,
    num_layers: int,
    width: int,
    architecture: Architecture,
) -> None:
    gemma, hybrid = architecture == "gemma3", architecture == "lfm2"
    head_size = width // NUM_HEADS
    inner = 2 * width
    writer.add_feed_forward_length(inner)
    writer.add_head_count(NUM_HEADS)
    writer.add_head_count_kv(
        [0, *[NUM_HEADS // 2] * (num_layers - 1)] if hybrid else NUM_HEADS // 2
    )
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(head_size)
    if gemma:
        writer.add_sliding_window(16)
    if hybrid:
        writer.add_shortconv_l_cache(3)
    for layer in range(num_layers):
        block = f"blk.{layer}"
        names = ["attn_norm", "ffn_norm"]
        if gemma:
            names += ["post_attention_norm", "post_ffw_norm"]
        if gemma or (hybrid and layer):
            weights.vector(f"{block}.attn_q_norm.weight", 2 * np.ones(head_size))
            weights.vector(f"{block}.attn_k_norm.weight", 2 * np.ones(head_size))
        for name in names:
            weights.vector(f"{block}.{name}.weight", np.ones(width))
        if hybrid and not layer:
            weights.matrix(f"{block}.shortconv.conv.weight", width, 3)
            weights.matrix(f"{block}.shortconv.in_proj.weight", 3 * width, width)
            weights.matrix(f"{block}.shortconv.out_proj.weight", width, width)
        else:
            weights.matrix(f"{block}.attn_q.weight", width, width, gain=2.0)
            weights.matrix(f"{block}.attn_k.weight", width // 2, width)
            weights.matrix(f"{block}.attn_v.weight", width // 2, width, gain=2.0)
            weights.matrix(f"{block}.attn_output.weight", width, width)
        weights.matrix(f"{block}.ffn_gate.weight", inner, width, gain=2.0)
        weights.matrix(f"{block}.ffn_up.weight", inner, width)
        weights.matrix(f"{block}.ffn_down.weight", width, inner)


def _add_mamba(writer: gguf.GGUFWriter, weights: _Weights, num_layers: int, width: int) -> None:
    inner, num_states, rank, kernel = 2 * width, 8, 4, 4
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(kernel)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(num_states)
    writer.add_ssm_time_step_rank(rank)
    for layer in range(num_layers):
        block = f"blk.{layer}"
        weights.vector(f"{block}.attn_norm.weight", np.ones(width))
        weights.matrix(f"{block}.ssm_in.weight", 2 * inner, width)
        weights.matrix(f"{block}.ssm_conv1d.weight", inner, kernel)
        weights.vector(f"{block}.ssm_conv1d.bias", np.zeros(inner))
        weights.matrix(f"{block}.ssm_x.weight", rank + 2 * num_states, inner)
        weights.matrix(f"{block}.ssm_dt.weight", inner, rank)
        weights.vector(f"{block}.ssm_dt.bias", np.zeros(inner))
        decay = np.arange(1.0, num_states + 1.0)
        weights.vector(f"{block}.ssm_a", -np.tile(decay, (inner, 1)))
        weights.vector(f"{block}.ssm_d", np.ones(inner))
        weights.matrix(f"{block}.ssm_out.weight", width, inner)


def _add_vocabulary(
    writer: gguf.GGUFWriter,
    vocab_size: int,
    adds_bos: bool,
    pre_tokenizer: str,
    tokenizer: str,
    texts: Mapping[int, str],
) -> None:
    num_pairs = vocab_size - len(CONTROL_TOKENS) - NUM_BYTES
    if not 1 <= num_pairs <= 26 * 26:
        raise ValueError(f"vocab_size {vocab_size} is outside 262..937")
    letters = "etaoinshrdlcumwfgypbvkjxqz"
    pairs = [first + second for first in letters for second in letters][:num_pairs]
    writer.add_tokenizer_model(tokenizer)
    writer.add_tokenizer_pre(pre_tokenizer)
    usual = enumerate([*CONTROL_TOKENS, *_byte_texts(), *pairs])
    writer.add_token_list([texts.get(token, text) for token, text in usual])
    writer.add_token_types(
        [gguf.TokenType.CONTROL] * len(CONTROL_TOKENS)
        + [gguf.TokenType.NORMAL] * (NUM_BYTES + num_pairs)
    )
    writer.add_token_merges([f"{pair[0]} {pair[1]}" for pair in pairs])
    writer.add_eos_token_id(END)
    writer.add_add_bos_token(adds_bos)
    writer.add_add_eos_token(False)


def _add_sentence_pieces(writer: gguf.GGUFWriter, vocab_size: int, adds_bos: bool) -> None:
    """Add control tokens, bytes, letters with and without a space before them, and spaces."""
    letters = "etaoinshrdlcumwfgypbvkjxqz"
    words = ["▁", *letters, *(f"▁{letter}" for letter in letters)]
    num_more = vocab_size - len(CONTROL_TOKENS) - NUM_BYTES - len(words)
    words += [f"unused {index}" for index in range(num_more)]
    kinds = gguf.TokenType
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(
        [*CONTROL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(NUM_BYTES)), *words]
    )
    writer.add_token_types(
        [kinds.CONTROL] * len(CONTROL_TOKENS)
        + [kinds.BYTE] * NUM_BYTES
        + [kinds.NORMAL] * len(words)
    )
    writer.add_token_scores([float(len(word)) for word in [""] * (vocab_size - len(words)) + words])
    writer.add_eos_token_id(END)
    writer.add_add_bos_token(adds_bos)
    writer.add_add_space_prefix(True)


def _byte_texts() -> list[str]:
    """Return the printable stand-in of every byte.

    Source: GPT-2's encoder.py, bytes_to_unicode.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    texts, num_shifted = [], 0
    for byte in range(NUM_BYTES):
        if byte in printable:
            texts.append(chr(byte))
        else:
            texts.append(chr(NUM_BYTES + num_shifted))
            num_shifted += 1
    return texts
