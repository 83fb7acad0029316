"""The tables of a benchmark: for a terminal, for an issue and for the README."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, TypeAlias

COLUMNS = 79
UNKNOWN = "\N{EN DASH}"
_SHARES = {
    "accepted": "acceptance_rate",
    "overhead": "overhead_share",
    "possible": "of_possible",
    "best arm": "best_arm_share",
}
_NOTES = (
    "Speed-up: tokens/s ÷ plain's, ± half the 95 % interval. All: geometric mean of valid domains. "
    "Of best: ÷ tokens/s of each domain's best single arm and window, plain among them. Worst: the "
    "lowest speed-up of a valid domain. Length: tokens a round. Accepted: of the drafted tokens. "
    "Overhead: time outside llama.cpp. Possible: the share of the speed-up the cost curve allows "
    "for the same rounds with no time outside llama.cpp and no catching up, and that speed-up. "
    "Best arm: rounds it played. From length on, means over the domains. Loops: tokens that repeat "
    "the answer; they count in no other figure."
)
_KEPT = (
    "Target, drafters and index start every answer empty. auto keeps what it learned of drafters "
    "and costs from answer to answer, as it does for a user, and begins with nothing but the cost "
    "curve."
)
_KEPT_EMULATED = (
    "Everything starts every answer from nothing, what auto learned of drafters too; the target's "
    "costs are learned over the whole bench."
)
_Row: TypeAlias = Mapping[str, Any]


def table_lines(document: Mapping[str, Any]) -> list[str]:
    """Return the report for a terminal; only a very long name makes a line exceed COLUMNS."""
    lines = _wrap(", ".join(f"{name} {value}" for name, value in facts(document)))
    for title, rows in tables(document).items():
        lines += ["", title, *_columns(rows)]
    for remark in _remarks(document):
        lines += ["", *_wrap(remark)]
    return lines


def report_block(document: Mapping[str, Any]) -> str:
    """Return all there is to know as Markdown, to be pasted into an issue.

    Its last line says how to repeat the measurement.
    """
    parts = ["\n".join(f"- {name}: {escape(value)}" for name, value in facts(document))]
    parts += [f"**{title}**\n\n{markdown_table(rows)}" for title, rows in tables(document).items()]
    parts += [escape(remark) for remark in _remarks(document)]
    command, commit, prompts = (
        _text(document[key]).replace("`", "'") for key in ("command", "commit", "prompts_hash")
    )
    parts.append(f"Measured with `{command}`, commit `{commit}`, prompts `{prompts[:12]}`.")
    return "\n\n".join(["### metasd bench", *parts]) + "\n"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of plain text, the first one the heading, as a Markdown table."""
    heading, *body = ["| " + " | ".join(map(escape, row)) + " |" for row in rows]
    return "\n".join([heading, "|---" * len(rows[0]) + "|", *body])


