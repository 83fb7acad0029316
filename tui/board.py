"""The lines between the conversation and the prompt: legend, status, and what is to be said."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from metasd_local.stats import percent
from tui.desk import Desk
from tui.marks import Legend
from tui.panel import status
from tui.show import legend_line, plain, redraw

MOST_HINTS = 8


class Board(Vertical):
    """Shows how the decoding goes in one line, and around it what is needed now and then."""

    told = ""
    """What is said now."""

    def compose(self) -> ComposeResult:
        """Yield a line for each."""
        for name in ("legend", "status", "notice", "hints"):
            yield Static(id=name)

    def draw(
        self, desk: Desk, legend: Legend, *, has_panel: bool, has_legend: bool, end_key: str
    ) -> None:
        """Draw legend and status; with a panel the status says only what that does not.

        end_key: what brings to the end of the conversation; empty there.
        """
        self._show("legend", legend_line(legend) if has_legend and legend.arms else None)
        self._show("status", _status(desk, has_panel=has_panel, end_key=end_key))

    def tell(self, text: str, *, is_error: bool = False) -> None:
        """Say what a command did, or what was wrong with it, until the next one."""
        self.told = text
        self._show("notice", plain(text, "$text-error" if is_error else "") if text else None)

    def hint(self, found: Sequence[tuple[str, str]]) -> None:
        """Show what a line may become, and what each is about."""
        width = max((len(name) for name, _ in found), default=0)
        lines = [f"{name:{width}}  {summary}".rstrip() for name, summary in found[:MOST_HINTS]]
        if len(found) > MOST_HINTS:
            lines[-1] = f"… {len(found) - MOST_HINTS + 1} more, Tab completes"
        self._show("hints", plain("\n".join(lines)) if lines else None)

    def _show(self, name: str, content: Content | None) -> None:
        line = self.query_one(f"#{name}", Static)
        line.display = content is not None
        if content is not None:
            redraw(line, content)


def _status(desk: Desk, *, has_panel: bool, end_key: str) -> Content:
    if desk.setup is None:
        return plain(
            f"loading the models {percent(desk.loaded)}"
            if desk.is_busy
            else "no models: /set chooses a pool"
        )
    if has_panel:
        line = plain(desk.chat.title or "a new conversation")
    else:
        line = status(desk.live, desk.setup, is_busy=desk.is_answering)
    if desk.is_stopping:
        return plain("stopping · ").append(line)
    if desk.is_answering and not desk.live.snapshot.prompt_tokens:
        read, total = desk.reading or (0, 0)
        share = f"{percent(min(read / total, 1))} of {total:,} tokens" if total else "the prompt"
        return plain(f"reading {share} · ").append(line)
    return plain(f"↓ more below, {end_key} · ").append(line) if end_key else line
