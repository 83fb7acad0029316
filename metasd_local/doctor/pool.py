"""Examining one pool: files, vocabularies, memory, and what drafting costs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from metasd_local.backend.llama import LlamaWeights
from metasd_local.backend.loader import reckon, room
from metasd_local.backend.placement import Need, Placement, draft_context, place
from metasd_local.doctor.costs import CostsMeter
from metasd_local.doctor.payoff import ASSUMED_ACCEPTANCE, payoff
from metasd_local.doctor.report import DrafterReport, PoolReport, State
from metasd_local.errors import BackendError, IncompatibleVocabulary, ModelError
from metasd_local.fit import better_on_cpu, check_drafter
from metasd_local.hub.cache import is_sound
from metasd_local.model_files import part_paths, repair_advice
from metasd_local.options import MAX_WINDOW, Options
from metasd_local.pools.catalogue import Pool, Source
from metasd_local.pools.local import LocalDrafter, find_source
from metasd_local.protocols import NGRAM
from metasd_local.text import size_text


class _Unusable(Exception):
    """A model cannot be used; rule: as in `DrafterReport`."""

    def __init__(self, rule: str, detail: str, advice: str = "", state: State = "fail") -> None:
        super().__init__(detail)
        self.rule, self.detail, self.advice, self.state = rule, detail, advice, state


class PoolExamination:
    """Looks at one pool; what is wrong with it ends in its report, not in an error.

    meter: of the costs; if it measures, checksums are checked too.
    on_step: told what is done now and, if it is known, which share of that; may raise to end it.
    """

    def __init__(
        self,
        pool: Pool,
        options: Options,
        meter: CostsMeter,
        on_step: Callable[[str, float | None], None],
    ) -> None:
        self._options = options
        self._meter = meter
        self._on_step = on_step
        self._target = _locate(pool.target)
        self._drafters = {drafter.name: _locate(drafter.source) for drafter in pool.drafters}
        self._resources = ExitStack()
        self._fetch = f"metasd download {pool.name}"
        self.report = PoolReport(pool.name, str(self._target or "not on this machine"))

    def run(self) -> PoolReport:
        """Examine the pool. Raises Cancelled."""
        report = self.report
        with self._resources:
            target = self._examine_target()
            usable: dict[str, LlamaWeights] = {}
            for name, path in self._drafters.items():
                drafter = self._examine_drafter(name, path, target)
                if drafter is not None:
                    usable[name] = drafter
            if target is None:
                return report
            placement = self._reckon(target, usable)
        if self._meter.measures:
            self._check_sums()
        if report.rollback == "none":
            report.add("warn", "rollback", "cannot forget rejected tokens: decodes plainly")
        elif placement is not None and report.ready:
            paths = {name: each.info.path for name, each in usable.items()}
            self._show_costs(placement, target.info.path, paths)
        return report

    def _open(self, path: Path | None) -> LlamaWeights:
        """Read everything but the weights; raise _Unusable."""
        if path is None:
            raise _Unusable("file", "not on this machine", self._fetch, "warn")
        try:
            weights = LlamaWeights(path, is_simulated=True)
        except IncompatibleVocabulary as error:
            raise _Unusable("vocabulary", str(error)) from error
        except ModelError as error:
            raise _Unusable("file", str(error)) from error
        self._resources.callback(weights.close)
        return weights

    def _examine_target(self) -> LlamaWeights | None:
        report = self.report
        try:
            target = self._open(self._target)
        except _Unusable as found:
            report.add("fail", "target", found.detail, found.advice)
            return None
        info = target.info
        report.rollback, report.ready = info.rollback, True
        report.add(
            "ok",
            "target",
            f"{info.name} ({info.architecture}), {info.num_parameters / 1e6:,.0f} million "
            f"parameters, trained on {info.trained_context} tokens",
        )
        return target

    def _examine_drafter(
        self, name: str, path: Path | None, target: LlamaWeights | None
    ) -> LlamaWeights | None:
        try:
            drafter = self._open(path)
            detail = _check_fit(target, drafter)
        except _Unusable as found:
            drafter_report = DrafterReport(name, found.rule, found.detail)
            self.report.add_drafter(found.state, drafter_report, found.advice)
            return None
        self.report.add_drafter("ok", DrafterReport(name, None, detail))
        return drafter

    def _check_sums(self) -> None:
        """Compare files that the Hugging Face cache names by their hash with that name."""
        paths = [path for path in (self._target, *self._drafters.values()) if path]
        for part in (part for path in paths for part in part_paths(path) if os.path.isfile(part)):
            verdict = is_sound(part, None, partial(self._on_step, f"checking {part.name}"))
            if verdict:
                self.report.add("ok", "checksum", f"{part.name} is whole")
            elif verdict is False:
                self.report.ready = False
                self.report.add("fail", "checksum", f"{part} is damaged", repair_advice(part))

    def _reckon(
        self, target: LlamaWeights, drafters: Mapping[str, LlamaWeights]
    ) -> Placement | None:
        """Compare the memory that is needed with what there is."""
        report, options = self.report, self._options
        main_bytes, gpu_bytes = room()
        if options.gpu_layers == 0:
            gpu_bytes = 0
        try:
            needs = [reckon(name, each) for name, each in drafters.items()]
            need = reckon(report.name, target)
            local = [LocalDrafter(name, each.info.path) for name, each in drafters.items()]
            placement = place(
                need,
                needs,
                main_bytes=main_bytes,
                gpu_bytes=gpu_bytes,
                context_size=options.ctx,
                gpu_layers=options.gpu_layers,
                better_on_cpu=better_on_cpu(local, self._meter.num_threads, self._meter.costs_path),
            )
        except BackendError as error:
            report.ready = False
            report.add("fail", "memory", str(error))
            return None
        report.context_size = context = placement.context_size
        context_bytes = need.bytes_per_token * context
        report.memory_needed_bytes = placement.main_bytes + placement.gpu_bytes
        report.add(
            "ok",
            "context",
            f"{context} tokens take {size_text(context_bytes)}"
            + (", the sliding window at full size so that it can go back" * target.info.has_window)
            + f"; at most {_largest(need, max(gpu_bytes, main_bytes // 2))} fit",
        )
        drafting_bytes = sum(
            each.at(draft_context(context, each.trained_context)) for each in needs
        )
        report.ready = not placement.advice
        report.add(
            "fail" if placement.advice else "ok",
            "memory",
            f"{size_text(report.memory_needed_bytes)} needed: "
            f"weights {size_text(need.weights_bytes)}, "
            f"context {size_text(context_bytes)}, "
            f"buffers {size_text(need.fixed_bytes)}, "
            f"drafters {size_text(drafting_bytes)}; there are {size_text(main_bytes)}"
            + (f" and {size_text(gpu_bytes)} on the GPU" if gpu_bytes else ""),
            placement.advice,
        )
        if gpu_bytes:
            on_gpu = ", ".join(sorted(placement.drafters_on_gpu)) or "none"
            report.add(
                "ok",
                "placement",
                f"{placement.gpu_layers} of {need.num_layers + 1} layers on the GPU; "
                f"drafters there: {on_gpu}",
            )
        return placement

    def _show_costs(self, placement: Placement, target: Path, drafters: Mapping[str, Path]) -> None:
        """Tell what drafting costs and can gain, measured now or before."""
        report, meter = self.report, self._meter
        seconds = {NGRAM: 0.0}
        try:
            self._on_step("measuring the target", None)
            curve = meter.curve(target, placement.gpu_layers)
            if curve is None:
                report.add("ok", "costs", "not measured yet", f"metasd doctor {report.name}")
                return
            for name, path in drafters.items():
                self._on_step(f"measuring {name}", None)
                draft_s = meter.draft_s(path, has_gpu=placement.gpu_layers > 0)
                if draft_s is not None:
                    seconds[name] = draft_s
        except (ModelError, BackendError) as error:
            report.ready = False
            report.add("fail", "costs", str(error))
            return
        report.cost_curve = dict(curve.points)
        wide = max(curve.points)
        report.add(
            "ok",
            "costs",
            f"a token takes {1000 * curve.seconds(1):.1f} ms with "
            f"{meter.num_threads} threads; verifying 5 at once costs "
            f"{curve.seconds(5) / curve.seconds(1):.2f} times as much, {wide} "
            f"{curve.seconds(wide) / curve.seconds(1):.1f} times",
        )
        report.payoffs = {
            name: payoff(curve, draft_s, MAX_WINDOW) for name, draft_s in seconds.items()
        }
        self._judge_payoffs()

    def _judge_payoffs(self) -> None:
        report = self.report
        for name, gain in report.payoffs.items():
            cost = f"{1000 * gain.draft_s:.2f} ms a token" if gain.draft_s else "costs nothing"
            if gain.least_acceptance is None:
                found = f"{cost}: would not pay if all it drafts were accepted"
                report.add("warn", f"drafting by {name}", found)
                continue
            found = f"{cost}: pays from {gain.least_acceptance:.0%} accepted tokens"
            if gain.best_window:
                found += (
                    f"; at {ASSUMED_ACCEPTANCE:.0%} windows up to {gain.largest_window} pay, "
                    f"{gain.best_window} most ({gain.best_speedup:.2f} times plain)"
                )
            report.add("ok", f"drafting by {name}", found)
        if all(gain.least_acceptance is None for gain in report.payoffs.values()):
            report.add(
                "warn",
                "speculation",
                "cannot pay here: verifying several tokens takes as long as decoding them one by "
                "one",
                "use --policy plain",
            )


def _locate(source: Source) -> Path | None:
    # Of a path that leads nowhere the check of the file says more.
    return source if isinstance(source, Path) else find_source(source)


def _check_fit(target: LlamaWeights | None, drafter: LlamaWeights) -> str:
    """Return in words that a drafter fits its target; raise _Unusable."""
    if target is None:
        raise _Unusable("target", "no target to fit")
    results = check_drafter(target, drafter)
    for result in results:
        if not result.holds:
            raise _Unusable(result.rule, result.detail, "choose another drafter")
    return f"{len(results)} rules hold, {results[-2].detail}"


def _largest(need: Need, room_bytes: int) -> int:
    return max(min(need.fitting_context(room_bytes), need.trained_context), 0)
