"""Numbers as the chat writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from metasd_local.stats import ArmCounts, Snapshot, percent, speed

BARS = "▁▂▃▄▅▆▇█"


def sparkline(rates: Iterable[float]) -> str:
    """Return one bar for every rate in [0, 1]."""
    return "".join(BARS[min(int(rate * len(BARS)), len(BARS) - 1)] for rate in rates)


def stats_lines(stats: Mapping[str, Any]) -> list[str]:
    """Return what is known of an answer as lines, given the `stats` of its turn.

    Those of an older version may lack some.
    """
    known = {**dict.fromkeys(("pool", "policy", "seed")), **Snapshot().to_json(), **stats}
    waited = known["seconds_to_first_token"]
    lines = [
        f"{known['pool']} · {known['policy']} · seed {known['seed']}",
        f"prompt {known['prompt_tokens']} tokens, {known['prompt_tokens_reused']} known already, "
        f"read in {known['seconds_prompt']:.2f} s",
        f"answer {known['emitted']} tokens in {known['seconds_decode']:.2f} s, "
        f"{speed(known['tokens_per_second'])} tok/s"
        + (f", the first after {waited:.2f} s" if waited is not None else ""),
        f"drafted {known['drafted']}, accepted {known['accepted']} in {known['rounds']} rounds; "
        f"outside llama.cpp {percent(known['overhead_share'])}, in loops "
        f"{percent(known['loop_share'])}",
    ]
    for name, counted in known["arms"].items():
        arm = {**asdict(ArmCounts()), **counted}
        rate = arm["accepted"] / arm["drafted"] if arm["drafted"] else None
        pace = arm["emitted"] / arm["seconds"] if arm["seconds"] else None
        lines.append(
            f"{name:14} {arm['rounds']:5} rounds {percent(rate):>6} accepted {speed(pace):>6} tok/s"
        )
    return lines
