"""What an empty conversation shows: the pool, and questions to begin with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

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


class Welcome(Vertical):
    """Shows which pool answers, and for the demo models what to ask them."""

    class Chosen(Message):
        """The user wants to ask one of the examples."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, setup: Setup) -> None:
        super().__init__(classes="welcome")
        self._setup = setup

    def compose(self) -> ComposeResult:
        """Yield what answers and, for the demo models, examples and the way to others."""
        setup = self._setup
        drafters = ", ".join(setup.drafters) or "no drafters"
        summary = plain(f"\n{setup.policy} chooses among {drafters}", MUTED)
        if setup.pool != STARTER:
            memory = f" · {size_text(setup.memory_bytes)} of memory" if setup.memory_bytes else ""
            yield Static(plain(setup.pool, "bold").append(plain(memory, MUTED)).append(summary))
            return
        badge = Content.styled("  demo models ", "$text-warning bold")
        yield Static(plain(setup.pool, "bold").append(badge).append(summary))
        note = "They keep the form of an answer and little of its sense. Tab chooses one of these:"
        yield Static(plain(note, MUTED))
        shown = (plain(example.replace("\n", " ")) for example in EXAMPLES)
        yield OptionList(*map(Option, shown), markup=False)
        better = "For answers with sense: metasd ~/model.gguf --drafters ~/small.gguf, or a pool of"
        catalogue = "the catalogue, which /download NAME fetches and opens:"
        yield Static(plain(f"{better} {catalogue}", MUTED))
        yield Static(plain("\n".join(_catalogue_lines()), MUTED), classes="catalogue")

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Offer the example."""
        event.stop()
        self.post_message(self.Chosen(EXAMPLES[event.option_index]))


def _catalogue_lines() -> Iterator[str]:
    from metasd_local.catalogue import HubFile, read_catalogue  # loads numpy
    from metasd_local.local import local_bytes

    for pool in read_catalogue():
        if pool.is_demo:
            continue
        sizes = [each.size_bytes if isinstance(each, HubFile) else None for each in pool.sources]
        here, total = local_bytes(pool), sum(size or 0 for size in sizes) * all(sizes)
        parts = [f"{size_text(here)} here" if here else "not here"]
        parts += [f"{size_text(total)} in all"] if total and total != here else []
        parts += [f"needs {size_text(pool.memory_bytes)} of memory"] if pool.memory_bytes else []
        yield f"  {pool.name:9} {', '.join(parts)}; {pool.summary}"
