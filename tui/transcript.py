"""The conversation on the screen: scrolls, follows the end, holds few messages at a time."""

from __future__ import annotations

from collections.abc import Sequence

from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import Static

from tui.conversation import Turn
from tui.desk import Changes, Desk
from tui.figures import answer_line
from tui.marks import Legend
from tui.show import plain
from tui.turn_view import TurnView

PAGE = 12
"""Turns shown at once at first, and added when the user scrolls up to the first of them."""
NEAR_END_ROWS = 2


class Transcript(VerticalScroll, can_focus=False):
    """Shows turns, and notes between them.

    It stays at the end until the user scrolls up, and does so again once the user comes within two
    rows of it: the end moves while an answer grows, and Textual 8.2.8 follows again only for who
    hits it exactly.
    """

    def __init__(self, legend: Legend) -> None:
        super().__init__()
        self.shows_tokens = False
        self.follows = True
        self._legend = legend
        self._earlier: list[Turn] = []
        """Turns that are not mounted yet."""
        self._is_paging = False
        self._last: TurnView | None = None

    @property
    def views(self) -> Sequence[TurnView]:
        """Return the turns on the screen."""
        return list(self.query(TurnView))

    async def show(self, turns: Sequence[Turn], *more: Widget) -> None:
        """Show other turns instead."""
        await self.remove_children()
        self._earlier = list(turns[:-PAGE])
        await self.mount_all([*map(self._view, turns[-PAGE:]), *more])
        self.follow()
        self.call_after_refresh(self._fill)

    async def add(self, turn: Turn) -> None:
        """Append a turn and go to the end."""
        await self.query(".welcome").remove()
        self._last = self._view(turn)
        await self.mount(self._last)
        self.follow()

    async def draw(self, changes: Changes, desk: Desk) -> None:
        """Show what happened to the conversation of `desk`."""
        if changes.was_taken_back:
            await self.show(desk.chat.turns)
            if not changes.errors:
                await self.say("stopped before the first word")
        elif changes.ended or desk.is_answering:
            view = self._last
            assert view is not None
            await view.grow(changes.answer, changes.marks)
            snapshot = desk.live.snapshot
            if changes.ended:
                await view.finish()
            elif snapshot.rounds:
                view.show_figures(answer_line(snapshot, desk.live.plain_s, None))
        for text in changes.notices:
            await self.say(text)
        for text in changes.errors:
            await self.say(text, is_error=True)

    async def say(self, text: str, *, is_error: bool = False) -> None:
        """Append a note of the application."""
        await self.mount(Static(plain(text), classes="note error" if is_error else "note"))
        self.follow()

    async def choose_view(self, *, shows_tokens: bool) -> None:
        """Show all answers as tokens or as Markdown."""
        self.shows_tokens = shows_tokens
        for view in self.views:
            await view.choose_view(shows_tokens=shows_tokens)

    def follow(self) -> None:
        """Go to the end and stay there."""
        self.follows = True
        self.anchor()

    def turn_page(self, direction: int) -> None:
        """Scroll by what is visible, up with -1 and down with 1."""
        rows = direction * self.size.height
        if self.scroll_y + rows >= self.max_scroll_y:
            self.follow()
        else:
            self.scroll_relative(y=rows, animate=False)

    def release_anchor(self) -> None:
        """Stay here: the user scrolls."""
        self.follows = False
        super().release_anchor()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Follow again near the end; show more at the beginning."""
        super().watch_scroll_y(old_value, new_value)
        is_near_end = self.max_scroll_y - new_value <= NEAR_END_ROWS
        if not self.follows and new_value > old_value and is_near_end:
            self.follow()
        if self._earlier and new_value <= 0 < old_value and not self._is_paging:
            self._is_paging = True
            self.call_later(self._show_earlier)

    async def _fill(self) -> None:
        """Show earlier turns until there is something to scroll."""
        if self._earlier and not self.max_scroll_y:
            await self._show_earlier()
            self.call_after_refresh(self._fill)

    async def _show_earlier(self) -> None:
        """Mount the turns before the first and stay where the user is."""
        height = self.virtual_size.height
        page, self._earlier = self._earlier[-PAGE:], self._earlier[:-PAGE]
        await self.mount_all(map(self._view, page), before=0)

        def stay() -> None:
            if self.follows:
                self.follow()
            else:
                self.scroll_to(y=self.virtual_size.height - height, animate=False)
            self._is_paging = False

        self.call_after_refresh(stay)

    def _view(self, turn: Turn) -> TurnView:
        return TurnView(turn, self._legend, shows_tokens=self.shows_tokens)
