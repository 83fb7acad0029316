"""What the catalogue's commands say of pools."""

from __future__ import annotations

import dataclasses
from typing import Any

from metasd_local.errors import ModelError
from metasd_local.hub.repository import HubFile
from metasd_local.model_files import size_of_parts
from metasd_local.pools.catalogue import Catalogue, Pool, Source
from metasd_local.pools.local import find_source, local_bytes, named_pool
from metasd_local.text import size_text


def existing_pool(text: str, catalogue: Catalogue) -> Pool:
    """Return the pool that a text names; raise ModelError where it is a file that is not there."""
    pool = named_pool(text, catalogue)
    if not pool.defined_in and find_source(pool.target) is None:
        raise ModelError(f"{pool.target} is not a file; expected a GGUF file: check the path")
    return pool


def pool_json(pool: Pool) -> dict[str, Any]:
    """Return all that is known of a pool and of its files."""
    target = _source_json(pool.target)
    drafters = [
        {
            "name": drafter.name,
            "domain": drafter.domain,
            "licence": drafter.licence or pool.licence,
            "unverified": drafter.unverified,
            **_source_json(drafter.source),
        }
        for drafter in pool.drafters
    ]
    missing = [each["size_bytes"] for each in (target, *drafters) if not each["is_here"]]
    return {
        "name": pool.name,
        "summary": pool.summary,
        "ready": target["is_here"],
        "complete": not missing,
        "demo": pool.is_demo,
        "licence": pool.licence,
        "unverified": pool.unverified,
        "memory_bytes": pool.memory_bytes,
        "size_bytes": local_bytes(pool),
        "missing_bytes": None if None in missing else sum(missing),
        "defined_in": str(pool.defined_in) if pool.defined_in else None,
        "sampling": dataclasses.asdict(pool.sampling),
        "target": target,
        "drafters": drafters,
    }


def _source_json(source: Source) -> dict[str, Any]:
    path = find_source(source)
    of_hub = source if isinstance(source, HubFile) else None
    return {
        "is_here": path is not None,
        "path": str(path or source) if path or not of_hub else None,
        "repo": of_hub and of_hub.repo,
        "file": of_hub and of_hub.name,
        "revision": of_hub and of_hub.revision,
        "size_bytes": size_of_parts(path) if path else of_hub and of_hub.size_bytes,
        "sha256": of_hub and of_hub.sha256,
    }


def is_to_fetch(pool: dict[str, Any]) -> bool:
    """Tell whether a download would help a pool of `pool_json`."""
    return bool(_sizes_to_fetch(pool))


def advice_to_fetch(pool: dict[str, Any]) -> str:
    """Say how to fetch what is missing of a pool of `pool_json`; nothing if nothing is."""
    sizes = _sizes_to_fetch(pool)
    known = sum(size or 0 for size in sizes)
    num_unknown = sizes.count(None)
    what = [size_text(known)] if known else []
    what += [f"{num_unknown} file{'s' * (num_unknown > 1)} of unknown size"] if num_unknown else []
    return f"to fetch {' and '.join(what)}: metasd download {pool['name']}" if sizes else ""


def _sizes_to_fetch(pool: dict[str, Any]) -> list[int | None]:
    files = (pool["target"], *pool["drafters"])
    return [each["size_bytes"] for each in files if each["repo"] and not each["is_here"]]
