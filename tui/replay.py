"""The chat showing a trace: it asks by itself what was asked then."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from metasd_local.replay import Recording
from tui.app import ChatApp
from tui.prompt import Prompt

LOOK_S = 0.1
"""How often it looks whether the next question may come."""


class ReplayApp(ChatApp):
    """Plays one answer after the other."""

    def __init__(self, *arguments: Any, recordings: Sequence[Recording], **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._recordings = iter(recordings)

    async def on_mount(self) -> None:
        """Begin to ask."""
        self.set_interval(LOOK_S, self._ask_again)

    def _ask_again(self) -> None:
        desk = self.desk
        if desk.setup is None or desk.is_busy or self.is_drawing:
            return
        for recording in self._recordings:
            desk.options = dataclasses.replace(desk.options, seed=recording.seed)
            self.prompt.post_message(Prompt.Sent(recording.typed))
            return
