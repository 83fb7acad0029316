"""What the doctor found, as records, as JSON and as lines of text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from metasd_local.doctor.machine import VENDORS, Machine
from metasd_local.doctor.payoff import ASSUMED_ACCEPTANCE, Payoff
from metasd_local.text import size_text

State: TypeAlias = Literal["ok", "hint", "warn", "fail"]
FOUND_COLUMN = 21
"""Where what was found begins, after its state and name."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    state: State
    what: str
    found: str
    advice: str = ""
    """What to do, if anything."""


@dataclass(frozen=True, slots=True)
class DrafterReport:
    """Whether a drafter can be used."""

    name: str
    rule: str | None
    """The first that fails: `file`, `vocabulary`, `target` or one of `check_drafter`'s."""
    detail: str
    """Found and expected."""


@dataclass(slots=True)
class PoolReport:
    """Whether a pool can be used, filled in as far as its files allow."""

    name: str
    target: str
    ready: bool = False
    """Whether the target can answer."""
    drafters: list[DrafterReport] = field(default_factory=list)
    rollback: str | None = None
    context_size: int | None = None
    memory_needed_bytes: int | None = None
    cost_curve: dict[int, float] | None = None
    payoffs: dict[str, Payoff] = field(default_factory=dict)
    """By drafter, where costs were measured."""
    checks: list[Check] = field(default_factory=list)

    def add(self, state: State, what: str, found: str, advice: str = "") -> None:
        """Add a check."""
        self.checks.append(Check(state, what, found, advice))

    def add_drafter(self, state: State, drafter: DrafterReport, advice: str = "") -> None:
        """Add a drafter, and a check of it if it is to blame for something."""
        self.drafters.append(drafter)
        rule, found = drafter.rule, drafter.detail
        if rule not in ("file", "vocabulary"):
            found = f"{rule}: {found}"
        if rule not in (None, "target"):
            self.add(state, "drafter", f"{drafter.name}: {found}", advice)

    def judge(self, *, measures: bool) -> None:
        """Add what follows from all that was found. measures: whether costs were to be measured."""
        best = max(self.payoffs.values(), key=lambda gain: gain.best_speedup, default=None)
        if not self.ready:
            self.add("fail", "verdict", "not ready")
        elif self.rollback == "none":
            self.add("warn", "verdict", "ready, without drafts")
        elif best is None and measures:
            self.add("warn", "verdict", "ready; whether drafts pay is not known")
        elif best is None:
            again = f"metasd doctor {self.name}"
            self.add("hint", "verdict", "ready; whether drafts pay is not measured yet", again)
        elif all(gain.least_acceptance is None for gain in self.payoffs.values()):
            self.add(
                "warn",
                "verdict",
                "speculation cannot pay here: verifying several tokens takes as long as decoding "
                "them one by one",
                "use --policy plain",
            )
        else:
            least = min(gain.least_acceptance or 1.0 for gain in self.payoffs.values())
            found = f"ready; drafts pay from {least:.0%} accepted"
            if best.best_window:
                found += f": {best.best_speedup:.2f} times plain at {ASSUMED_ACCEPTANCE:.0%}"
            self.add("ok", "verdict", found)

    @property
    def advice(self) -> list[str]:
        """Everything there is to do."""
        return [check.advice for check in self.checks if check.advice]

    def to_json(self) -> dict[str, Any]:
        """Return what `doctor --json` prints of a pool."""
        document = asdict(self)
        for drafter in document["drafters"]:
            drafter["compatible"] = drafter["rule"] is None
        document["cost_curve"] = {str(n): s for n, s in (self.cost_curve or {}).items()}
        return {**document, "assumed_acceptance": ASSUMED_ACCEPTANCE, "advice": self.advice}


