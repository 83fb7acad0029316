"""What the doctor found, as records, as JSON and as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from metasd_local.doctor.machine import Machine
from metasd_local.doctor.payoff import ASSUMED_ACCEPTANCE, Payoff
from metasd_local.text import size_text

State: TypeAlias = Literal["ok", "warn", "fail"]


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
        """Add a drafter, and the check of it unless only the target is to blame."""
        self.drafters.append(drafter)
        rule, found = drafter.rule, drafter.detail
        if rule not in (None, "file", "vocabulary"):
            found = f"{rule}: {found}"
        if rule != "target":
            self.add(state, f"drafter {drafter.name}", found, advice)

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
    builds = (
        f"{name} ({' '.join(flags)})" if flags else name for name, flags in machine.features.items()
    )
    yield Check("ok", "llama.cpp", f"{machine.llama_cpp}: {', '.join(builds)}")
    for device in machine.devices:
        size = size_text(device.memory_bytes) if device.memory_bytes else "memory unknown"
        free = f", {size_text(device.free_bytes)} free" if device.kind == "gpu" else ""
        yield Check("ok", f"device {device.name}", f"{device.kind}, {size}{free}")
    if machine.unused_gpu:
        found = f"{machine.unused_gpu} not used, llama.cpp was built for the CPU only"
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


def lines(machine: Machine, pools: Sequence[PoolReport]) -> list[str]:
    """Return the report as text."""
    text = []
    groups = [("this machine", [*machine_checks(machine)])]
    groups += [(f"{pool.name}: {pool.target}", pool.checks) for pool in pools]
    for title, checks in groups:
        text += ["", title]
        for check in checks:
            text.append(f"  {check.state:4}  {check.what}: {check.found}")
            text += [f"        → {check.advice}"] if check.advice else []
    return text[1:]
