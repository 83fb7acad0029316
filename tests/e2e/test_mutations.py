"""A damaged model file generates tokens or ends in an error: never in a crash or a hang."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.tiny_gguf import Architecture, write_tiny_gguf

ROOT = Path(__file__).parents[2]


def try_mutations(folder: Path, architecture: Architecture, first: int, end: int) -> Counter[str]:
    source = write_tiny_gguf(folder / "sound.gguf", architecture=architecture)
    arguments = (source, folder / "damaged.gguf", first, end)
    worker = subprocess.run(
        [sys.executable, "-m", "tests.mutation_worker", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.split() for line in worker.stdout.splitlines()]
    tried = [number for word, number in lines if word == "trying"]
    assert worker.returncode == 0, (
        f"mutation {tried[-1:]} of {architecture} ended the process with "
        f"{worker.returncode}: {worker.stderr[-500:]}"
    )
    assert tried == [str(number) for number in range(first, end)]
    return Counter(outcome for word, outcome in lines if word == "outcome")


def test_damaged_files_end_in_errors_or_tokens(tmp_path: Path) -> None:
    outcomes = try_mutations(tmp_path, "llama", 0, 12)
    assert outcomes.keys() == {"ModelError", "generated"}


@pytest.mark.full
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mamba"])
def test_many_damaged_files_end_in_errors_or_tokens(
    tmp_path: Path, architecture: Architecture
) -> None:
    outcomes = try_mutations(tmp_path, architecture, 12, 212)
    assert outcomes["ModelError"] > 100
    assert outcomes["generated"] > 20
