"""Llama-architecture network in torch.

Parameter names are GGUF tensor names and RoPE turns interleaved pairs, so a state dict is exported
as it is. Owns the forward pass and the warm-start reader; must not know about data or files of a
run.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from metasd_local.starter.train.config import ModelShape

INITIAL_STD = 0.02


class Block(nn.Module):  # type: ignore[misc]
    """One pre-norm transformer layer."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        width, inner = shape.hidden_size, shape.intermediate_size
        self.num_heads = shape.num_heads
        self.attn_norm = nn.RMSNorm(width, eps=shape.rms_norm_eps)
        self.attn_q = nn.Linear(width, width, bias=False)
        self.attn_k = nn.Linear(width, width, bias=False)
        self.attn_v = nn.Linear(width, width, bias=False)
        self.attn_output = nn.Linear(width, width, bias=False)
        self.ffn_norm = nn.RMSNorm(width, eps=shape.rms_norm_eps)
        self.ffn_gate = nn.Linear(width, inner, bias=False)
        self.ffn_up = nn.Linear(width, inner, bias=False)
        self.ffn_down = nn.Linear(inner, width, bias=False)

    def forward(self, hidden: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Return the layer's output, (batch, window, hidden_size)."""
        hidden = hidden + self._attend(self.attn_norm(hidden), cosine, sine)
        return hidden + self.feed(hidden)

    def feed(self, hidden: Tensor) -> Tensor:
        """Return the feed-forward half's contribution, shaped as its input."""
        normed = self.ffn_norm(hidden)
        gated = functional.silu(self.ffn_gate(normed)) * self.ffn_up(normed)
        return self.ffn_down(gated)

    def _attend(self, normed: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        batch, window, width = normed.shape
        by_head = (batch, window, self.num_heads, width // self.num_heads)
        query = rotate(self.attn_q(normed).view(by_head).transpose(1, 2), cosine, sine)
        key = rotate(self.attn_k(normed).view(by_head).transpose(1, 2), cosine, sine)
        value = self.attn_v(normed).view(by_head).transpose(1, 2)
        mixed = attend(query, key, value)
        return self.attn_output(mixed.transpose(1, 2).reshape(batch, window, width))


class Llama(nn.Module):  # type: ignore[misc]
    """Causal language model; `state_dict()` keys are GGUF tensor names."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.blk = nn.ModuleList(Block(shape) for _ in range(shape.num_layers))
        self.output_norm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
        if not shape.tied_embeddings:
            self.output = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)
        self.apply(_initialise)
        residual_std = INITIAL_STD / (2 * shape.num_layers) ** 0.5
        for name, parameter in self.named_parameters():
            if "attn_output" in name or "ffn_down" in name:
                nn.init.normal_(parameter, std=residual_std)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits.

        tokens: (batch, window) int64; result: (batch, window, vocab_size), in the dtype of the
        running autocast.
        """
        return self.head(self.hidden(tokens))

    def hidden(self, tokens: Tensor) -> Tensor:
        """Return what `head` reads: (batch, window) int64 to (batch, window, hidden_size)."""
        hidden = self.token_embd(tokens)
        head_size = self.shape.hidden_size // self.shape.num_heads
        cosine, sine = rope_table(tokens.shape[1], head_size, self.shape.rope_theta, tokens.device)
        for block in self.blk:
            hidden = block(hidden, cosine, sine)
        return hidden

    def head(self, hidden: Tensor) -> Tensor:
        """Return the logits of hidden states, (..., hidden_size) to (..., vocab_size)."""
        matrix = self.token_embd if self.shape.tied_embeddings else self.output
        return functional.linear(self.output_norm(hidden), matrix.weight)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return causal attention, all shaped (batch, num_heads, window, head_size).

    On a CPU two plain products are twice as fast in bfloat16 as torch's fused attention.
    """
    if query.is_cuda:
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    window, head_size = query.shape[2:]
    future = torch.full((window, window), -torch.inf, dtype=query.dtype).triu(1)
    scores = (query * head_size**-0.5) @ key.transpose(-1, -2) + future
    return scores.softmax(dim=-1) @ value


def rope_table(
    window: int, head_size: int, theta: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return cosine and sine, each (window, head_size / 2) float32."""
    exponents = torch.arange(0, head_size, 2, device=device, dtype=torch.float32) / head_size
    positions = torch.arange(window, device=device, dtype=torch.float32)
    angles = torch.outer(positions, theta**-exponents)
    return angles.cos(), angles.sin()


def rotate(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each pair (2i, 2i + 1) by its position's angle.

    heads: (batch, num_heads, window, head_size).
    Source: RoFormer, arXiv 2104.09864, equation 34; llama.cpp's rope type NORM.
    """
    even, odd = heads[..., 0::2], heads[..., 1::2]
    turned = torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), dim=-1)
    return turned.flatten(-2).to(heads.dtype)


def place(model: Llama) -> torch.device:
    """Move the model to the GPU if there is one; return where it is."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    return device


def load_warm_start(folder: Path) -> Llama:
    """Build the model described by config.json with the weights of target.npz.

    Raises: FileNotFoundError, KeyError (a field or tensor is missing), RuntimeError (a shape
    differs).
    """
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = Llama(ModelShape(**{name: fields[name] for name in ModelShape.__slots__}))
    with np.load(folder / "target.npz") as arrays:
        state = {f"{name}.weight": torch.from_numpy(arrays[name]).float() for name in arrays.files}
    model.load_state_dict(state)
    return model


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INITIAL_STD)
