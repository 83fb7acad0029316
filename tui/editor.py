"""Writing a long question in an editor of the user's."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from textual.app import App, SuspendNotSupported

from metasd_local.errors import MetasdError


def edit_outside(app: App[Any], text: str) -> str:
    """Return the text as $VISUAL or $EDITOR (else vi) leaves it; raise MetasdError if it fails."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory(prefix="metasd-") as folder:
        path = Path(folder, "question.md")
        path.write_text(text, encoding="utf-8")
        try:
            with app.suspend():
                finished = subprocess.run([*shlex.split(editor), str(path)], check=False)
            edited = path.read_text(encoding="utf-8", errors="replace")
        except SuspendNotSupported as error:
            raise MetasdError("this terminal cannot be lent to an editor") from error
        except (OSError, ValueError) as error:
            raise MetasdError(f"{editor}: {error}; set $EDITOR to an editor") from error
        if finished.returncode:
            raise MetasdError(f"{editor} ended with status {finished.returncode}: nothing is taken")
    return edited.rstrip("\n")
