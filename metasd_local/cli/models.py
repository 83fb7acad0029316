"""`metasd ls` and `metasd show`: the pools, and which of their files are here."""

from __future__ import annotations

import dataclasses
import shlex
from functools import partial
from pathlib import Path
from typing import Any

from metasd_local.arguments import Request
from metasd_local.cli.pools import advice_to_fetch, existing_pool, is_to_fetch, pool_json
from metasd_local.cli.surroundings import DONE, Surroundings
from metasd_local.hub.cache import cache_folder, is_offline
from metasd_local.options import Options
from metasd_local.pools.catalogue import read_catalogue
from metasd_local.pools.local import default_pool
from metasd_local.text import size_text


def ls(options: Options, _: Request, around: Surroundings) -> int:
    """List the pools, and with `--found` the models of other tools."""
    catalogue = read_catalogue(around.environment)
    default = default_pool(catalogue, around.environment)
    pools = [pool_json(pool) for pool in catalogue]
    document: dict[str, Any] = {"default": default, "pools": pools}
    width = max(len(pool["name"]) for pool in pools)
    lines = [f"{'*' if each['name'] == default else ' '} {_line(each, width)}" for each in pools]
    if options.found:
        found, found_lines = _found(around)
        document |= found
        lines += found_lines
    around.output.report(document, lines, as_json=options.json)
    may_fetch = not (options.json or options.offline or is_offline())
    if may_fetch and any(map(is_to_fetch, pools)):
        around.output.message("to fetch what is not here: metasd download POOL")
    return DONE


def show(options: Options, request: Request, around: Surroundings) -> int:
    """Show one pool."""
    pool = existing_pool(request.words[0], read_catalogue(around.environment))
    document = pool_json(pool)
    usual = dataclasses.asdict(type(pool.sampling)())
    sampling = ", ".join(
        f"{name} {value:g}" for name, value in document["sampling"].items() if value != usual[name]
    )
    facts = {
        "licence": pool.licence,
        "memory": size_text(pool.memory_bytes) if pool.memory_bytes else "",
        "unverified": pool.unverified,
        "sampling": sampling.replace("_", " "),
        "defined in": str(pool.defined_in or ""),
    }
    title = f"{pool.name}: {pool.summary}" if pool.summary else pool.name
    lines = [f"{title} (demo models)" if pool.is_demo else title]
    drafters = [(entry["name"], entry) for entry in document["drafters"]]
    width = max(map(len, (*facts, *(name for name, _ in drafters))))
    lines += [f"  {name:{width}}  {text}" for name, text in facts.items() if text]
    for name, entry in (("target", document["target"]), *drafters):
        about = [f"for {entry['domain']}"] if entry.get("domain") else []
        about += [entry["licence"]] if entry.get("licence", pool.licence) != pool.licence else []
        place = entry["path"] or f"{entry['repo']}/{entry['file']}"
        state = "" if entry["is_here"] else ", not here"
        size = size_text(entry["size_bytes"]) if entry["size_bytes"] else "size unknown"
        lines += [f"  {name:{width}}  {size}{state}{''.join(f'; {each}' for each in about)}"]
        lines += [f"  {'':{width}}  {place}"]
        if entry.get("unverified"):
            lines += [f"  {'':{width}}  unverified: {entry['unverified']}"]
    if advice := advice_to_fetch(document):
        lines.append(advice)
    around.output.report(document, lines, as_json=options.json)
    return DONE


def _found(around: Surroundings) -> tuple[dict[str, Any], list[str]]:
    from metasd_local.pools.found import find_models, find_pairs

    models = find_models(around.environment, cache_folder())
    pairs = find_pairs(models, partial(around.output.progress, "comparing vocabularies"))
    lines = ["", "GGUF files on this machine:" if models else "No GGUF file was found."]
    lines += [
        f"  {size_text(model.size_bytes):>8}  {model.architecture or '?':10}  {model.tool}: "
        f"{model.name}{f' ({model.problem})' if model.problem else ''}"
        for model in models
    ]
    if pairs:
        lines += ["", "Drafters whose vocabulary is the target's; each line would make a pool:"]
    for target in dict.fromkeys(target for target, _ in pairs):
        fitting = [drafter for other, drafter in pairs if other is target]
        drafters = "".join(f" --drafter {shlex.quote(each.text)}" for each in fitting)
        lines.append(f"  metasd add NAME --target {shlex.quote(target.text)}{drafters}")
    names = ("tool", "name", "architecture", "size_bytes", "problem")
    found = [
        {"path": str(model.path), **{name: getattr(model, name) for name in names}}
        for model in models
    ]
    pairs_json = [{"target": str(pair[0].path), "drafter": str(pair[1].path)} for pair in pairs]
    return {"found": found, "pairs": pairs_json}, lines


def _line(pool: dict[str, Any], width: int) -> str:
    files = [pool["target"], *pool["drafters"]]
    num_here = sum(each["is_here"] for each in files)
    state = "ready" if pool["complete"] else f"{num_here}/{len(files)} here"
    target = Path(pool["target"]["file"] or pool["target"]["path"]).stem
    num_drafters = len(pool["drafters"])
    drafters = f" + {num_drafters} drafter{'s' * (num_drafters > 1)}" if num_drafters else ""
    return (
        f"{pool['name']:{width}}  {state if num_here else 'not here':8}  "
        f"{size_text(pool['size_bytes']) if num_here else '-':>7}  "
        f"{target}{' (demo)' if pool['demo'] else ''}{drafters}"
    )
