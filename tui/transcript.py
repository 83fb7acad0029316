"""The conversation on the screen: scrolls, follows the end, paints only what is seen."""

from __future__ import annotations

import itertools
from bisect import bisect_right

from rich.segment import Segment
from textual.content import Content
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip
from textual.widget import Widget

from metasd_local.stats import Snapshot, answer_line
from tui.conversation import Conversation, Turn
from tui.desk import Changes, Desk
from tui.marks import Legend
from tui.show import Painter, Piece, plain
from tui.turn_view import BAR, ITEM_LINES, Item, question

NEAR_END_ROWS = 2
KINDS = ("answer", "code", "question", "reasoning", "figures", "note", "error")


class Transcript(ScrollView, can_focus=False):
    """Shows turns, and notes between them, in a single widget: text that grows moves no other.

    It stays at the end until the user scrolls up, and does so again once the user comes within two
    rows of it: the end moves while an answer grows, and Textual 8.2.8 follows again only for who
    hits it exactly.
    """

    COMPONENT_CLASSES = {f"transcript--{kind}" for kind in KINDS}  # noqa: RUF012

    def __init__(self, legend: Legend, fold_key: str) -> None:
        super().__init__()
        self.follows = True
        self.shows_tokens = False
        self._shows_reasoning = False
        self._legend = legend
        self._fold_key = fold_key
        self._chat: Conversation | None = None
        self._greeting: list[Item] = []
        self._items: list[Item] = []
        self._lines = itertools.count(ITEM_LINES, ITEM_LINES)
        """Numbers of the first lines of items."""
        self._starts = [0]
        """The first row of every item, and what there are in all."""
        self._painter = self._new_painter()
        self._is_arranging = False
        self._shown: list[Strip] = []
        """The rows in sight."""

    def greet(self, content: Content) -> None:
        """Show a text at the top of conversations without turns."""
        others = [item for item in self._items if item not in self._greeting]
        self._greeting = [Item(0, Piece(content))]
        is_empty = all(item.turn is None for item in others)
        self._items = [*self._greeting * is_empty, *others]
        self._arrange()

    def show(self, chat: Conversation) -> None:
        """Show a conversation as it is now; notes stay as long as none other is shown."""
        shown = [item for item in self._items if chat is self._chat and item not in self._greeting]
        self._chat = chat
        # Those that were taken back go, those that are new come to the end.
        turns = {None, *chat.turns}
        new = turns - {item.turn for item in shown}
        self._items = [] if chat.turns else [*self._greeting]
        self._items += [item for item in shown if item.turn in turns]
        self._items += [self._item(turn) for turn in chat.turns if turn in new]
        self.follow()

    def draw(self, changes: Changes, desk: Desk) -> None:
        """Show what happened to the conversation of `desk`."""
        if changes.taken_back is not None:
            self.show(desk.chat)
            if not changes.errors:
                self._note("stopped before the first word")
        elif changes.ended or desk.is_answering:
            last = next(item for item in reversed(self._items) if item.turn)
            num_tokens = desk.live.snapshot.emitted
            if changes.ended:
                last.finish()
            else:  # how fast it comes is said elsewhere until it has ended
                last.update(answer_line(Snapshot(emitted=num_tokens)) * bool(num_tokens))
            self._arrange()
        for text in changes.notices:
            self._note(text)
        for error in changes.errors:
            self._note(str(error), "error")

    def say(self, text: str) -> None:
        """Append what the user asked the application for, and go to the end."""
        self._note(text)
        self.follow()

    def choose_view(self, *, shows_tokens: bool) -> None:
        """Show all answers as tokens or as Markdown."""
        self.shows_tokens = shows_tokens
        self._paint_anew()

    def toggle_reasoning(self) -> None:
        """Open or fold the reasoning of all answers."""
        self._shows_reasoning = not self._shows_reasoning
        self._paint_anew()

    def follow(self) -> None:
        """Go to the end and stay there."""
        self.follows = True
        self._arrange()

    def release_anchor(self) -> None:
        """Stay here: the user scrolls."""
        super().release_anchor()
        self.follows = False
        # Who scrolls down at the end, or where there is nothing to scroll, has not left it.
        self.call_later(self._follow_at_end)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Paint what comes into sight; follow again near the end."""
        self.vertical_scrollbar.position = new_value
        if self._is_arranging:
            return
        is_near_end = self.max_scroll_y - new_value <= NEAR_END_ROWS
        self.follows = self.follows or (new_value > old_value and is_near_end)
        self._arrange()

    def on_resize(self) -> None:
        """Wrap all text anew."""
        self._paint_anew()

    def notify_style_update(self) -> None:
        """Use the colours of another theme."""
        super().notify_style_update()
        self._paint_anew()

    def render_lines(self, crop: Region) -> list[Strip]:
        """Return rows of what is in sight; those that were shown before cost nothing."""
        strips = [self.render_line(y).crop(crop.x, crop.right) for y in crop.line_range]
        for line_filter in self.get_line_filters():
            background = self.background_colors[1]
            strips = [strip.apply_filter(line_filter, background) for strip in strips]
        return strips

    def render_line(self, y: int) -> Strip:
        """Return a row of what is in sight, as wide as the widget."""
        if y >= len(self._shown):
            return Strip.blank(self.size.width, self.visual_style.rich_style)
        selection = self.text_selection
        return self._shown[y] if selection is None else self._selected(self._shown[y], selection)

    def get_selection(self, selection: Selection) -> tuple[str, str]:
        """Return the selected text as its lines are, however they are wrapped."""
        found = []
        for item in self._items:
            for part in item.parts:
                for number, line in enumerate(part.lines, part.line):
                    span = selection.get_span(number)
                    if span is not None:
                        found.append(line[span[0] : None if span[1] < 0 else span[1]])
        return "\n".join(found), "\n"

    def _selected(self, strip: Strip, selection: Selection) -> Strip:
        style = self.screen.get_component_rich_style("screen--selection")
        segments: list[Segment] = []
        for text, own, _ in strip:
            offset = own.meta.get("offset") if own else None
            span = selection.get_span(offset[1]) if offset else None
            if own is None or offset is None or span is None:
                segments.append(Segment(text, own))
                continue
            start = max(span[0] - offset[0], 0)
            end = max(span[1] - offset[0], start) if span[1] >= 0 else len(text)
            segments += (
                Segment(text[:start], own),
                Segment(text[start:end], own + style),
                Segment(text[end:], own),
            )
        return Strip(segments, strip.cell_length)

    def _note(self, text: str, kind: str = "note") -> None:
        self._items.append(Item(next(self._lines), Piece(plain(text), BAR, BAR, kind)))
        self._arrange()

    def _item(self, turn: Turn) -> Item:
        return Item(next(self._lines), question(turn), turn)

    def _follow_at_end(self) -> None:
        if self.scroll_target_y >= self.max_scroll_y:
            self.follow()

    def _paint_anew(self) -> None:
        """Forget how everything looks; what is in sight is painted at once."""
        self._painter = self._new_painter()
        self._arrange()

    def _new_painter(self) -> Painter:
        return Painter(
            self,
            self.scrollable_content_region.width,
            self._legend,
            shows_tokens=self.shows_tokens,
            shows_reasoning=self._shows_reasoning,
            fold_key=self._fold_key,
        )

    def _arrange(self) -> None:
        """Paint what is in sight, scroll to where the user is, set the scrollbar."""
        region = self.scrollable_content_region
        if not region:
            return
        top = round(self.scroll_y)
        while True:
            heights = (item.height(region.width) for item in self._items)
            self._starts = [0, *itertools.accumulate(heights)]
            most = max(self._starts[-1] - region.height, 0)
            top = most if self.follows else min(top, most)
            first = bisect_right(self._starts, top) - 1
            end = bisect_right(self._starts, top + region.height - 1)
            unseen = (
                index
                for index in range(first, min(end, len(self._items)))
                if self._items[index].painter is not self._painter
            )
            index = next(unseen, None)
            if index is None:
                break
            self._items[index].paint(self._painter)
            if self._starts[index] < top:
                # Rows below it stay where they are.
                top += self._items[index].height(region.width) - (
                    self._starts[index + 1] - self._starts[index]
                )
        self._is_arranging = True
        # The reactive attribute would lay out the whole screen.
        self.set_reactive(Widget.virtual_size, Size(region.width, self._starts[-1]))
        self.vertical_scrollbar.window_virtual_size = self._starts[-1]
        self.scroll_y = self.scroll_target_y = top
        self._is_arranging = False
        self._show_rows(region.size, top)

    def _show_rows(self, size: Size, top: int) -> None:
        """Show the rows from `top` on; those that are on the screen already are not drawn again."""
        before, self._shown = self._shown, []
        first = bisect_right(self._starts, top) - 1
        for start, item in zip(self._starts[first:], self._items[first:], strict=False):
            if start >= top + size.height:
                break
            self._shown += item.rows[max(top - start, 0) : top + size.height - start]
        common = zip(before, self._shown, strict=False)
        changed = [y for y, (old, new) in enumerate(common) if old != new]
        changed += range(*sorted((len(before), len(self._shown))))
        if changed:
            self.refresh(Region(0, changed[0], self.size.width, changed[-1] - changed[0] + 1))
