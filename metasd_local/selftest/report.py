"""What the self-test found, as lines for a terminal and as a record for a report."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metasd_local.selftest.identity import Comparison
from metasd_local.selftest.rejection import LawTest

LEAST_P_VALUE = 1e-4

_LINE_WIDTH = 79
_MAX_TIED_SHARE = 0.01
_MAX_TIES_OF_FEW = 3


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Everything that was compared, and what was left out."""

    pool: str
    seed: int
    seconds: float
    max_tokens: int
    """Of an answer that was compared."""
    comparisons: Sequence[Comparison]
    laws: Sequence[LawTest]
    left_out: Sequence[str]
    """In words."""

    @property
    def ok(self) -> bool:
        """Tell whether nothing is wrong."""
        return not self.failures

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Return what is wrong, every entry with a `text`."""
        found: list[dict[str, Any]] = []
        for c in self.comparisons:
            window = f"window {c.window or 'default'}"
            where = f"{c.scheme}, {c.policy}, {window}, seed {c.seed}, prompt {c.prompt}"
            found += [_record(c, text=f"{where}: {notice}") for notice in c.notices]
            if c.divergence and not c.divergence.is_near_tie:
                text = (
                    f"{where}: token {c.divergence.position} is not plain decoding's and no tie: "
                    f"a gap of {c.divergence.gap:.3g} that batches change by "
                    f"{c.divergence.gap_change:.3g}"
                )
                found.append(_record(c, text=text))
        num_tokens, _, num_ties = _count(self.comparisons)
        if num_ties > _MAX_TIES_OF_FEW + _MAX_TIED_SHARE * num_tokens:
            text = (
                f"{num_ties} ties among {num_tokens} tokens: batches of several tokens are "
                "computed too differently from single ones to compare the two"
            )
            found.append({"text": text})
        for law in self.laws:
            where = f"rejection, fixed:{law.drafter}"
            texts = [f"{where}: {notice}" for notice in law.notices]
            if law.p_value is not None and law.p_value < LEAST_P_VALUE:
                texts.append(
                    f"{where}: the first two tokens of {law.seeds} answers do not follow the "
                    f"target's law (p = {law.p_value:.2g})"
                )
            found += [{"scheme": "rejection", **_law_record(law), "text": text} for text in texts]
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the record of `metasd verify --json`; an infinite gap is null."""
        num_tokens, num_identical, _ = _count(self.comparisons)
        failures = self.failures
        return {
            "ok": not failures,
            "checked_tokens": num_tokens,
            "identical": num_identical,
            "near_ties": [_record(c) for c in self.comparisons if c.is_near_tie],
            "failures": failures,
            "pool": self.pool,
            "seed": self.seed,
            "seconds": self.seconds,
            "answers": len(self.comparisons),
            "max_tokens": self.max_tokens,
            "rejection": [_law_record(law) for law in self.laws],
            "left_out": list(self.left_out),
        }

    def lines(self) -> list[str]:
        """Return the report, no line longer than 79 characters."""
        heads = ("answers", "drafted", "accepted", "tokens", "identical", "near ties")
        lines = [_line("", *heads)]
        schemes = [(c.scheme, c) for c in self.comparisons]
        for name, comparisons in _group([*schemes, *((c.policy, c) for c in self.comparisons)]):
            drafts = (sum(getattr(c, head) for c in comparisons) for head in heads[1:3])
            counts = (len(comparisons), *drafts, *_count(comparisons))
            lines.append(_line(name, *(f"{count:,}" for count in counts)))
        lines += ["", _line("rejection", *heads[:3], "p")]
        for law in self.laws:
            cells = [f"{count:,}" for count in (law.seeds, law.drafted, law.accepted)]
            cells.append("-" if law.p_value is None else f"{law.p_value:.2g}")
            lines.append(_line(law.drafter, *cells))
        lines.append("")
        failures = self.failures
        if failures:
            verdict = f"{len(failures)} failures"
        elif self.left_out:
            verdict = "nothing wrong in what was compared"
        else:
            verdict = "ok, drafts change no text"
        for text in (
            *(f"left out: {what}" for what in self.left_out),
            *(f"FAILED: {failure['text']}" for failure in failures),
            f"{self.pool}: {verdict} (seed {self.seed}, {self.seconds:.0f} s)",
        ):
            lines += textwrap.wrap(text, _LINE_WIDTH, subsequent_indent="  ")
        return lines


def _line(name: str, *cells: str) -> str:
    first, *others = cells
    return f"{name[:19]:<20}{first:>9}" + "".join(f"{cell:>10}" for cell in others)


def _law_record(law: LawTest) -> dict[str, Any]:
    names = ("drafter", "seeds", "drafted", "accepted", "p_value")
    return {name: getattr(law, name) for name in names}


def _group(named: Sequence[tuple[str, Comparison]]) -> list[tuple[str, list[Comparison]]]:
    names = dict.fromkeys(name for name, _ in named)
    return [(wanted, [c for name, c in named if name == wanted]) for wanted in names]


def _count(comparisons: Sequence[Comparison]) -> tuple[int, int, int]:
    """Return the number of tokens compared, of identical ones, and of near ties."""
    num_tokens = sum(c.checked_tokens for c in comparisons)
    num_identical = num_tokens - sum(c.divergence is not None for c in comparisons)
    return num_tokens, num_identical, sum(c.is_near_tie for c in comparisons)


def _record(comparison: Comparison, **more: str) -> dict[str, Any]:
    record = dataclasses.asdict(comparison)
    found = record.pop("divergence") or {}
    if not math.isfinite(found.get("gap", 0.0)):
        found["gap"] = None
    return {**record, **found, **more}
