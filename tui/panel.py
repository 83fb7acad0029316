"""The decoding at work: a panel beside the conversation, or one line below it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from textual.content import Content

from metasd_local.stats import ArmCounts, Snapshot, gain, gain_text, percent, speed
from tui.figures import sparkline
from tui.live import NUM_RECENT_ROUNDS, Live
from tui.marks import PLAIN, Legend
from tui.show import MUTED, plain

if TYPE_CHECKING:
    from metasd_local.session import Setup

NAME_WIDTH = 10
HEADER = f"  {'arm':{NAME_WIDTH}} used acc. len tok/s score recent"
COUNTS = "0123456789abcdefg"
"""How the accepted tokens of a round are written, up to the widest window."""


def panel(live: Live, setup: Setup, legend: Legend, *, is_busy: bool) -> Content:
    """Return all there is to know about the answer that is being given, else about the last."""
    snapshot = live.snapshot
    pace, *compared = _speeds(live, is_busy=is_busy)
    used, size = _used(snapshot, setup), setup.context_size
    context = f"context {used} of {size} ({percent(used / size)})"
    lines = [
        plain(f"pool {setup.pool} · policy {setup.policy} · {setup.scheme}", "bold"),
        plain(f"{setup.device} · {_threads(setup)} · {context}"),
        plain(" · ".join((pace + " now" * is_busy, *compared))),
    ]
    if snapshot.prompt_tokens:
        waited_s = live.seconds_to_first_token
        first = "" if waited_s is None else f" · first {waited_s:.2f} s"
        known = f" ({snapshot.prompt_tokens_reused} known)" * bool(snapshot.prompt_tokens_reused)
        read = f"prompt {snapshot.prompt_tokens}{known}, {snapshot.seconds_prompt:.2f} s{first}"
        lines.append(plain(read, MUTED))
    lines += [Content(""), plain(HEADER, MUTED)]
    names = dict.fromkeys((*setup.drafters, *snapshot.arms, *live.scores))
    lines += [
        _arm_row(name, live, legend, is_current=is_busy and name == live.arm) for name in names
    ]
    if live.strip:
        arms = [
            (legend.sign(event.arm), legend.colour(event.arm)) if event.drafted else "·"
            for event in live.strip
        ]
        counts = "".join(COUNTS[min(event.accepted, len(COUNTS) - 1)] for event in live.strip)
        lines += [
            Content(""),
            plain("last rounds: drafted by, tokens accepted", MUTED),
            Content.assemble(*arms),
            plain(counts),
        ]
    return Content("\n").join(lines)


def status(live: Live, setup: Setup, *, is_busy: bool) -> Content:
    """Return the panel folded into one line."""
    snapshot = live.snapshot
    if not snapshot.rounds:
        parts = [setup.pool, setup.policy, setup.device, _threads(setup)]
        return plain(" · ".join((*parts, f"context {setup.context_size}")))
    parts = [
        f"▸{live.arm}" if is_busy else setup.policy,
        *(each.removeprefix("gain ") for each in _speeds(live, is_busy=is_busy)),
        *([f"{percent(snapshot.acceptance_rate)} accepted"] if snapshot.drafted else []),
        f"context {percent(_used(snapshot, setup) / setup.context_size)}",
    ]
    return plain(" · ".join(parts))


def _used(snapshot: Snapshot, setup: Setup) -> int:
    """Return how much of the context is full; the last token of an answer is never read."""
    return min(snapshot.prompt_tokens + snapshot.emitted, setup.context_size)


def _arm_row(name: str, live: Live, legend: Legend, *, is_current: bool) -> Content:
    snapshot = live.snapshot
    counts = snapshot.arms.get(name, ArmCounts())
    share = counts.rounds / snapshot.rounds if snapshot.rounds else None
    length = speed(counts.emitted / counts.rounds) if counts.rounds else "-"
    pace = speed(counts.emitted / counts.seconds if counts.seconds else None)
    sign, colour = (" ", "") if name == PLAIN else (legend.sign(name), legend.colour(name))
    return Content.assemble(
        ("▸" if is_current else " ", "bold"),
        (sign, f"{colour} bold"),
        plain(f"{name[:NAME_WIDTH]:{NAME_WIDTH}}", f"{colour} bold" if is_current else colour),
        f" {_share(share):>4} {_share(counts.acceptance_rate):>4} {length:>3} {pace:>5} ",
        f"{_score(live.scores.get(name)):>5} ",
        f"{sparkline(live.recent(name)):{NUM_RECENT_ROUNDS}}",
    )


def _share(share: float | None) -> str:
    return percent(share).replace(" ", "")


def _score(score: float | None) -> str:
    """Return a reward in [0, 1], tokens per second, or `new` for an arm not yet tried."""
    if score is None:
        return "-"
    return f"{score:.{2 if score < 10 else 0}f}" if math.isfinite(score) else "new"


def _speeds(live: Live, *, is_busy: bool) -> list[str]:
    """Return tokens per second, without drafts, and the gain: of now, else of the whole answer.

    Only the first where nobody knows what plain decoding costs, no gain where nothing was drafted.
    """
    snapshot = live.snapshot
    pace, plain_s = snapshot.tokens_per_second, live.plain_s
    if is_busy:
        pace, plain_s = live.speed_now, live.plain_now_s
    gained = gain(pace, plain_s) if snapshot.drafted else None
    return [
        f"{speed(pace)} tok/s",
        *([f"plain ~{speed(1 / plain_s)}"] if plain_s else []),
        *([] if gained is None else [f"gain {gain_text(gained)}"]),
    ]


def _threads(setup: Setup) -> str:
    return "1 thread" if setup.threads == 1 else f"{setup.threads} threads"
