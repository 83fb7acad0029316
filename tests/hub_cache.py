"""A made-up Hugging Face cache, in the layout that huggingface_hub gives it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def put_in_cache(cache: Path, repo: str, name: str, content: bytes, commit: str = COMMIT) -> Path:
    """Place a file as if it had been downloaded from `main`; return its path in the snapshot."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
    path = folder / "snapshots" / commit / name
    for place in (blob, path, folder / "refs/main"):
        place.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    path.symlink_to(os.path.relpath(blob, path.parent))
    (folder / "refs/main").write_text(commit, encoding="utf-8")
    return path
