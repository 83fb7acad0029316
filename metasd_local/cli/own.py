"""`metasd add` and `metasd rm`: pools of the user's own, and files that are not wanted any more."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from metasd_local.arguments import ALIASES, COMMANDS, Request
from metasd_local.cli.pools import advice_to_fetch, existing_pool, pool_json
from metasd_local.cli.surroundings import DONE, FAILED, Surroundings
from metasd_local.config import models_path
from metasd_local.errors import UsageError
from metasd_local.hub.repository import HubFile
from metasd_local.options import Options
from metasd_local.pools.catalogue import (
    NAME_RULE,
    DrafterEntry,
    Pool,
    Source,
    is_pool_name,
    read_catalogue,
)
from metasd_local.pools.local import named_model
from metasd_local.pools.own import append_pool, remove_pool
from metasd_local.pools.removal import Removal, find_unfinished, plan_removal, remove
from metasd_local.protocols import NGRAM, PLAIN
from metasd_local.text import size_text


def add(options: Options, request: Request, around: Surroundings) -> int:
    """Write a pool of the user's own."""
    if options.target is None:
        raise UsageError(f"found no --target, expected {COMMANDS['add'].usage}")
    (name,) = request.words
    if not is_pool_name(name):
        raise UsageError(f"found the name {name!r}, expected {NAME_RULE}")
    if name in COMMANDS or name in ALIASES:
        raise UsageError(f"{name!r} is a command; choose another name for the pool")
    known = read_catalogue(around.environment)
    if name in known:
        raise UsageError(
            f"a pool is named {name!r} already, in {known[name].defined_in}; choose another name"
        )
    sources = [_source_of(text) for text in options.drafter or ()]
    pool = Pool(
        name,
        _source_of(options.target),
        tuple(map(DrafterEntry, _drafter_names(sources), sources)),
    )
    path = models_path(around.environment)
    append_pool(path, pool)
    document = pool_json(read_catalogue(around.environment)[name])
    lines = [f"{name} is now a pool, in {path}"]
    drafters = ", ".join(drafter.name for drafter in pool.drafters)
    lines += [f"its drafters: {drafters}"] if drafters else []
    lines.append(advice_to_fetch(document) or f"to check it: metasd doctor {name}")
    around.output.report(document, lines, as_json=options.json)
    return DONE


def rm(options: Options, request: Request, around: Surroundings) -> int:
    """Remove a pool's files from the cache, and the pool if it is the user's own."""
    (text,) = request.words
    catalogue = read_catalogue(around.environment)
    own = models_path(around.environment)
    removal, is_own = Removal(() if text in catalogue else find_unfinished(text), {}), False
    if not removal.paths:
        pool = existing_pool(text, catalogue)
        removal, is_own = plan_removal(pool, catalogue), pool.defined_in == own
    num_paths = len(removal.paths)
    parts = [f"{num_paths} file{'' if num_paths == 1 else 's'}"] if num_paths else []
    parts += [f"[pool.{text}] of {own}"] if is_own else []
    reasons = ", ".join(dict.fromkeys(removal.kept.values()))
    why = f"its files are {reasons}" if reasons else "no file of it is in the cache"
    what = " and ".join(parts) or f"nothing: {why}"
    if parts and not (options.json and options.yes):
        for path in removal.paths:
            size = size_text(path.stat().st_size) if os.path.isfile(path) else "broken"
            around.output.line(f"  {size:>7}  {path}")
        for path, reason in removal.kept.items():
            around.output.line(f"    stays  {path} ({reason})")
    is_agreed = not parts or bool(options.yes) or _asks(f"Remove {what}? [y/N] ", around)
    if is_agreed and is_own:
        remove_pool(own, text)  # may be impossible, with which nothing else must be gone
    freed_bytes = remove(removal) if is_agreed else 0
    document = {
        "removed": [str(path) for path in removal.paths if not os.path.lexists(path)],
        "freed_bytes": freed_bytes,
        "kept": [{"path": str(path), "reason": reason} for path, reason in removal.kept.items()],
        "entry_removed": is_agreed and is_own,
    }
    freed = f", {size_text(freed_bytes)}" if num_paths else ""
    line = f"removed {what}{freed}" if is_agreed else "nothing was removed"
    around.output.report(document, [line], as_json=options.json)
    return DONE if is_agreed else FAILED


def _asks(question: str, around: Surroundings) -> bool:
    if around.stdin is None or not around.stdin.isatty():
        raise UsageError("nobody can be asked here; add --yes to remove without a question")
    around.stderr.write(question)
    around.stderr.flush()
    return around.stdin.readline().strip().lower() in ("y", "yes")


def _source_of(text: str) -> Source:
    """Return what `add` is given as a model; raise UsageError, and what `named_model` raises."""
    source = named_model(text, may_be_absent=True)
    if isinstance(source, HubFile):
        return source
    path = source or Path(text)
    try:
        with path.open("rb") as stream:
            is_model = stream.read(4) == b"GGUF"
    except FileNotFoundError:
        raise UsageError(
            f"there is no file {text!r}; expected a path or user/repo/file.gguf"
        ) from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    if not is_model:
        raise UsageError(f"{path} is no GGUF file; choose another")
    return path


def _drafter_names(sources: Iterable[Source]) -> list[str]:
    """Return a name for each, made of its file's."""
    names: list[str] = []
    for source in sources:
        stem = re.sub(r"-\d{5}-of-\d{5}$", "", Path(source.name).stem)
        stem = re.sub(r"^(sha256-\w{8})\w+$", r"\1", stem)  # as Ollama names its files
        name = base = re.sub(r"[^\w.+-]+", "-", stem, flags=re.ASCII).lstrip(".+-") or "drafter"
        number = 1
        while name in (*names, NGRAM, PLAIN):
            number += 1
            name = f"{base}-{number}"
        names.append(name)
    return names
