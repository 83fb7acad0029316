"""Fitting one network of a run, on text or on the target's answers, with progress lines.

Owns the way from streams of tokens to the loop in `fit`; must not know which stage it serves.
"""

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from metasd_local.starter.train.answers import draw_answers, read_answers
from metasd_local.starter.train.config import FitSettings
from metasd_local.starter.train.data import draw_windows, held_out_windows, load_streams
from metasd_local.starter.train.fit import PROGRESS_S, Progress, fit
from metasd_local.starter.train.loops import Loops, draw_loops
from metasd_local.starter.train.losses import (
    distillation_loss,
    held_out_loss,
    text_loss,
    unlikelihood_loss,
)
from metasd_local.starter.train.model import Llama, place
from metasd_local.starter.train.run import Run

MAX_HELD_OUT_WINDOWS = 12


def train_on_text(
    run: Run,
    name: str,
    model: Llama,
    settings: FitSettings,
    num_steps: int,
    mixture: Mapping[str, float],
    loops: Loops | None = None,
) -> None:
    """Train on the text of a mixture of domains; say the held-out losses of all domains.

    loops: answers the model is trained not to give, in the last part of every step.
    """
    streams = load_streams(
        run.data, run.out / "tokens", run.tokenizer(), run.config.domains, run.config.seed
    )
    device = place(model)

    def loss_at(step: int, part: int) -> Tensor:
        rng = np.random.default_rng((run.config.seed, step, part))
        size, window = settings.batch_size, settings.window
        if loops is not None and part == settings.parts - 1:
            both = draw_loops(loops, size, window, rng)
            tokens, is_repeated = (torch.from_numpy(array).to(device) for array in both)
            loss = unlikelihood_loss(model, tokens, is_repeated, settings.bfloat16)
            return run.config.loops.weight * loss
        if rng.random() < settings.long_share:
            size, window = max(1, size * window // settings.long_window), settings.long_window
        windows = torch.from_numpy(draw_windows(streams, mixture, size, window, rng)).to(device)
        return text_loss(model, windows, settings.bfloat16, settings.prompt_weight)

    _fit(run, name, model, settings, num_steps, loss_at)
    losses = []
    for domain, stream in streams.items():
        windows = held_out_windows(stream, settings.window, MAX_HELD_OUT_WINDOWS)
        if len(windows):
            loss = held_out_loss(model, windows, settings.bfloat16, settings.prompt_weight)
            losses.append(f"{domain} {loss:.3f}")
    run.say(f"{name}: held-out loss {', '.join(losses)}")


def train_on_answers(
    run: Run,
    name: str,
    model: Llama,
    settings: FitSettings,
    num_steps: int,
    mixture: Mapping[str, float],
) -> None:
    """Train on the target's answers in a mixture of domains."""
    answers = {domain: read_answers(run.answers_path(domain)) for domain in mixture}
    device = place(model)

    def loss_at(step: int, part: int) -> Tensor:
        rng = np.random.default_rng((run.config.seed, step, part))
        arrays = draw_answers(answers, mixture, settings.batch_size, settings.window, rng)
        tokens, leading, probs = (torch.from_numpy(array).to(device) for array in arrays)
        return distillation_loss(model, tokens, leading, probs, settings.bfloat16)

    _fit(run, name, model, settings, num_steps, loss_at)


def _fit(
    run: Run,
    name: str,
    model: Llama,
    settings: FitSettings,
    num_steps: int,
    loss_at: Callable[[int, int], Tensor],
) -> None:
    def report(progress: Progress) -> None:
        run.say(
            f"{name}: step {progress.step}/{progress.num_steps} loss {progress.loss:.3f} "
            f"{progress.tokens_per_second:,.0f} tokens/s, {progress.remaining_s / 60:.1f} min left"
        )

    fit(
        model,
        settings,
        num_steps,
        loss_at,
        run.checkpoints / f"{name}.pt",
        run.config.checkpoint_s,
        report,
    )


def meter(run: Run, name: str, limit: int, unit: str = "tokens") -> Callable[[int], None]:
    """Return a function that takes a count and now and then says how far it is from the limit."""
    started = time.monotonic()
    shown = started

    def show(count: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown < PROGRESS_S:
            return
        shown = now
        speed = count / (now - started)
        run.say(
            f"{name}: {count:,}/{limit:,} {unit}, {speed:,.0f} {unit}/s, "
            f"{max(0, limit - count) / max(speed, 1e-9) / 60:.1f} min left"
        )

    return show
