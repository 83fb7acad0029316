"""The training loop: Muon and AdamW, rate schedule, checkpoints, progress lines.

Owns optimisation and resuming; windows come from a function of the step, so a restart continues
with the data it would have seen. Prints nothing: progress goes to the reporter it is given.
"""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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
    loss_at: Callable[[int, int], Tensor],
    checkpoint: Path,
    checkpoint_s: float,
    report: Callable[[Progress], None],
) -> None:
    """Train the model in place; leave the finished state in the checkpoint.

    loss_at: step and part to the loss of that batch; called from several threads. An existing
    checkpoint is continued, a finished one only loaded.
    """
    optimisers = _optimisers(model, settings)
    step = _resume(checkpoint, model, optimisers)
    last_saved = last_report = time.monotonic()
    losses: list[float] = []
    # On a CPU one core per part is faster than all cores on one, the more so when others need them.
    on_cpu = next(model.parameters()).device.type == "cpu"
    num_workers = torch.get_num_threads() if on_cpu else 1
    workers = ThreadPoolExecutor(num_workers, initializer=torch.set_num_threads, initargs=(1,))
    with workers:
        while step < num_steps:
            losses.append(_accumulate(model, workers, loss_at, step, settings.parts))
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimiser in optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = settings.learning_rate * rate_at(step, num_steps, settings)
                optimiser.step()
            step += 1
            now = time.monotonic()
            if now - last_report >= PROGRESS_S or step == num_steps:
                speed = len(losses) / (now - last_report)
                tokens = settings.parts * settings.batch_size * settings.window
                report(
                    Progress(
                        step=step,
                        num_steps=num_steps,
                        loss=sum(losses) / len(losses),
                        tokens_per_second=speed * tokens,
                        remaining_s=(num_steps - step) / speed,
                    )
                )
                losses, last_report = [], now
            if now - last_saved >= checkpoint_s or step == num_steps:
                _save(checkpoint, model, optimisers, step)
                last_saved = now


def _accumulate(
    model: Llama,
    workers: ThreadPoolExecutor,
    loss_at: Callable[[int, int], Tensor],
    step: int,
    num_parts: int,
) -> float:
    """Leave the mean gradient of a step's parts in the model; return their mean loss."""
    parameters = list(model.parameters())

    def backward(part: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        loss = loss_at(step, part) / num_parts
        return loss.detach(), torch.autograd.grad(loss, parameters)

    total = 0.0
    # Added in the order of the parts, so that equal steps give equal bytes.
    for part, (loss, gradients) in enumerate(workers.map(backward, range(num_parts))):
        total += float(loss)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient if part == 0 else parameter.grad.add_(gradient)
    return total


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


def _optimisers(model: Llama, settings: FitSettings) -> list[torch.optim.Optimizer]:
    """Return Muon for the layers' matrices and AdamW for everything else.

    Source: Muon is Keller Jordan's, its scale that of Moonlight (arXiv 2502.16982, equation 4).
    """
    named = list(model.named_parameters())
    vectors = [values for _, values in named if values.ndim == 1]
    tables = [values for name, values in named if values.ndim > 1 and "blk." not in name]
    matrices = [values for name, values in named if values.ndim > 1 and "blk." in name]
    decay, rate = settings.weight_decay, settings.learning_rate
    return [
        torch.optim.Muon(matrices, rate, decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [
                {"params": tables, "weight_decay": decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=rate,
            betas=(0.9, 0.95),
            fused=True,
        ),
    ]


def _resume(checkpoint: Path, model: Llama, optimisers: Sequence[torch.optim.Optimizer]) -> int:
    if not checkpoint.exists():
        return 0
    device = next(model.parameters()).device
    state: dict[str, Any] = torch.load(checkpoint, map_location=device, weights_only=True)
    model.load_state_dict(state["model"])
    for optimiser, kept in zip(optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(kept)
    return int(state["step"])


def _save(
    checkpoint: Path, model: Llama, optimisers: Sequence[torch.optim.Optimizer], step: int
) -> None:
    partial = checkpoint.with_suffix(".partial")
    kept = [optimiser.state_dict() for optimiser in optimisers]
    torch.save({"model": model.state_dict(), "optimisers": kept, "step": step}, partial)
    os.replace(partial, checkpoint)
