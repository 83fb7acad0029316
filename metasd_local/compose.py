"""The composition root: names the concrete classes and puts them together.

Turns options and the name of a pool into a session that is ready to answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from metasd_local.backend.llama import LlamaModel, LlamaWeights
from metasd_local.backend.llama_sampler import LlamaSampler
from metasd_local.backend.loader import MAX_ROWS, Loader, costs_key
from metasd_local.backend.placement import draft_context
from metasd_local.backend.threads import thread_budget
from metasd_local.busy import BusyMeter
from metasd_local.costs import SLOW, TokenCosts, measure_curve, measure_token
from metasd_local.drafters.model import EVALUATED_ROWS, ModelDrafter
from metasd_local.drafters.ngram import NgramDrafter
from metasd_local.engine import Engine
from metasd_local.errors import BackendError, ModelError
from metasd_local.fit import load_pool
from metasd_local.kept import COSTS_FILE, PROFILE_FILE, Kept
from metasd_local.options import Options
from metasd_local.plan import Plan, Sources, make_plan
from metasd_local.pools.local import LocalPool, find_pool, remember_pool
from metasd_local.protocols import NGRAM, Drafter, Scheme
from metasd_local.session import Session, Setup
from metasd_local.templates.chat_template import ChatTemplate
from metasd_local.verify import Coupled, Greedy, Match, Rejection

QUICK_SIZES, QUICK_DEPTH, QUICK_BUDGET_S = (1, 2, 4, 6, 9), 128, 0.5
"""Of a cost curve that nobody asked for."""


@dataclass(frozen=True, slots=True)
class Models:
    """What was loaded of a pool."""

    weights: LlamaWeights
    """The target's."""
    gpu_layers: int
    """Of the target."""
    target: LlamaModel
    drafters: Sequence[Drafter]
    """Without `plain`, in the order of the pool."""
    drafter_weights: Mapping[str, LlamaWeights]
    notices: Sequence[str]
    """What the user should know of drafters that were left out, and of memory."""


