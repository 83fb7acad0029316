"""Training against loops: what counts as repeated, and that the network learns not to say it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra named train")
pytest.importorskip("tokenizers", reason="needs the extra named train")

from metasd_local.starter.train.answers import NUM_LEADING, Answers  # noqa: E402
from metasd_local.starter.train.config import LoopSettings, ModelShape  # noqa: E402
from metasd_local.starter.train.data import ASSISTANT, USER  # noqa: E402
from metasd_local.starter.train.loops import Loops, draw_loops, find_loops  # noqa: E402
from metasd_local.starter.train.losses import unlikelihood_loss  # noqa: E402
from metasd_local.starter.train.model import Llama  # noqa: E402

PROMPT = [USER, 40, 41, ASSISTANT]
PERIOD = list(range(50, 60))
SHAPE = ModelShape(64, 1, 32, 2, 64, 128, 1e-5, 10_000.0, True)


def answered(answer: list[int]) -> Answers:
    tokens = np.array(PROMPT + answer, dtype=np.uint16)
    probs = np.zeros((len(tokens), NUM_LEADING), dtype=np.float16)
    probs[len(PROMPT) :, 0] = 1.0
    return Answers(tokens, np.zeros_like(probs, dtype=np.uint16), probs)


class Answering:
    """Gives the answers it was made with, one per prompt."""

    def __init__(self, *answers: list[int]) -> None:
        self.answers = answers

    def answer(self, prompts: Any) -> Any:
        return (answered(answer) for _, answer in zip(prompts, self.answers, strict=False))


def find(*answers: list[int], max_prompts: int = 10, max_answers: int = 10) -> Loops:
    settings = LoopSettings(1, max_prompts, max_answers, 1.0)
    generator: Any = Answering(*answers)
    return find_loops(generator, [PROMPT] * len(answers), settings, lambda _: None)


def test_only_looping_answers_are_kept_and_marked_from_the_second_occurrence() -> None:
    loops = find(list(range(10, 50)), PERIOD * 3)
    assert loops.tokens.tolist() == PROMPT + PERIOD * 3
    first = len(PROMPT) + len(PERIOD)
    assert loops.is_repeated.tolist() == [False] * first + [True] * 20


def test_collecting_ends_at_either_limit() -> None:
    looping = [PERIOD * 3] * 5
    length = len(PROMPT + PERIOD * 3)
    assert len(find(*looping, max_answers=2).tokens) == 2 * length
    assert len(find(*looping, max_prompts=3).tokens) == 3 * length


def test_windows_begin_with_a_prompt_and_keep_tokens_and_marks_together() -> None:
    loops = find(*[PERIOD * 3] * 8)
    tokens, is_repeated = draw_loops(loops, 6, 60, np.random.default_rng(1))
    assert (tokens[:, 0] == USER).all()
    assert not is_repeated[np.isin(tokens, PROMPT)].any()
    assert is_repeated.any(axis=1).all()


def test_what_was_learned_as_a_loop_is_unlearned() -> None:
    torch.manual_seed(3)
    model = Llama(SHAPE)
    loops = find(*[PERIOD * 3] * 8)
    both = draw_loops(loops, 4, 60, np.random.default_rng(1))
    windows, is_repeated = (torch.from_numpy(array) for array in both)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for sign in (-1.0, 1.0):
        # First it is taught the loop itself: the likelihood of what it shall not say.
        for _ in range(60):
            optimiser.zero_grad()
            loss = unlikelihood_loss(model, windows, is_repeated, bfloat16=False)
            (sign * loss).backward()
            optimiser.step()
            losses.append(loss.item())
    assert max(losses) > 1.0
    assert losses[-1] < 0.1


def test_a_window_without_repeated_tokens_changes_nothing() -> None:
    model = Llama(SHAPE)
    windows = torch.full((2, 20), 9)
    loss = unlikelihood_loss(model, windows, torch.zeros(2, 20, dtype=torch.bool), bfloat16=False)
    loss.backward()
    assert loss.item() == 0.0
    assert all(not values.grad.any() for values in model.parameters() if values.grad is not None)
