"""Numbers as the chat writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from metasd_local.stats import Snapshot

BARS = "▁▂▃▄▅▆▇█"
ENDINGS = {"cancelled": "stopped", "length": "limit reached"}
MOST_ARMS = 3
"""Most arms named under an answer."""


def percent(share: float | None) -> str:
    """Return a share, `-` for one that is not known."""
    return "-" if share is None else f"{100 * share:.0f} %"


def speed(tokens_per_second: float | None) -> str:
    """Return tokens per second without its unit."""
    if tokens_per_second is None:
        return "-"
    return f"{tokens_per_second:.{0 if tokens_per_second >= 100 else 1}f}"


def gain(tokens_per_second: float | None, plain_s: float | None) -> float | None:
    """Return how much faster than plain decoding, 0.5 for half as fast again.

    plain_s: seconds a single token would cost; None if nobody knows.
    """
    if tokens_per_second is None or not plain_s:
        return None
    return tokens_per_second * plain_s - 1


def gain_text(value: float | None) -> str:
    """Return a gain in per cent, always with its sign and marked as an estimate."""
    return "~-" if value is None else f"~{100 * value:+.0f} %"


def sparkline(rates: Iterable[float]) -> str:
    """Return one bar for every rate in [0, 1]."""
    return "".join(BARS[min(int(rate * len(BARS)), len(BARS) - 1)] for rate in rates)


def answer_line(snapshot: Snapshot, plain_s: float | None, seed: int | None) -> str:
    """Return the line under an answer; `seed` only if it is worth knowing."""
    unit = "token" if snapshot.emitted == 1 else "tokens"
    ending = ENDINGS.get(snapshot.finish_reason or "")
    parts = [f"{snapshot.emitted} {unit}" + (f" ({ending})" if ending else "")]
    if snapshot.tokens_per_second is not None:
        parts.append(f"{speed(snapshot.tokens_per_second)} tok/s")
    gained = gain(snapshot.tokens_per_second, plain_s)
    if gained is not None and snapshot.drafted:
        parts.append(f"{gain_text(gained)} on plain")
    if snapshot.acceptance_rate is not None:
        parts.append(f"{percent(snapshot.acceptance_rate)} accepted")
    arms = sorted(snapshot.arms.items(), key=lambda item: -item[1].rounds)
    if arms:
        shares = (f"{name} {percent(arm.rounds / snapshot.rounds)}" for name, arm in arms)
        parts.append(", ".join(list(shares)[:MOST_ARMS]))
    if snapshot.seconds_to_first_token is not None:
        parts.append(f"first {snapshot.seconds_to_first_token:.2f} s")
    if seed is not None:
        parts.append(f"seed {seed}")
    return " · ".join(parts)


def stats_lines(stats: Mapping[str, Any]) -> list[str]:
    """Return what is known of an answer as lines, given the `stats` of its turn."""
    waited = stats["seconds_to_first_token"]
    lines = [
        f"{stats['pool']} · {stats['policy']} · seed {stats['seed']}",
        f"prompt {stats['prompt_tokens']} tokens, {stats['prompt_tokens_reused']} known already, "
        f"read in {stats['seconds_prompt']:.2f} s",
        f"answer {stats['emitted']} tokens in {stats['seconds_decode']:.2f} s, "
        f"{speed(stats['tokens_per_second'])} tok/s"
        + (f", the first after {waited:.2f} s" if waited is not None else ""),
        f"drafted {stats['drafted']}, accepted {stats['accepted']} in {stats['rounds']} rounds; "
        f"outside llama.cpp {percent(stats['overhead_share'])}, in loops "
        f"{percent(stats['loop_share'])}",
    ]
    for name, arm in stats["arms"].items():
        rate = arm["accepted"] / arm["drafted"] if arm["drafted"] else None
        pace = arm["emitted"] / arm["seconds"] if arm["seconds"] else None
        lines.append(
            f"{name:14} {arm['rounds']:5} rounds {percent(rate):>6} accepted {speed(pace):>6} tok/s"
        )
    return lines