class OpenPool:
    """The loaded models of one pool, for any number of sessions of which one is used at a time.

    resources: closing it frees the models.
    """

    def __init__(
        self, pool: LocalPool, models: Models, loader: Loader, kept: Kept, resources: ExitStack
    ) -> None:
        self.models = models
        self.loader = loader
        self.kept = kept
        self.target = models.target
        self.drafters = models.drafters
        self.interrupt = loader.interrupt
        self._pool = pool
        self._resources = resources
        resources.callback(kept.write_experience)

    def session(self, options: Options) -> Session:
        """Start a conversation with the policy, scheme and sampling of `options`.

        Of the loaded drafters it has those that `options` and the policy can use. Raises
        UsageError.
        """
        plan = make_plan(options, self._pool, self.kept.costs, self.kept.experience)
        wanted = {source.name for source in plan.sources.models}
        wanted |= {NGRAM} if plan.sources.has_ngram else set()
        chosen = [drafter for drafter in self.drafters if drafter.name in wanted]
        info, vocabulary = self.models.weights.info, self.models.weights.vocabulary
        engine = Engine(
            target=self.target,
            drafters=chosen,
            policy=plan.chosen.policy,
            scheme=_make_scheme(plan, vocabulary.size),
            interrupt=self.interrupt,
            inside=self.loader.inside,
            num_expected=EVALUATED_ROWS if plan.chosen.is_informed else 0,
            watch=self.watch,
        )
        return Session(
            setup=Setup(
                pool=self._pool.name,
                policy=plan.chosen.text,
                scheme=plan.scheme,
                sampling=plan.sampling,
                device=", ".join(info.devices),
                threads=self.loader.num_threads,
                drafters=tuple(drafter.name for drafter in chosen),
                context_size=self.target.context_size,
                memory_bytes=self.loader.memory_bytes,
                notices=(*self.models.notices, *self.kept.notices),
            ),
            engine=engine,
            vocabulary=vocabulary,
            template=ChatTemplate(
                info.chat_template,
                vocabulary,
                bos_text=info.bos_text,
                eos_text=info.eos_text,
                adds_bos=vocabulary.adds_bos,
            ),
            interrupt=self.interrupt,
            system=options.system,
            stop_strings=options.stop or (),
            thinks=options.think,
        )

    def measure_costs(self) -> None:
        """Measure what verifying some tokens costs, and remember it, unless that is known already.

        Else, or if the target has something in its memory, what a single token costs there. The
        memory is afterwards what it was. Raises Cancelled and BackendError.
        """
        target, clock = self.target, time.perf_counter
        if not (self.kept.costs.is_measured or target.length):
            meter = BusyMeter(clock)
            curve = measure_curve(
                target,
                depth=min(QUICK_DEPTH, target.context_size // 4),
                budget_s=QUICK_BUDGET_S,
                clock=clock,
                sizes=QUICK_SIZES,
                is_busy=lambda: not meter.leaves(self.loader.num_threads),
            )
            self.kept.use_curve(curve)
        elif self.drafters and target.length < target.context_size:
            seconds = measure_token(target, budget_s=QUICK_BUDGET_S, clock=clock)
            self.kept.token_costs.add(target.length, seconds)

    def plain_s(self) -> float | None:
        """Return what a single token would cost the target where its context ends now.

        None if nobody knows.
        """
        costs = self.kept.costs
        known_s = costs.seconds(1) if costs.is_measured else None
        return self.kept.token_costs.at(self.target.length) or known_s

    def watch(self, num_tokens: int, seconds: float) -> str | None:
        """Learn the cost of a verification; give up a thread if the machine has become busy."""
        self.kept.costs.observe(num_tokens, seconds)
        num_threads = self.loader.num_threads
        if not self.kept.costs.is_slow or num_threads == 1:
            return None
        self.kept.costs.begin_anew()
        self.kept.token_costs = TokenCosts()
        self.loader.use_threads(num_threads - 1)
        return (
            f"decoding has become over {SLOW:.0f} times slower, something else uses the processor; "
            f"going on with {num_threads - 1} of {num_threads} threads"
        )

    def scheme(self, options: Options) -> Scheme:
        """Return a scheme such as a session with these options has. Raises UsageError."""
        return _make_scheme(make_plan(options, self._pool), self.models.weights.vocabulary.size)

    def close(self) -> None:
        """Free the models; harmless when called twice."""
        self._resources.close()


def open_pool(
    options: Options,
    pool: str | None = None,
    *,
    on_progress: Callable[[float], bool] | None = None,
    state_path: Path | None = None,
) -> OpenPool:
    """Load the target of a pool and the drafters that the policy of `options` can use.

    What cannot work is refused before anything is loaded.
    on_progress: told the loaded share of all files, in [0, 1]; loading is cancelled when it
    returns False.
    state_path: folder of what was measured and learned before; None: nothing is, or will be kept.
    Raises UsageError, ModelError, BackendError and Cancelled.
    """
    found = find_pool(pool or options.pool)
    sources = make_plan(options, found).sources
    costs_path = state_path and state_path / COSTS_FILE
    profile_path = None if options.fresh else state_path and state_path / PROFILE_FILE
    with ExitStack() as resources:
        loader = Loader(
            resources=resources,
            num_threads=options.threads or thread_budget().num_threads,
            on_progress=on_progress,
            paths=[found.target, *(source.path for source in sources.models)],
        )
        models = _load(loader, found, sources, options, costs_path)
        key = costs_key(models.weights.info.path, models.gpu_layers, loader.num_threads)
        is_named = (pool or options.pool) is not None
        if state_path is not None and is_named and not options.fresh:
            remember_pool(found, state_path)  # what only measures, comes afresh
        kept = Kept(key, costs_path, profile_path)
        return OpenPool(found, models, loader, kept, resources.pop_all())


def _load(
    loader: Loader, pool: LocalPool, sources: Sources, options: Options, costs_path: Path | None
) -> Models:
    opened, placement = load_pool(loader, pool.target, sources.models, options, costs_path)
    weights, layers, context = opened.target, placement.gpu_layers, placement.context_size
    target = loader.open(weights, context, max_rows=MAX_ROWS)
    info, notices = weights.info, list(sources.notices)
    if placement.advice:
        notices.append(f"{pool.name} hardly fits into memory: {placement.advice}")
    if info.rollback == "none":
        notices.append(
            f"{info.name} ({info.architecture}) cannot forget rejected tokens: decoding plainly"
        )
        return Models(weights, layers, target, (), {}, notices)
    drafters: list[Drafter] = []
    drafter_weights: dict[str, LlamaWeights] = {}
    for source in sources.models:
        name = source.name
        try:
            if name in opened.failures:
                raise opened.failures[name]
            loaded = opened.drafters[name]
            size = draft_context(context, loaded.info.trained_context)
            model = loader.open(loaded, size, max_rows=EVALUATED_ROWS)
        except (ModelError, BackendError) as error:
            if sources.are_required:
                raise type(error)(f"drafter {name}: {error}") from error
            notices.append(f"drafter {name} is not used: {error}")
        else:
            vocab_size = weights.vocabulary.size
            drafter_weights[name] = loaded
            drafters.append(
                ModelDrafter(name, model, target_vocab_size=vocab_size, max_rows=EVALUATED_ROWS)
            )
    if sources.has_ngram:
        drafters.append(NgramDrafter(NGRAM))
    return Models(weights, layers, target, drafters, drafter_weights, notices)


def _make_scheme(plan: Plan, vocab_size: int) -> Scheme:
    sampling, window = plan.sampling, plan.chosen.window
    if plan.scheme == "match":
        return Match(LlamaSampler(sampling, vocab_size), sampling, vocab_size)
    if plan.scheme == "greedy":
        compares = plan.chosen.needs_overlaps
        return Greedy(sampling, vocab_size, window, keeps_rows=compares)
    make = Coupled if plan.scheme == "coupled" else Rejection
    return make(sampling, vocab_size, window)
