"""Put measured documents into the README: `python -m tests.publish NAME FILE.json`.

Without arguments all tables are made anew from the documents that are kept.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metasd_local.bench.report import UNKNOWN, escape, facts, markdown_table, tables

ROOT = Path(__file__).parents[1]
DOCUMENTS = ROOT / "tests/data/bench"


SPEEDUPS, DETAILS = "Speed-up over plain", "Details"
SHOWN_DETAILS = ("of best", "accepted", "overhead")
SHOWN_FACTS = (
    *("pool", "machine", "threads", "temperature", "scheme", "most tokens", "idle", "commit"),
)


def bench_table(document: Mapping[str, Any]) -> str:
    """Return the speed-ups as one Markdown table, and in a sentence what they were measured on.

    Of the long answers or of the short ones, whichever are more.
    """
    found = tables(document)
    titles = [title for title in found if title.startswith(SPEEDUPS)]
    results = document["results"]
    num_long, num_short = (
        sum(row["prompts"] for row in rows) for rows in (results, [row["short"] for row in results])
    )
    title = titles[0] if num_long >= num_short else titles[-1]
    details = {row[0]: row for row in found[title.replace(SPEEDUPS, DETAILS)]}
    shown = [details["policy"].index(name) for name in SHOWN_DETAILS]
    empty = [""] * len(details["policy"])  # beside answers and loops
    rows = [[*row, *(details.get(row[0], empty)[index] for index in shown)] for row in found[title]]
    known = dict(facts(document))
    said = ", ".join(f"{name} {escape(known[name])}" for name in SHOWN_FACTS if name in known)
    command = known["command"].replace("`", "'")
    emulated = "Emulated acceptance, real compute: " if document["emulated"] else ""
    return f"{emulated}{title}:\n\n{markdown_table(rows)}\n\n`{command}`: {said}.\n"


def peer_table(document: Mapping[str, Any]) -> str:
    """Return what llama.cpp's own speculation and ours reach on the same files, as Markdown."""
    lines = [
        "| decoding | tokens/s | ÷ llama-server's plain | accepted | same text |",
        "|---|---|---|---|---|",
    ]
    for name, row in document["results"].items():
        speed, low, high = row["over_peer_plain"]
        accepted = f"{row['acceptance_rate']:.0%}" if row["acceptance_rate"] else UNKNOWN
        lines.append(
            f"| {name} | {row['tokens_per_second']:.0f} | {speed:.2f} ({low:.2f} to {high:.2f}) "
            f"| {accepted} | {row['identical']:.0%} |"
        )
    machine, options = document["machine"], document["options"]
    best = next(iter(document["settings"]["peer: best"].values()))
    lines += [
        "",
        f"llama-server beside metasd on pool {options['pool']}, same token ids, temperature 0, at "
        f"most {options['max_tokens']} tokens, {options['threads']} threads, interleaved, "
        f"{len(document['prompts'])} prompts; the peer's best of {len(document['swept'])} settings "
        f"was {best}. {machine['cpu']}, {machine['cores']} cores, {document['seen']}, commit "
        f"{document['commit']}.",
        "",
    ]
    return "\n".join(lines)


def replace_block(readme: str, name: str, block: str) -> str:
    """Put a block between `<!-- bench: NAME -->` and the next `<!-- end -->` of a text."""
    pattern = rf"(<!-- bench: {re.escape(name)} -->\n).*?(<!-- end -->)"
    replaced, count = re.subn(
        pattern, lambda match: match[1] + block + match[2], readme, flags=re.DOTALL
    )
    assert count == 1, f"found {count} places for the table {name!r}, expected one"
    return replaced


def published(readme: str) -> str:
    """Return the README with every table as its document has it."""
    for path in sorted(DOCUMENTS.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        make = peer_table if "llama_server" in document else bench_table
        readme = replace_block(readme, path.stem, make(document))
    return readme


def main(arguments: Sequence[str]) -> None:
    """Keep a document, if one is given, and rewrite the README."""
    if arguments:
        name, source = arguments
        document = json.loads(Path(source).read_text(encoding="utf-8"))
        DOCUMENTS.mkdir(exist_ok=True)
        target = DOCUMENTS / f"{name}.json"
        target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    readme = ROOT / "README.md"
    readme.write_text(published(readme.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
