"""Put measured documents into the README: `python -m tests.publish NAME FILE.json`.

Without arguments all tables are made anew from the documents that are kept.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metasd_local.bench.report import UNKNOWN, readme_table, replace_block

ROOT = Path(__file__).parents[1]
DOCUMENTS = ROOT / "tests/data/bench"


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


def published(readme: str) -> str:
    """Return the README with every table as its document has it."""
    for path in sorted(DOCUMENTS.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        make = peer_table if "llama_server" in document else readme_table
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
