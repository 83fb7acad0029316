"""The training loop: AdamW, rate schedule, checkpoints, progress lines.

Owns optimisation and resuming; windows come from a function of the step, so a restart continues
with the data it would have seen. Prints nothing: progress goes to the reporter it is given.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metasd_local.starter.train.config import FitSettings
from metasd_local.starter.train.model import Llama

PROGRESS_S = 10.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training loop stands."""

    step: int
    """Steps done."""
    num_steps: int
    loss: float
    """Mean over the steps since the previous report; nats per token."""
    tokens_per_second: float
    remaining_s: float


def fit(
    model: Llama,
    settings: FitSettings,
    num_steps: int,
    loss_at: Callable[[int], Tensor],
    checkpoint: Path,
    checkpoint_s: float,
    report: Callable[[Progress], None],
) -> None:
    """Train the model in place; leave the finished state in the checkpoint.

    loss_at: step to the loss of that step's batch. An existing checkpoint is continued, a
    finished one only loaded.
    """
    optimiser = _optimiser(model, settings)
    step = _resume(checkpoint, model, optimiser)
    last_saved = last_report = time.monotonic()
    losses: list[float] = []
    while step < num_steps:
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * rate_at(step, num_steps, settings)
        optimiser.zero_grad(set_to_none=True)
        loss = loss_at(step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
        step += 1
        now = time.monotonic()
        if now - last_report >= PROGRESS_S or step == num_steps:
            speed = len(losses) / (now - last_report)
            report(
                Progress(
                    step=step,
                    num_steps=num_steps,
                    loss=sum(losses) / len(losses),
                    tokens_per_second=speed * settings.batch_size * settings.window,
                    remaining_s=(num_steps - step) / speed,
                )
            )
            losses, last_report = [], now
        if now - last_saved >= checkpoint_s or step == num_steps:
            _save(checkpoint, model, optimiser, step)
            last_saved = now


def rate_at(step: int, num_steps: int, settings: FitSettings) -> float:
    """Return the rate as a share of the highest: warm-up, hold, linear fall to the final share."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    fall = (step / num_steps - settings.hold) / max(1e-9, 1.0 - settings.hold)
    return warm * (1.0 - (1.0 - settings.final) * min(1.0, max(0.0, fall)))


def load_weights(checkpoint: Path, model: Llama) -> int:
    """Load a checkpoint's weights into the model; return its number of steps.

    Raises: FileNotFoundError, RuntimeError (the shape differs).
    """
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    return int(state["step"])


def _optimiser(model: Llama, settings: FitSettings) -> torch.optim.AdamW:
    matrices = [value for value in model.parameters() if value.ndim > 1]
    vectors = [value for value in model.parameters() if value.ndim == 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )


def _resume(checkpoint: Path, model: Llama, optimiser: torch.optim.Optimizer) -> int:
    if not checkpoint.exists():
        return 0
    device = next(model.parameters()).device
    state: dict[str, Any] = torch.load(checkpoint, map_location=device, weights_only=True)
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def _save(checkpoint: Path, model: Llama, optimiser: torch.optim.Optimizer, step: int) -> None:
    partial = checkpoint.with_suffix(".partial")
    torch.save(
        {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step}, partial
    )
    os.replace(partial, checkpoint)
