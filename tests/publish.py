"""Put measured documents into the README: `python -m tests.publish NAME FILE.json`.

Without arguments all tables are made anew from the documents that are kept.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from metasd_local.bench.report import readme_table, replace_block

ROOT = Path(__file__).parents[1]
DOCUMENTS = ROOT / "tests/data/bench"


def published(readme: str) -> str:
    """Return the README with every table as its document has it."""
    for path in sorted(DOCUMENTS.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        readme = replace_block(readme, path.stem, readme_table(document))
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
