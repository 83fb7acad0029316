"""What an empty conversation shows: the pool, and questions to begin with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from textual.content import Content

from metasd_local.text import size_text
from tui.show import MUTED, plain

if TYPE_CHECKING:
    from metasd_local.session import Setup

STARTER = "starter"
EXAMPLES = (
    "User: I want to find a restaurant in San Jose.",
    "Kira earns $22 an hour and works 8 hours a day for 4 days. Then she spends $665. "
    "How much money is left?",
    "Translate German to English: Tom wird das gerne machen.",
    'def is_prime(n):\n    """Tell whether n is a prime number."""',
)
"""Prompts such as the starter's models were trained on."""


def examples(setup: Setup | None) -> Sequence[str]:
    """Return what to ask the demo models; nothing for others."""
    return EXAMPLES if setup is not None and setup.pool == STARTER else ()


def welcome(setup: Setup) -> Content:
    """Return which pool answers; for the demo models, what to ask them and the way to others."""
    drafters = ", ".join(setup.drafters) or "no drafters"
    summary = plain(f"\n{setup.policy} chooses among {drafters}", MUTED)
    if not examples(setup):
        memory = f" · {size_text(setup.memory_bytes)} of memory" if setup.memory_bytes else ""
        return plain(setup.pool, "bold").append(plain(memory, MUTED)).append(summary)
    badge = Content.styled("  demo models ", "$text-warning bold")
    note = "They keep the form of an answer and little of its sense. Tab writes one of these:"
    offered = [plain(f"• {' '.join(text.split())}") for text in EXAMPLES]
    better = (
        "For answers with sense: metasd ~/model.gguf --drafters ~/small.gguf, or /download NAME "
        f"with a pool of the catalogue: {', '.join(_catalogue())}"
    )
    return Content("\n").join(
        [
            plain(setup.pool, "bold").append(badge).append(summary),
            plain(note, MUTED),
            *(plain(""), *offered, plain("")),
            plain(better, MUTED),
        ]
    )


def _catalogue() -> Iterator[str]:
    from metasd_local.hub.repository import HubFile
    from metasd_local.pools.catalogue import read_catalogue  # loads numpy
    from metasd_local.pools.local import local_bytes

    for pool in read_catalogue():
        if pool.is_demo:
            continue
        sizes = [each.size_bytes if isinstance(each, HubFile) else None for each in pool.sources]
        here, total = local_bytes(pool), sum(size or 0 for size in sizes) * all(sizes)
        parts = [f"{size_text(here)} here"] if here else []
        parts += [f"{size_text(total)} in all"] if total and total != here else []
        parts += [f"needs {size_text(pool.memory_bytes)} of memory"] if pool.memory_bytes else []
        yield f"{pool.name} ({', '.join(parts)})" if parts else pool.name
