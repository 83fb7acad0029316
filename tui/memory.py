"""What the chat remembers from one start to the next: a small JSON file, written by nobody else."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Memory:
    """How the user left the chat."""

    theme: str = "textual-dark"
    shows_tokens: bool = False
    """Whether answers are shown as tokens, not as Markdown."""
    shows_panel: bool = True


def read_memory(path: Path) -> Memory:
    """Return what is remembered; a file that cannot be read, or a value of another type, is not."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Memory()
    memory = Memory()
    for entry in fields(Memory):
        value = document.get(entry.name) if isinstance(document, dict) else None
        if type(value) is type(getattr(memory, entry.name)):
            setattr(memory, entry.name, value)
    return memory


def write_memory(path: Path, memory: Memory) -> None:
    """Remember; what cannot be written is only logged."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(asdict(memory), indent=1), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        logger.warning("%s: not remembered: %s", path, error.strerror)