def machine_checks(machine: Machine) -> Iterator[Check]:
    """Yield what is to be said of the machine."""
    backends = ", ".join(machine.features)
    yield Check("ok", "llama.cpp", f"llama-cpp-python {machine.llama_cpp}, built for {backends}")
    for name, flags in machine.features.items():
        if flags:
            yield Check("ok", "built with", f"{name}: {' '.join(flags)}")
    for device in machine.devices:
        size = size_text(device.memory_bytes) if device.memory_bytes else "memory unknown"
        free = f", {size_text(device.free_bytes)} free" if device.kind == "gpu" else ""
        yield Check("ok", "device", f"{device.name} ({device.kind}): {size}{free}")
    if machine.unused_gpu:
        found = f"{machine.unused_gpu} not used, this llama.cpp was built without it"
        if machine.unused_gpu in VENDORS.values():
            # Some are slower than the CPU beside them.
            found += "; Vulkan may use it and was not tested"
            yield Check("hint", "offloading", found, machine.install_line)
        else:
            yield Check("warn", "offloading", found, machine.install_line)
    else:
        offload = "layers go to the GPU" if machine.gpu_offload else "no GPU, all layers on the CPU"
        yield Check("ok", "offloading", offload)
    budget = machine.threads
    quota = "no quota" if budget.quota is None else f"a quota of {budget.quota:g}"
    yield Check(
        "ok",
        "threads",
        f"{budget.num_threads}: {budget.num_cores} cores with {budget.num_processors} processors "
        f"allowed, {quota}",
    )


def to_json(machine: Machine, pools: Sequence[PoolReport]) -> dict[str, Any]:
    """Return what `doctor --json` prints."""
    return {
        "ok": is_ok(pools),
        "llama_cpp": machine.llama_cpp,
        "features": machine.features,
        "devices": [asdict(device) for device in machine.devices],
        "gpu_offload": machine.gpu_offload,
        "unused_gpu": machine.unused_gpu or None,
        "install_line": machine.install_line or None,
        "threads": machine.threads.num_threads,
        "thread_budget": asdict(machine.threads),
        "pools": [pool.to_json() for pool in pools],
    }


def is_ok(pools: Sequence[PoolReport]) -> bool:
    """Tell whether nothing failed."""
    return all(check.state != "fail" for pool in pools for check in pool.checks)


def lines(machine: Machine, pools: Sequence[PoolReport], width: int) -> list[str]:
    """Return the report as text of so many columns; what is to be copied stays on its line."""
    text = ["this machine"]
    for check in machine_checks(machine):
        text += _check_lines(check, width)
    for pool in pools:
        text += ["", pool.name]
        for check in pool.checks:
            text += _check_lines(check, width)
            text += _payoff_table(pool.payoffs) if check.what == "costs" else []
    return text


def milliseconds(seconds: float) -> str:
    """Return a time with at least two figures."""
    return f"{1000 * seconds:#.2g}" if seconds < 0.00995 else f"{1000 * seconds:.0f}"


def _check_lines(check: Check, width: int) -> list[str]:
    found, is_command, command = check.found.partition(": run: ")
    advice = f"run: {command}" if is_command else check.advice
    head = f"  {check.state:4}  {check.what}".ljust(FOUND_COLUMN - 1) + " "
    wrapped = textwrap.wrap(
        found,
        max(width, 2 * FOUND_COLUMN),
        initial_indent=head,
        subsequent_indent=" " * FOUND_COLUMN,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return wrapped + ([f"        → {advice}"] if advice else [])


def _payoff_table(payoffs: Mapping[str, Payoff]) -> list[str]:
    if not payoffs:
        return []
    share = f"at {ASSUMED_ACCEPTANCE:.0%}:"
    rows = [("drafter", "ms a token", "pays from", f"{share} window", "at most", "times plain")]
    for name, gain in payoffs.items():
        least = "never" if gain.least_acceptance is None else f"{gain.least_acceptance:.0%}"
        windows = [str(gain.best_window), str(gain.largest_window), f"{gain.best_speedup:.2f}"]
        cost = milliseconds(gain.draft_s) if gain.draft_s else "0"
        rows.append((name, cost, least, *(windows if gain.best_window else "---")))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"        {row[0].ljust(widths[0])}  "
        + "  ".join(cell.rjust(size) for cell, size in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
