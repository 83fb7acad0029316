"""A conversation as a file for others."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain, count
from pathlib import Path

from metasd_local.errors import UsageError
from tui.conversation import Conversation


def code_blocks(answer: str) -> Sequence[str]:
    """Return the contents of the code blocks of a Markdown text, the last may be unfinished."""
    # Imported when needed: it takes long.
    from markdown_it import MarkdownIt

    tokens = MarkdownIt().parse(answer)
    return [token.content for token in tokens if token.type in ("fence", "code_block")]


def export(chat: Conversation, path: Path) -> None:
    """Write a conversation as Markdown or, if the name ends so, as JSON; never over a file.

    Raises UsageError.
    """
    text = as_json(chat) if path.suffix == ".json" else as_markdown(chat)
    try:
        with path.open("x", encoding="utf-8", errors="replace", newline="\n") as file:
            file.write(text)
    except FileExistsError as error:
        raise UsageError(f"{path} exists; choose another name") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error


def default_path(chat: Conversation, folder: Path) -> Path:
    """Return a name made from the title that is not taken."""
    words = re.findall(r"\w+", chat.title.lower())
    stem = "-".join(words)[:40].rstrip("-") or "conversation"
    numbered = (folder / f"{stem}-{number}.md" for number in count(2))
    return next(path for path in chain([folder / f"{stem}.md"], numbered) if not path.exists())


def as_markdown(chat: Conversation) -> str:
    """Return what was said, with the figures of every answer."""
    parts = [f"# {chat.title}"]
    if chat.system:
        parts += ["## System prompt", chat.system]
    for turn in chat.turns:
        parts += ["## Question", turn.question, "## Answer", turn.answer]
        parts += [f"*{turn.figures}*"] if turn.figures else []
    return "\n\n".join(parts) + "\n"


def as_json(chat: Conversation) -> str:
    """Return everything that is known; `marks` are runs of arm and number of characters."""
    turns = [asdict(turn) for turn in chat.turns]
    document = {"title": chat.title, "system": chat.system, "turns": turns}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
