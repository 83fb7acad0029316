"""The target's own answers to training prompts, with its leading probabilities, for distillation.

Owns batched generation and the file of answers; must not know about drafters.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from metasd_local.starter.train.data import END
from metasd_local.starter.train.model import Llama, place, rope_table, rotate

NUM_LEADING = 16
NUM_BATCHES_TOGETHER = 8


@dataclass(frozen=True, slots=True)
class Answers:
    """Prompts and answers joined to one stream; row i tells what the target expected at token i."""

    tokens: NDArray[np.uint16]
    """(num_tokens,)."""
    leading: NDArray[np.uint16]
    """(num_tokens, NUM_LEADING): the target's likeliest tokens."""
    probs: NDArray[np.float16]
    """(num_tokens, NUM_LEADING): their probabilities; all 0 inside a prompt."""


class Generator:
    """Continue many prompts at once, each row at the same position, keys and values kept."""

    def __init__(self, model: Llama, temperature: float, max_new: int, seed: int) -> None:
        self.device = place(model)
        self.model = model.bfloat16().eval()
        self.temperature = temperature
        self.max_new = max_new
        self.noise = torch.Generator(self.device).manual_seed(seed)

    def answer(self, prompts: Sequence[Sequence[int]]) -> Answers:
        """Answer prompts of similar length; even rows greedily, odd rows sampled.

        A row ends at END or after max_new tokens. Prompts longer than the shortest are fed token
        by token while the others already answer, so no padding is ever seen.
        """
        with torch.inference_mode():
            return self._answer(prompts)

    def _answer(self, prompts: Sequence[Sequence[int]]) -> Answers:
        shortest = min(len(prompt) for prompt in prompts)
        limit = max(len(prompt) for prompt in prompts) + self.max_new
        shape, count = self.model.shape, len(prompts)
        head_size = shape.hidden_size // shape.num_heads
        at = {"device": self.device}
        kept = torch.zeros((shape.num_layers, 2, count, shape.num_heads, limit, head_size), **at)
        tokens = torch.full((count, limit), END, **at)
        lengths = torch.tensor([len(prompt) for prompt in prompts], **at)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = torch.tensor(prompt)
        leading = torch.zeros((count, limit, NUM_LEADING), dtype=torch.int64, **at)
        probs = torch.zeros((count, limit, NUM_LEADING), dtype=torch.float16, **at)
        ends = torch.minimum(lengths + self.max_new, torch.tensor(limit, **at))
        rows = torch.arange(count, **at)
        fed = tokens[:, :shortest]
        for position in range(shortest, limit):
            logits = self._step(fed, position - fed.shape[1], kept).float()
            best = functional.softmax(logits, dim=-1).topk(NUM_LEADING)
            answering = (position >= lengths[rows]) & (position < ends[rows])
            chosen = torch.where(rows % 2 == 0, best.indices[:, 0], self._sample(logits))
            tokens[rows, position] = torch.where(answering, chosen, tokens[rows, position])
            leading[rows, position] = best.indices
            probs[rows, position] = (best.values * answering[:, None]).half()
            ends[rows[answering & (chosen == END)]] = position + 1
            alive = ends[rows] > position + 1
            if not bool(alive.any()):
                break
            if int(alive.sum()) <= 0.75 * len(rows):
                rows, kept = rows[alive], kept[:, :, alive]
            fed = tokens[rows, position : position + 1]
        used = torch.arange(limit, **at) < ends[:, None]
        return Answers(
            tokens=tokens[used].cpu().numpy().astype(np.uint16),
            leading=leading[used].cpu().numpy().astype(np.uint16),
            probs=probs[used].cpu().numpy(),
        )

    def _sample(self, logits: Tensor) -> Tensor:
        uniform = torch.rand(logits.shape, generator=self.noise, device=self.device).clamp_min(1e-9)
        return (logits / self.temperature - torch.log(-torch.log(uniform))).argmax(dim=-1)

    def _step(self, fed: Tensor, past: int, kept: Tensor) -> Tensor:
        """Feed (count, width) tokens after `past` positions; return the last ones' logits.

        Attention runs in float32: for single queries it is twice as fast so on a CPU.
        """
        model = self.model
        count, width = fed.shape
        shape = model.shape
        head_size = shape.hidden_size // shape.num_heads
        cosine, sine = rope_table(past + width, head_size, shape.rope_theta, fed.device)
        cosine, sine = cosine[past:], sine[past:]
        hidden = model.token_embd(fed)
        for index, block in enumerate(model.blk):
            normed = block.attn_norm(hidden)
            by_head = (count, width, shape.num_heads, head_size)
            query = rotate(block.attn_q(normed).view(by_head).transpose(1, 2), cosine, sine)
            key = rotate(block.attn_k(normed).view(by_head).transpose(1, 2), cosine, sine)
            keys, values = kept[index, 0], kept[index, 1]
            keys[:, :, past : past + width] = key
            values[:, :, past : past + width] = block.attn_v(normed).view(by_head).transpose(1, 2)
            mixed = functional.scaled_dot_product_attention(
                query.float(),
                keys[:, :, : past + width],
                values[:, :, : past + width],
                is_causal=width > 1,
            )
            hidden = hidden + block.attn_output(mixed.bfloat16().transpose(1, 2).flatten(2))
            hidden = hidden + block.feed(hidden)
        return model.head(hidden[:, -1])