def facts(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what was measured and on what, by name; what is unknown is left out."""
    machine, prompts = document["machine"], document["prompts_hash"]
    memory_bytes = machine["memory_bytes"]
    found = {
        "acceptance": "EMULATED" if document["emulated"] else None,
        "pool": document["pool"],
        "machine": machine["cpu"],
        "cores": machine["cores"],
        "memory": memory_bytes and f"{memory_bytes / 2**30:.1f} GiB",
        "system": machine["system"],
        **{key: document[key] for key in ("device", "threads", "scheme", "temperature")},
        "most tokens": document["max_tokens"],
        "llama-cpp-python": document["llama_cpp"],
        **{key: document[key] for key in ("commit", "command")},
        "prompts": prompts and prompts[:12],
        "idle": f"{'yes' if document['idle'] else 'NO'} ({document['idle_detail']})",
    }
    return [(name, _text(value)) for name, value in found.items() if value is not None]


def _remarks(document: Mapping[str, Any]) -> list[str]:
    """Return what has to be said besides the tables, warnings first."""
    remarks = [f"Warning: {warning}" for warning in document["warnings"]]
    if not document["idle"]:
        remarks.insert(0, f"Warning: the machine was not idle: {document['idle_detail']}")
    if any(map(is_invalid, document["results"])):
        remarks.append("* not valid: more than 10 % of the tokens are loops.")
    if document["ceiling"] is not None:
        remarks.append(
            "The best arm of every domain is "
            f"{document['ceiling']:.2f} times as fast as the best single arm."
        )
    verifying = f"verify n tokens, {document['curve_depth']} before them"
    for what, key in ((verifying, "cost_curve"), ("draft a token", "drafter_costs")):
        costs = document[key] or {}
        if costs:
            shown = ", ".join(f"{name}: {1000 * cost:.3g}" for name, cost in costs.items())
            remarks.append(f"Milliseconds to {what}: {shown}.")
    remarks += [_NOTES, _KEPT_EMULATED if document["emulated"] else _KEPT]
    return [_text(remark) for remark in remarks]


def tables(document: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """Return cells by title; the first row and the first column of a table are headings."""
    found = _group_tables(document["results"], document["summary"], "")
    best = [["domain", "best arm", "window", "tokens/s", "speed-up"]]
    for row in document["best"]:
        speeds = _number("{:.1f}", row["tokens_per_second"]), _number("{:.2f}", row["speedup"])
        best.append([row["domain"], row["arm"], _number("{}", row["window"]), *speeds])
    found["Best in hindsight"] = best
    short = [
        {**row["short"], "policy": row["policy"], "domain": row["domain"]}
        for row in document["results"]
    ]
    summary = {policy: total.get("short", {}) for policy, total in document["summary"].items()}
    found |= _group_tables(short, summary, ", answers under 128 tokens")
    return {
        title: [[_text(cell) for cell in row] for row in rows]
        for title, rows in found.items()
        if rows[1:]
    }


def _group_tables(
    results: Sequence[_Row], summary: Mapping[str, _Row], suffix: str
) -> dict[str, list[list[str]]]:
    measured = [row for row in results if row["prompts"]]
    if not measured:
        return {}
    domains = list(dict.fromkeys(row["domain"] for row in measured))
    cells: dict[str, dict[str, _Row]] = {}
    for row in results:
        cells.setdefault(row["policy"], {})[row["domain"]] = row
    first = [next(iter(cells.values())).get(domain, {}) for domain in domains]
    speed = [
        ["policy", *domains, "all"],
        ["answers", *(_number("{}", row.get("prompts")) for row in first), ""],
        ["loops", *(_number("{:.0%}", row.get("loop_share")) for row in first), ""],
    ]
    details = [["policy", "of best", "worst", "length", *_SHARES]]
    for policy, by_domain in cells.items():
        rows = [by_domain.get(domain, {}) for domain in domains]
        total = summary.get(policy, {})
        speed.append([policy, *map(_speedup, rows), _speedup(total)])
        of_best = _with_interval(total.get("of_oracle"), total.get("of_oracle_interval"))
        worst = _number("{:.2f}", total.get("of_plain_worst"))
        length = _number("{:.2f}", _mean(rows, "mean_accepted_length"))
        shares = {name: _number("{:.0%}", _mean(rows, key)) for name, key in _SHARES.items()}
        possible = _mean(rows, "possible_speedup")
        if possible is not None:
            shares["possible"] += f" of {possible:.2f}"
        details.append([policy, of_best, worst, length, *shares.values()])
    return {f"Speed-up over plain{suffix}": speed, f"Details{suffix}": details}


def is_invalid(row: Mapping[str, Any]) -> bool:
    """Tell whether too many tokens of a result are loops."""
    return row.get("is_valid") is False


def _speedup(row: _Row) -> str:
    return _with_interval(row.get("speedup"), row.get("interval")) + "*" * is_invalid(row)


def _with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    half = f"±{(interval[1] - interval[0]) / 2:.2f}" if value is not None and interval else ""
    return _number("{:.2f}", value) + half


def _mean(rows: Sequence[_Row], key: str) -> float | None:
    values = [row[key] for row in rows if row.get(key) is not None]
    return fmean(values) if values else None


def _number(form: str, value: float | None) -> str:
    return UNKNOWN if value is None else form.format(value)


def _text(value: object) -> str:
    """Return a value as text that cannot steer a terminal."""
    text = UNKNOWN if value is None else str(value)
    return "".join(each if each.isprintable() else " " for each in text)


def escape(text: str) -> str:
    """Return a text as Markdown that shows it as it is."""
    return re.sub(r"([\\|*<`])", r"\\\1", text)


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, COLUMNS, break_long_words=False, break_on_hyphens=False)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align cells; columns that do not fit go below, the first one repeated."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    blocks: list[list[int]] = []
    used = COLUMNS
    for index in range(1, len(widths)):
        if used + 2 + widths[index] > COLUMNS:
            blocks.append([])
            used = widths[0]
        blocks[-1].append(index)
        used += 2 + widths[index]
    lines = []
    for block in blocks:
        lines += ["", *(_aligned(row, widths, block) for row in rows)]
    return lines[1:]


def _aligned(row: Sequence[str], widths: Sequence[int], block: Sequence[int]) -> str:
    cells = [row[0].ljust(widths[0]), *(row[index].rjust(widths[index]) for index in block)]
    return "  ".join(cells).rstrip()
