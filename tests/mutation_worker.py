"""Opens altered copies of a model file one by one; run in a process of its own.

Arguments: the model file, a place for the copies, the first mutation, the one after the last.
Prints the number of each mutation before it is tried and its outcome after it.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import gguf
import numpy as np

from metasd_local.backend.llama import LlamaModel, LlamaWeights
from metasd_local.errors import MetasdError
from metasd_local.interrupt import Interrupt

TIME_LIMIT_S = 20
HEADER_BYTES = 24


def parts_of(path: Path) -> list[tuple[list[int], list[int]]]:
    """Return starts and ends of the parts of each section: header, keys, tensors, weights."""
    reader = gguf.GGUFReader(path)
    keys = [entry.offset for entry in reader.fields.values() if entry.offset >= HEADER_BYTES]
    tensors = [tensor.field.offset for tensor in reader.tensors]
    data_begin, data_end = int(reader.data_offset), path.stat().st_size
    return [
        ([0, 4, 8, 16], [4, 8, 16, 24]),
        (keys, [*keys[1:], tensors[0]]),
        (tensors, [*tensors[1:], data_begin]),
        ([data_begin], [data_end]),
    ]


def mutate(raw: bytes, parts: list[tuple[list[int], list[int]]], number: int) -> bytes:
    """Flip one to eight bits within one part of a section, or cut the file there."""
    rng = np.random.default_rng(number)
    starts, ends = parts[number % len(parts)]
    part = int(rng.integers(len(starts)))
    offsets = rng.integers(starts[part], ends[part], size=int(rng.integers(1, 9)))
    if rng.random() < 0.2:
        return raw[: offsets[0]]
    mutated = bytearray(raw)
    for offset in offsets:
        mutated[offset] ^= 1 << int(rng.integers(8))
    return bytes(mutated)


def generate(path: Path) -> str:
    """Open the model and generate a few tokens; return the outcome in a word."""
    try:
        weights = LlamaWeights(path)
    except MetasdError as error:
        return type(error).__name__
    try:
        vocabulary = weights.vocabulary
        prompt = vocabulary.encode("Hello \x01 étude <|end|>", special=True) or [0]
        model = LlamaModel(
            weights, context_size=256, max_rows=4, num_threads=1, interrupt=Interrupt()
        )
        row = model.feed(prompt, 1)[0]
        for _ in range(5):
            token = int(np.nan_to_num(row).argmax())
            vocabulary.piece(token)
            vocabulary.is_end(token)
            row = model.feed([token], 1)[0]
        if weights.info.rollback == "exact":
            model.rewind(2)
            model.feed([0, 1, 2], 3)
    except MetasdError as error:
        return type(error).__name__
    finally:
        weights.close()
    return "generated"


def main(source: Path, copy: Path, first: int, end: int) -> None:
    """Try the mutations `first..end - 1`."""
    raw, parts = source.read_bytes(), parts_of(source)
    for number in range(first, end):
        print("trying", number, flush=True)
        copy.write_bytes(mutate(raw, parts, number))
        # Without a handler the alarm ends the process, also inside llama.cpp.
        signal.alarm(TIME_LIMIT_S)
        outcome = generate(copy)
        signal.alarm(0)
        print("outcome", outcome, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