def write_answers(
    path: Path,
    generator: Generator,
    prompts: Iterable[Sequence[int]],
    batch_size: int,
    max_tokens: int,
    report: Callable[[int], None],
) -> None:
    """Answer prompts until max_tokens answer tokens are there, and leave them at path (.npz).

    report: takes the number of answer tokens so far, once per batch. Prompts of similar length
    are answered together.
    """
    parts: list[Answers] = []
    num_answered = 0
    waiting = iter(prompts)
    while num_answered < max_tokens:
        together = sorted(islice(waiting, NUM_BATCHES_TOGETHER * batch_size), key=len)
        if not together:
            break
        for start in range(0, len(together), batch_size):
            part = generator.answer(together[start : start + batch_size])
            parts.append(part)
            num_answered += int((part.probs[:, 0] > 0).sum())
            report(num_answered)
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        tokens=np.concatenate([part.tokens for part in parts]),
        leading=np.concatenate([part.leading for part in parts]),
        probs=np.concatenate([part.probs for part in parts]),
    )
    partial.replace(path)


def read_answers(path: Path) -> Answers:
    """Read what write_answers left."""
    with np.load(path) as arrays:
        return Answers(arrays["tokens"], arrays["leading"], arrays["probs"])


def draw_answers(
    answers: Mapping[str, Answers],
    mixture: Mapping[str, float],
    batch_size: int,
    window: int,
    seed: int,
    step: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Draw one step's windows; the same seed and step always give the same ones.

    Returns input tokens (batch_size, window) and, for the token after each, the target's leading
    tokens and probabilities (batch_size, window, NUM_LEADING).
    """
    rng = np.random.default_rng((seed, step))
    domains = sorted(mixture)
    shares = np.array([mixture[domain] for domain in domains])
    tokens = np.empty((batch_size, window), dtype=np.int64)
    leading = np.empty((batch_size, window, NUM_LEADING), dtype=np.int64)
    probs = np.empty((batch_size, window, NUM_LEADING), dtype=np.float32)
    for row, index in enumerate(rng.choice(len(domains), size=batch_size, p=shares / shares.sum())):
        part = answers[domains[index]]
        start = int(rng.integers(0, len(part.tokens) - window))
        tokens[row] = part.tokens[start : start + window]
        leading[row] = part.leading[start + 1 : start + window + 1]
        probs[row] = part.probs[start + 1 : start + window + 1]
    return tokens, leading, probs
