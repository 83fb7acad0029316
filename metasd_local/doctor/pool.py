"""Examining one pool: files, vocabularies, memory, and what drafting costs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from metasd_local.backend.llama import LlamaWeights
from metasd_local.backend.placement import MAIN_SHARE, Placement, draft_context
from metasd_local.doctor.costs import CostsMeter
from metasd_local.doctor.payoff import payoff
from metasd_local.doctor.report import DrafterReport, PoolReport, milliseconds
from metasd_local.errors import BackendError, IncompatibleVocabulary, ModelError
from metasd_local.fit import Fit, check_drafter, fit_pool
from metasd_local.hub.cache import is_sound
from metasd_local.hub.repository import HubFile
from metasd_local.model_files import part_paths, repair_advice
from metasd_local.options import MAX_WINDOW, Options
from metasd_local.pools.catalogue import Pool, Source
from metasd_local.pools.local import find_source
from metasd_local.protocols import NGRAM
from metasd_local.text import size_text

ABSENT = "not on this machine"


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
        self._sources = pool.sources
        self._target = _locate(pool.target)
        self._drafters = {drafter.name: _locate(drafter.source) for drafter in pool.drafters}
        self._resources = ExitStack()
        self._fetch = f"metasd download {pool.name}"
        self.report = PoolReport(pool.name, str(self._target or ABSENT))

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
            if usable:
                report.add(
                    "ok", "drafters", f"{len(usable)} of {len(self._drafters)} keep every rule"
                )
            drafting = usable if report.rollback == "exact" else {}
            fit = self._fit(target, drafting) if target is not None else None
        if self._meter.measures:
            self._check_sums()
        if target is not None and fit is not None and report.ready and report.rollback == "exact":
            paths = {name: each.info.path for name, each in usable.items()}
            self._examine_costs(fit.placement, target.info.path, paths)
        report.judge(measures=self._meter.measures)
        return report

    def _open(self, path: Path) -> LlamaWeights:
        """Read everything but the weights; raise ModelError."""
        weights = LlamaWeights(path, is_simulated=True)
        self._resources.callback(weights.close)
        return weights

    def _examine_target(self) -> LlamaWeights | None:
        report = self.report
        if self._target is None:
            report.add("fail", "target", ABSENT, self._fetch)
            return None
        try:
            target = self._open(self._target)
        except ModelError as error:
            report.add("fail", "target", str(error))
            return None
        info = target.info
        report.rollback, report.ready = info.rollback, True
        report.add(
            "ok",
            "target",
            f"{info.path.name}: {info.architecture}, {_count_text(info.num_parameters)} parameters",
        )
        if info.rollback == "none":
            report.add("warn", "rollback", "cannot forget rejected tokens: decodes plainly")
        return target

    def _examine_drafter(
        self, name: str, path: Path | None, target: LlamaWeights | None
    ) -> LlamaWeights | None:
        """Report on a drafter; return it if it can be used."""
        add = self.report.add_drafter
        if path is None:
            add("warn", DrafterReport(name, "file", ABSENT), self._fetch)
            return None
        try:
            drafter = self._open(path)
        except ModelError as error:
            rule = "vocabulary" if isinstance(error, IncompatibleVocabulary) else "file"
            add("fail", DrafterReport(name, rule, str(error)))
            return None
        if target is None:
            add("fail", DrafterReport(name, "target", "no target to fit"))
            return None
        results = check_drafter(target, drafter)
        for result in results:
            if not result.holds:
                broken = DrafterReport(name, result.rule, result.detail)
                add("fail", broken, "choose another drafter")
                return None
        detail = f"{len(results)} rules hold, {results[-2].detail}"
        add("ok", DrafterReport(name, None, detail))
        return drafter

    def _check_sums(self) -> None:
        """Compare files that the Hugging Face cache or the catalogue gives a hash with that."""
        known: dict[Path, str | None] = {}
        for source in self._sources:
            path = _locate(source)
            sha256 = source.sha256 if isinstance(source, HubFile) else None
            known |= dict.fromkeys(part_paths(path) if path is not None else (), sha256)
        num_whole = 0
        for part in filter(os.path.isfile, known):
            on_share = partial(self._on_step, f"checking {part.name}")
            verdict = is_sound(part, known[part], on_share)
            num_whole += verdict is True
            if verdict is False:
                self.report.ready = False
                self.report.add("fail", "checksums", f"{part} is damaged", repair_advice(part))
        if num_whole:
            self.report.add("ok", "checksums", f"right (files compared: {num_whole})")

    def _fit(self, target: LlamaWeights, drafters: Mapping[str, LlamaWeights]) -> Fit | None:
        """Compare the memory that is needed with what there is."""
        report, meter = self.report, self._meter
        try:
            fit = fit_pool(target, drafters, self._options, meter.num_threads, meter.costs_path)
        except BackendError as error:
            report.ready = False
            report.add("fail", "memory", str(error))
            return None
        need, placement, gpu_bytes = fit.target, fit.placement, fit.gpu_bytes
        report.context_size = context = placement.context_size
        context_bytes = need.bytes_per_token * context
        report.memory_needed_bytes = placement.main_bytes + placement.gpu_bytes
        drafting_bytes = sum(
            each.at(draft_context(context, each.trained_context)) for each in fit.drafters
        )
        free_bytes = max(gpu_bytes, fit.main_bytes * MAIN_SHARE - drafting_bytes)
        largest = need.fitting_context(free_bytes) if fit.main_bytes else need.trained_context
        report.add(
            "ok",
            "context",
            f"{context} tokens (trained on {need.trained_context}) take {size_text(context_bytes)}"
            + (", the sliding window at full size so that it can go back" * target.info.has_window)
            + f"; at most {max(min(largest, need.trained_context), 0)} fit",
        )
        report.ready = not placement.advice
        report.add(
            "fail" if placement.advice else "ok",
            "memory",
            f"{size_text(report.memory_needed_bytes)} of {size_text(fit.main_bytes)}"
            + (f" and {size_text(gpu_bytes)} on the GPU" if gpu_bytes else "")
            + f": weights {size_text(need.weights_bytes)}, context {size_text(context_bytes)}, "
            f"buffers {size_text(need.fixed_bytes)}"
            + (f", drafters {size_text(drafting_bytes)}" if drafting_bytes else ""),
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
        return fit

    def _examine_costs(
        self, placement: Placement, target: Path, drafters: Mapping[str, Path]
    ) -> None:
        """Tell what drafting costs and can gain, measured now or before."""
        report, meter = self.report, self._meter
        seconds = {NGRAM: 0.0}
        try:
            self._on_step("measuring the target", None)
            curve = measured = meter.curve(target, placement.gpu_layers)
            for name, path in drafters.items() if curve is not None else ():
                if measured is not None and measured.is_doubtful:
                    break
                self._on_step(f"measuring {name}", None)
                measured = meter.draft_curve(path, has_gpu=placement.gpu_layers > 0)
                if measured is not None:
                    seconds[name] = measured.seconds(1)
        except (ModelError, BackendError) as error:
            report.ready = False
            report.add("fail", "costs", str(error))
            return
        if curve is None:
            return
        if measured is not None and measured.is_doubtful:
            report.add(
                "warn",
                "costs",
                "something else used the processors: what was measured meanwhile is worth nothing "
                "and is not kept",
                "measure again when this machine is idle",
            )
            return
        report.cost_curve = dict(curve.points)
        report.payoffs = {name: payoff(curve, each, MAX_WINDOW) for name, each in seconds.items()}
        single_s, wide = curve.seconds(1), max(curve.points)
        report.add(
            "ok",
            "costs",
            f"{milliseconds(single_s)} ms a token; 5 at once take "
            f"{curve.seconds(5) / single_s:.1f} times that, {wide} take "
            f"{curve.seconds(wide) / single_s:.1f}",
        )


def _locate(source: Source) -> Path | None:
    # Of a path that leads nowhere the check of the file says more.
    return source if isinstance(source, Path) else find_source(source)


def _count_text(number: float) -> str:
    for unit in ("thousand", "million"):
        number /= 1000
        if number < 999.5:
            return f"{number:.0f} {unit}"
    return f"{number / 1000:.1f} billion"
