"""Measuring what the models of a pool cost, or remembering what was measured."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from metasd_local.backend.llama import LlamaModel, LlamaWeights
from metasd_local.backend.loader import costs_key
from metasd_local.busy import BusyMeter
from metasd_local.costs import CURVE_SIZES, CostCurve, measure_curve, read_curve, write_curve
from metasd_local.interrupt import Interrupt

CURVE_DEPTH, CURVE_BUDGET_S, DRAFTER_BUDGET_S = 128, 5.0, 0.5


@dataclass(frozen=True, slots=True)
class CostsMeter:
    """Measures and, unless doubtful, keeps the cost of calls, or only tells what is known."""

    num_threads: int
    costs_path: Path | None
    """File of costs measured before; None: nothing is, or will be kept."""
    interrupt: Interrupt
    measures: bool

    def curve(self, path: Path, gpu_layers: int) -> CostCurve | None:
        """Return what it costs a target to verify; raise what loading and `feed` raise."""
        return self._curve(path, gpu_layers, drafts=False)

    def draft_curve(self, path: Path, *, has_gpu: bool) -> CostCurve | None:
        """Return what a drafter's single tokens cost where it is faster; raise as `curve`."""
        places = (0, None) if has_gpu else (0,)
        curves = (self._curve(path, place, drafts=True) for place in places)
        known = (curve for curve in curves if curve is not None)
        return min(known, key=lambda curve: curve.seconds(1), default=None)

    def _curve(self, path: Path, gpu_layers: int | None, *, drafts: bool) -> CostCurve | None:
        key = costs_key(path, gpu_layers, self.num_threads, drafts=drafts)
        if not self.measures:
            return read_curve(self.costs_path, key) if self.costs_path else None
        sizes = (1,) if drafts else CURVE_SIZES
        with closing(LlamaWeights(path, gpu_layers=gpu_layers)) as weights:
            model = LlamaModel(
                weights,
                context_size=CURVE_DEPTH + max(sizes),
                max_rows=max(sizes),
                num_threads=self.num_threads,
                interrupt=self.interrupt,
            )
            meter = BusyMeter(time.perf_counter)
            curve = measure_curve(
                model,
                depth=CURVE_DEPTH,
                budget_s=DRAFTER_BUDGET_S if drafts else CURVE_BUDGET_S,
                clock=time.perf_counter,
                sizes=sizes,
                is_busy=lambda: not meter.leaves(self.num_threads),
            )
        if self.costs_path:
            write_curve(self.costs_path, key, curve)
        return curve
