"""The picture of the README is one of this chat."""

from __future__ import annotations

import html
import platform

from tests.tui.screenshot import PICTURE, QUESTIONS
from tui.commands import LABELS
from tui.help import COLUMNS

MOST_BYTES = 120_000


def test_the_picture_shows_what_the_chat_has_and_nothing_of_the_machine() -> None:
    """If a column or a key of the footer changes: `python -m tests.tui.screenshot`."""
    text = PICTURE.read_text(encoding="utf-8")
    assert len(text.encode()) < MOST_BYTES
    shown = " ".join(html.unescape(text).replace("\xa0", " ").split())
    for name, _ in COLUMNS:
        assert name.split()[0] in shown
    for label in LABELS.values():
        assert label in shown
    assert QUESTIONS[-1] in shown
    assert platform.node() not in shown
    assert "/home" not in shown
