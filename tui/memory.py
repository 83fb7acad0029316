"""What the chat remembers from one start to the next."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

from metasd_local.state import read_state, write_entry

KEY = "chat"


@dataclass(slots=True)
class Memory:
    """How the user left the chat."""

    theme: str = "textual-dark"
    shows_tokens: bool = False
    """Whether answers are shown as tokens, not as Markdown."""
    shows_panel: bool = True


def read_memory(path: Path) -> Memory:
    """Return what is remembered; a value of another type is not."""
    found = read_state(path).get(KEY)
    memory = Memory()
    for entry in fields(Memory):
        value = found.get(entry.name) if isinstance(found, dict) else None
        if type(value) is type(getattr(memory, entry.name)):
            setattr(memory, entry.name, value)
    return memory


def write_memory(path: Path, memory: Memory) -> None:
    """Remember; what cannot be written is only logged."""
    write_entry(path, KEY, asdict(memory))
