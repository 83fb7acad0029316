"""What a network is trained to lower, and how the result is measured.

Owns the loss functions; each takes a whole batch, so that torch.compile can fuse it.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from metasd_local.starter.train.data import ASSISTANT, END, USER
from metasd_local.starter.train.model import Llama

SMALLEST_REST = 1e-6


def text_loss(model: Llama, windows: Tensor, bfloat16: bool, prompt_weight: float) -> Tensor:
    """Return the weighted mean cross-entropy of windows (batch, window + 1), in nats per token.

    prompt_weight: of the tokens from a user's mark to the assistant's; all others weigh 1.
    """
    labels = windows[:, 1:]
    with torch.autocast(windows.device.type, dtype=torch.bfloat16, enabled=bfloat16):
        logits = model(windows[:, :-1])
    per_token = functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), reduction="none"
    )
    weights = torch.where(inside_prompt(windows), prompt_weight, 1.0).flatten()
    return (per_token * weights).sum() / weights.sum().clamp_min(1.0)


def inside_prompt(windows: Tensor) -> Tensor:
    """Tell which labels of windows (batch, window + 1) belong to a prompt, its marks included."""
    positions = torch.arange(windows.shape[1], device=windows.device).expand_as(windows)
    last_user = torch.where(windows == USER, positions, -1).cummax(dim=1).values[:, 1:]
    other = (windows == ASSISTANT) | (windows == END)
    last_other = torch.where(other, positions, -1).cummax(dim=1).values[:, :-1]
    return last_user > last_other


def distillation_loss(
    model: Llama, tokens: Tensor, leading: Tensor, probs: Tensor, bfloat16: bool
) -> Tensor:
    """Return the cross-entropy against the target, in nats per answer token.

    tokens: (batch, window). leading, probs: (batch, window, num_leading), the target's likeliest
    next tokens; all other tokens count as one. Positions whose probs are all 0 count for nothing.
    """
    counted = probs.sum(dim=-1) > 0
    with torch.autocast(tokens.device.type, dtype=torch.bfloat16, enabled=bfloat16):
        logits = model.head(model.hidden(tokens)[counted]).float()
    log_probs = logits.gather(-1, leading[counted]) - logits.logsumexp(dim=-1, keepdim=True)
    rest = (1.0 - log_probs.exp().sum(dim=-1)).clamp_min(SMALLEST_REST)
    target_rest = (1.0 - probs[counted].sum(dim=-1)).clamp_min(0.0)
    per_token = -(probs[counted] * log_probs).sum(dim=-1) - target_rest * rest.log()
    return per_token.sum() / counted.sum().clamp_min(1)


def unlikelihood_loss(model: Llama, windows: Tensor, is_repeated: Tensor, bfloat16: bool) -> Tensor:
    """Return the mean of -log(1 - probability) of the repeated tokens of windows, in nats.

    windows, is_repeated: (batch, window + 1); without a repeated token the mean is 0.
    Source: Welleck et al., arXiv 1908.04319, equation 4, on sequences of the model's own.
    """
    counted = is_repeated[:, 1:]
    with torch.autocast(windows.device.type, dtype=torch.bfloat16, enabled=bfloat16):
        logits = model.head(model.hidden(windows[:, :-1])[counted]).float()
    probs = logits.softmax(dim=-1).gather(-1, windows[:, 1:][counted].unsqueeze(-1))
    return -(1.0 - probs).clamp_min(SMALLEST_REST).log().sum() / counted.sum().clamp_min(1)


def held_out_loss(
    model: Llama, windows: NDArray[np.int64], bfloat16: bool, prompt_weight: float
) -> float:
    """Return nats per token over windows (num_windows, window + 1), at least one."""
    device = next(model.parameters()).device
    total = 0.0
    with torch.inference_mode():
        for window in torch.from_numpy(windows).to(device).split(1):
            total += float(text_loss(model, window, bfloat16, prompt_weight))
    return total / len(windows)
