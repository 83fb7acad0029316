"""The target's own answers to training prompts, with its leading probabilities, for distillation.

Owns batched generation through llama.cpp and the file of answers; must not know about drafters.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from llama_cpp import llama_cpp as api
from numpy.typing import NDArray

from metasd_local.backend.library import open_library
from metasd_local.starter.train.config import AnswerSettings
from metasd_local.starter.train.data import END, USER, nearest_mark
from metasd_local.stats import LoopFinder

NUM_LEADING = 16
MICRO_BATCH = 512


@dataclass(frozen=True, slots=True)
class Answers:
    """Prompts and answers joined to one stream; row i tells what the target expected at token i."""

    tokens: NDArray[np.uint16]
    """(num_tokens,)."""
    leading: NDArray[np.uint16]
    """(num_tokens, NUM_LEADING): the target's likeliest tokens."""
    probs: NDArray[np.float16]
    """(num_tokens, NUM_LEADING): their probabilities; all 0 inside a prompt."""


@dataclass(slots=True)
class _Slot:
    """One answer in the making."""

    tokens: list[int]
    num_prompt: int
    loops: LoopFinder
    is_greedy: bool = True
    num_fed: int = 0
    leading: list[NDArray[np.int64]] = field(default_factory=list)
    probs: list[NDArray[np.float32]] = field(default_factory=list)


class Generator:
    """Answer many prompts at once, each in a sequence of its own of one llama.cpp context."""

    def __init__(self, path: Path, settings: AnswerSettings, num_threads: int, seed: int) -> None:
        open_library()
        self.settings = settings
        self.rng = np.random.default_rng(seed)
        self.model = api.llama_model_load_from_file(
            str(path).encode(), api.llama_model_default_params()
        )
        self.vocab_size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        limits = api.llama_context_default_params()
        limits.n_seq_max = settings.batch_size
        limits.n_ctx = settings.batch_size * (settings.max_prompt + settings.max_new)
        limits.n_batch = settings.batch_size * settings.max_prompt
        limits.n_ubatch = MICRO_BATCH
        limits.n_threads = limits.n_threads_batch = num_threads
        limits.kv_unified = False
        self.context = api.llama_init_from_model(self.model, limits)
        self.batch = api.llama_batch_init(limits.n_batch, 0, 1)

    def close(self) -> None:
        """Give the memory of llama.cpp back."""
        api.llama_batch_free(self.batch)
        api.llama_free(self.context)
        api.llama_model_free(self.model)

    def answer(self, prompts: Iterable[Sequence[int]]) -> Iterator[Answers]:
        """Yield prompts with their answers as they end: of each a greedy one, then a sampled one.

        An answer ends at END, after max_new tokens, or where it has begun to loop. Prompts above
        max_prompt are passed over.
        """
        waiting = (prompt for prompt in prompts if len(prompt) <= self.settings.max_prompt)
        slots: dict[int, _Slot] = {}
        memory = api.llama_get_memory(self.context)
        api.llama_memory_clear(memory, True)
        while True:
            for index in range(self.settings.batch_size):
                if index not in slots and (prompt := next(waiting, None)) is not None:
                    slots[index] = _Slot(list(prompt), len(prompt), LoopFinder(prompt))
            if not slots:
                return
            self._step(slots)
            for index, slot in list(slots.items()):
                num_new = len(slot.tokens) - slot.num_prompt
                slot.loops.add(slot.tokens[-1:])
                is_looping = slot.loops.start is not None
                if slot.tokens[-1] == END or num_new == self.settings.max_new or is_looping:
                    yield _finished(slots.pop(index))
                    if slot.is_greedy and self.settings.temperature:
                        slots[index] = _again(slot)
                    kept = slots[index].num_fed if index in slots else -1
                    api.llama_memory_seq_rm(memory, index, kept, -1)

    def _step(self, slots: Mapping[int, _Slot]) -> None:
        """Feed what the slots have not fed yet; append one token to each."""
        count = 0
        for index, slot in slots.items():
            for position in range(slot.num_fed, len(slot.tokens)):
                self.batch.token[count] = slot.tokens[position]
                self.batch.pos[count] = position
                self.batch.n_seq_id[count] = 1
                self.batch.seq_id[count][0] = index
                self.batch.logits[count] = position == len(slot.tokens) - 1
                count += 1
            slot.num_fed = len(slot.tokens)
        self.batch.n_tokens = count
        if status := api.llama_decode(self.context, self.batch):
            raise RuntimeError(f"llama_decode returned {status}; it should return 0")
        shape = (len(slots), self.vocab_size)
        logits = np.ctypeslib.as_array(api.llama_get_logits(self.context), shape)
        best = np.argpartition(logits, -NUM_LEADING, axis=1)[:, -NUM_LEADING:]
        highest = logits.max(axis=1, keepdims=True)
        mass = np.exp(logits - highest).sum(axis=1, keepdims=True)
        probs = np.exp(np.take_along_axis(logits, best, axis=1) - highest) / mass
        for row, slot in enumerate(slots.values()):
            chosen = int(probs[row].argmax())
            if not slot.is_greedy:
                weights = probs[row] ** (1.0 / self.settings.temperature)
                chosen = int(self.rng.choice(NUM_LEADING, p=weights / weights.sum()))
            slot.tokens.append(int(best[row, chosen]))
            slot.leading.append(best[row])
            slot.probs.append(probs[row])


