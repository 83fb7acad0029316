"""Answers as Markdown."""

from __future__ import annotations

from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from textual.widgets import Markdown


class AnswerMarkdown(Markdown):
    """Shows what a model wrote: HTML is text, a line break is a line break, no link is followed."""

    def __init__(self, text: str) -> None:
        super().__init__(text, parser_factory=_make_parser, open_links=False)


def _make_parser() -> MarkdownIt:
    parser = MarkdownIt("gfm-like", {"html": False})
    parser.core.ruler.push("line_breaks", _keep_line_breaks)
    return parser


def _keep_line_breaks(state: StateCore) -> None:
    """Keep what Markdown would join: poems, addresses and dialogues are written in lines."""
    for block in state.tokens:
        for token in block.children or ():
            if token.type == "softbreak":
                token.type = "hardbreak"
