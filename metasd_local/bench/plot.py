"""A picture of a benchmark: speed-up over plain by domain and policy, as one SVG text."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from metasd_local.bench.report import is_invalid
from metasd_local.errors import UsageError
from metasd_local.protocols import PLAIN

# Colours that colour-blind readers can tell apart; the shapes say the same without colour.
# Source: Okabe and Ito, "Color Universal Design", 2008, without black and yellow.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_SHAPES = (
    "m0-5a5 5 0 1 0 0 10a5 5 0 1 0 0-10z",
    "m-4.5-4.5h9v9h-9z",
    "m0-5.5l5.5 10h-11z",
    "m0-6l6 6l-6 6l-6-6z",
    "m-5.5-4.5h11l-5.5 10z",
)
_LEFT, _TOP, _BOTTOM = 48, 64, 364
_STEP, _LINE = 16, 20
_CHARACTER = 7.2
"""Pixels a character of a label takes at most, on average."""


def plot_svg(document: Mapping[str, Any]) -> str:
    """Draw the results of a bench document; what has no speed-up gets no mark.

    `plain` is the line at 1, a domain of looping answers is hatched. The background is part of
    the picture, so that a dark viewer shows it as a light one does.
    """
    results = [row for row in document["results"] if row["policy"] != PLAIN]
    shown = [row for row in results if row["speedup"] is not None]
    domains = list(dict.fromkeys(row["domain"] for row in results))
    policies = list(dict.fromkeys(row["policy"] for row in results))
    invalid = {row["domain"] for row in document["results"] if is_invalid(row)}
    highest = max([1.25, *(end for row in shown for end in (row["speedup"], *_interval(row)))])
    tick = _tick(highest)
    scale = (_BOTTOM - _TOP) / (tick * math.ceil(highest / tick))
    group = max([_STEP * (len(policies) + 2), *(_width(name) + 16 for name in domains)])
    centres = {name: _LEFT + group * (index + 0.5) for index, name in enumerate(domains)}
    right = _LEFT + group * max(len(domains), 1)
    title = "Speed-up over plain decoding" + (", EMULATED" if document["emulated"] else "")
    names = ("pool", "device", "threads", "scheme", "temperature", "commit")
    subtitle = ", ".join(f"{name} {document[name]}" for name in names if document[name] is not None)
    width = max(right + 48 + max(map(_width, ["plain", *policies])), _LEFT + _width(subtitle))
    height = max(_BOTTOM + 48, _TOP + _LINE * (len(policies) + 2))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" font-family="sans-serif" font-size="12">',
        '<defs><pattern id="loops" width="8" height="8" patternUnits="userSpaceOnUse">'
        '<path d="M0 8L8 0" stroke="#ccc"/></pattern></defs>',
        '<rect width="100%" height="100%" fill="#fff"/>',
        _label(_LEFT, 24, title, ' font-size="16"'),
        _label(_LEFT, 46, subtitle),
    ]
    for number in range(math.ceil(highest / tick) + 1):
        y = _BOTTOM - number * tick * scale
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{right:.1f}" stroke="#ddd"/>')
        parts.append(_label(_LEFT - 8, y + 4, f"{number * tick:g}", ' text-anchor="end"'))
    for name, x in centres.items():
        parts.append(_label(x, _BOTTOM + 20, name, ' text-anchor="middle"'))
        if name in invalid:
            box = f'x="{x - group / 2:.1f}" y="{_TOP}" width="{group:.1f}"'
            parts.append(f'<rect {box} height="{_BOTTOM - _TOP}" fill="url(#loops)"/>')
            parts.append(_label(x, _BOTTOM + 38, "loops: invalid", ' text-anchor="middle"'))
    line = '<path d="M{:.1f} {:.1f}H{:.1f}" stroke="#222" stroke-width="1.5"/>'
    parts.append(line.format(_LEFT, _BOTTOM - scale, right))
    for row in shown:
        rank = policies.index(row["policy"])
        x = centres[row["domain"]] + _STEP * (rank - (len(policies) - 1) / 2)
        ends = [_BOTTOM - scale * end for end in _interval(row)]
        parts.append(_mark(rank, x, _BOTTOM - scale * row["speedup"], ends, _caption(row)))
    parts.append(line.format(right + 14, _TOP + 6, right + 30) + _label(right + 38, 74, PLAIN))
    for rank, policy in enumerate(policies):
        y = _TOP + 6 + _LINE * (rank + 1)
        parts.append(_mark(rank, right + 22, y, (), policy))
        parts.append(_label(right + 38, y + 4, policy))
    return "\n".join([*parts, "</svg>", ""])


def check_writable(path: Path) -> None:
    """Raise UsageError if a plot could not be written to `path`; leave what is there alone."""
    is_new = not os.path.lexists(path)
    try:
        path.open("ab").close()
        if is_new:
            path.unlink()
    except OSError as error:
        raise _failure(path, error) from error


def write_plot(path: Path, document: Mapping[str, Any]) -> None:
    """Write the picture of a bench document; raise UsageError if `path` cannot be written."""
    try:
        path.write_text(plot_svg(document), encoding="utf-8")
    except OSError as error:
        raise _failure(path, error) from error


def _failure(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path}: the plot cannot be written: {error.strerror}; name another file")


def _interval(row: Mapping[str, Any]) -> Sequence[float]:
    return [end for end in row["interval"] or () if end is not None]


def _caption(row: Mapping[str, Any]) -> str:
    ends = " to ".join(f"{end:.2f}" for end in _interval(row))
    return f"{row['policy']}, {row['domain']}: {row['speedup']:.2f}" + (ends and f" ({ends})")


def _tick(highest: float) -> float:
    """Return the round distance that puts four to ten lines below `highest`."""
    power: float = 10.0 ** math.floor(math.log10(highest / 4))
    return next((power * step for step in (5, 2.5, 2) if power * step <= highest / 4), power)


def _width(text: str) -> float:
    return _CHARACTER * len(text)


def _label(x: float, y: float, text: str, attributes: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="#222"{attributes}>{_escape(text)}</text>'


def _mark(rank: int, x: float, y: float, ends: Sequence[float], caption: str) -> str:
    """Draw the mark of a policy with whiskers, shapes and colours running in different cycles."""
    colour = _COLOURS[rank % len(_COLOURS)]
    whiskers = "".join(f"M{x - 4:.1f} {end:.1f}h8" for end in ends)
    if ends:
        whiskers += f"M{x:.1f} {ends[0]:.1f}V{ends[-1]:.1f}"
    shape = f"M{x:.1f} {y:.1f}{_SHAPES[rank % len(_SHAPES)]}"
    return (
        f'<g stroke="{colour}" fill="{colour}"><title>{_escape(caption)}</title>'
        f'<path d="{whiskers}" stroke-width="1.5"/><path d="{shape}"/></g>'
    )


def _escape(text: str) -> str:
    """Make a text safe inside an element; XML knows no control characters."""
    return escape("".join(each if each.isprintable() else "�" for each in text))
