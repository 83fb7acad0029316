"""What a network is trained to lower, and how the result is measured.

Owns the loss functions; each takes a whole batch, so that torch.compile can fuse it.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from metasd_local.starter.train.model import Llama

SMALLEST_REST = 1e-6


def text_loss(model: Llama, windows: Tensor, bfloat16: bool) -> Tensor:
    """Return the mean cross-entropy of windows (batch, window + 1), in nats per token."""
    with torch.autocast(windows.device.type, dtype=torch.bfloat16, enabled=bfloat16):
        logits = model(windows[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())


def distillation_loss(
    model: Llama, tokens: Tensor, leading: Tensor, probs: Tensor, bfloat16: bool
) -> Tensor:
    """Return the cross-entropy against the target, in nats per answer token.

    tokens: (batch, window). leading, probs: (batch, window, num_leading), the target's likeliest
    next tokens; all other tokens count as one. Positions whose probs are all 0 count for nothing.
    """
    with torch.autocast(tokens.device.type, dtype=torch.bfloat16, enabled=bfloat16):
        logits = model(tokens)
    log_probs = functional.log_softmax(logits.float(), dim=-1).gather(-1, leading)
    rest = (1.0 - log_probs.exp().sum(dim=-1)).clamp_min(SMALLEST_REST)
    target_rest = (1.0 - probs.sum(dim=-1)).clamp_min(0.0)
    per_token = -(probs * log_probs).sum(dim=-1) - target_rest * rest.log()
    counted = (probs.sum(dim=-1) > 0).float()
    return (per_token * counted).sum() / counted.sum().clamp_min(1.0)


def held_out_loss(model: Llama, windows: NDArray[np.int64], batch_size: int) -> float:
    """Return nats per token over windows (num_windows, window + 1), at least one."""
    device = next(model.parameters()).device
    total = 0.0
    with torch.inference_mode():
        for first in range(0, len(windows), batch_size):
            batch = torch.from_numpy(windows[first : first + batch_size]).to(device)
            total += float(text_loss(model, batch, bfloat16=False)) * len(batch)
    return total / len(windows)
