"""What an empty conversation shows: the pool, and questions to begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from tui.show import plain

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
        self._is_starter = setup.pool == STARTER
        self._title = plain(setup.pool, "bold")
        drafters = ", ".join(setup.drafters) or "no drafters"
        self._summary = f"{setup.policy} chooses among {drafters}"

    def compose(self) -> ComposeResult:
        """Yield the title and the examples."""
        title = self._title
        if self._is_starter:
            title = title.append(Content.styled("  demo models ", "$text-warning bold"))
        yield Static(title.append(plain(f"\n{self._summary}", "$text-muted")))
        if self._is_starter:
            note = (
                "They keep the form of an answer and little of its sense. Tab chooses one of these:"
            )
            yield Static(plain(note, "$text-muted"))
            shown = (plain(example.replace("\n", " ")) for example in EXAMPLES)
            yield OptionList(*map(Option, shown), markup=False)
            better = "metasd chat ~/model.gguf --drafters ~/small.gguf"
            yield Static(plain(f"For answers with sense: {better}", "$text-muted"))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Offer the example."""
        event.stop()
        self.post_message(self.Chosen(EXAMPLES[event.option_index]))
