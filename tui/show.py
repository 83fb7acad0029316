"""Untrusted text on its way to the screen: nothing in it is interpreted."""

from __future__ import annotations

from collections.abc import Iterable

from textual.content import Content, Span
from textual.widgets import Static

from tui.conversation import Mark
from tui.marks import OWN, Legend


def plain(text: str, style: str = "") -> Content:
    """Return text as it may be shown: without control characters, its brackets just brackets."""
    # Imported when first needed: the module behind it loads numpy.
    from metasd_local.text import printable

    return Content.styled(printable(text), style)


def marked(text: str, marks: Iterable[Mark], legend: Legend) -> Content:
    """Return text with what arms drafted underlined, coloured, and preceded by the arm's sign."""
    from metasd_local.text import printable

    parts: list[str] = []
    spans: list[Span] = []
    position = shown = 0
    for arm, length in marks:
        part = printable(text[position : position + length])
        position += length
        if arm != OWN and part:
            text_part = part.lstrip("\n")
            breaks = len(part) - len(text_part)
            part = part[:breaks] + legend.sign(arm) + text_part
            start = shown + breaks
            spans += (
                Span(start, start + 1, f"{legend.colour(arm)} bold"),
                Span(start + 1, shown + len(part), f"{legend.colour(arm)} underline"),
            )
        parts.append(part)
        shown += len(part)
    parts.append(printable(text[position:]))
    return Content("".join(parts), spans)


def redraw(widget: Static, content: Content) -> None:
    """Show other content; the screen is laid out anew, which costs most, only for a new height."""
    height = content.get_height({}, widget.size.width) if widget.size.width else -1
    widget.update(content, layout=height != widget.size.height)


def legend_line(legend: Legend) -> Content:
    """Return which sign is whose."""
    parts: list[Content | tuple[str, str]] = []
    for arm in legend.arms:
        parts += (
            (legend.sign(arm), f"{legend.colour(arm)} bold"),
            plain(arm, f"{legend.colour(arm)} underline"),
            (" ", ""),
        )
    return Content.assemble(*parts, ("unmarked: the target's own", "$text-muted"))