def _again(slot: _Slot) -> _Slot:
    """Return the sampled answer to the same prompt, all of it fed but the last token."""
    prompt = slot.tokens[: slot.num_prompt]
    return _Slot(prompt, len(prompt), LoopFinder(prompt), False, len(prompt) - 1)


def _finished(slot: _Slot) -> Answers:
    blank = ((slot.num_prompt, 0), (0, 0))
    return Answers(
        tokens=np.array(slot.tokens, dtype=np.uint16),
        leading=np.pad(np.array(slot.leading, dtype=np.uint16), blank),
        probs=np.pad(np.array(slot.probs, dtype=np.float16), blank),
    )


def write_answers(
    path: Path,
    generator: Generator,
    prompts: Iterable[Sequence[int]],
    max_tokens: int,
    report: Callable[[int], None],
) -> None:
    """Answer prompts until max_tokens answer tokens are there, and leave them at path (.npz).

    Of an answer that loops only the part before is kept.
    report: takes the number of answer tokens so far, after each answer.
    """
    parts: list[Answers] = []
    num_answered = 0
    for answered in generator.answer(prompts):
        part = _without_loop(answered)
        parts.append(part)
        num_answered += int((part.probs[:, 0] > 0).sum())
        report(num_answered)
        if num_answered >= max_tokens:
            break
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        tokens=np.concatenate([part.tokens for part in parts]),
        leading=np.concatenate([part.leading for part in parts]),
        probs=np.concatenate([part.probs for part in parts]),
    )
    partial.replace(path)


def loop_start(part: Answers) -> int | None:
    """Return the position in one prompt and answer where the answer starts to loop, or None."""
    num_prompt = int((part.probs[:, 0] == 0).sum())
    loops = LoopFinder(part.tokens[:num_prompt].tolist())
    loops.add(part.tokens[num_prompt:].tolist())
    return None if loops.start is None else num_prompt + loops.start


def _without_loop(part: Answers) -> Answers:
    end = loop_start(part)
    return Answers(part.tokens[:end], part.leading[:end], part.probs[:end])


def read_answers(path: Path) -> Answers:
    """Read what write_answers left."""
    with np.load(path) as arrays:
        return Answers(arrays["tokens"], arrays["leading"], arrays["probs"])


def draw_answers(
    answers: Mapping[str, Answers],
    mixture: Mapping[str, float],
    batch_size: int,
    window: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Draw windows of the answers that begin with a prompt, where one is near enough.

    Returns input tokens (batch_size, window) and, for the token after each, the target's leading
    tokens and probabilities (batch_size, window, NUM_LEADING).
    """
    domains = sorted(mixture)
    shares = np.array([mixture[domain] for domain in domains])
    tokens = np.empty((batch_size, window), dtype=np.int64)
    leading = np.empty((batch_size, window, NUM_LEADING), dtype=np.int64)
    probs = np.empty((batch_size, window, NUM_LEADING), dtype=np.float32)
    for row, index in enumerate(rng.choice(len(domains), size=batch_size, p=shares / shares.sum())):
        part = answers[domains[index]]
        start = nearest_mark(
            part.tokens, USER, int(rng.integers(0, len(part.tokens) - window)), window
        )
        tokens[row] = part.tokens[start : start + window]
        leading[row] = part.leading[start + 1 : start + window + 1]
        probs[row] = part.probs[start + 1 : start + window + 1]
    return tokens, leading, probs
