"""The composition root: names the concrete classes and puts them together.

Turns options and the name of a pool into a session that is ready to answer.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from metasd_local.backend.llama import LlamaModel, LlamaWeights
from metasd_local.backend.llama_sampler import LlamaSampler
from metasd_local.backend.loader import MAX_ROWS, Loader, costs_key
from metasd_local.backend.placement import draft_context
from metasd_local.backend.threads import thread_budget
from metasd_local.costs import (
    SLOW,
    CostCurve,
    RunningCosts,
    TokenCosts,
    measure_curve,
    measure_token,
    read_curve,
    write_curve,
)
from metasd_local.drafters.model import EVALUATED_ROWS, ModelDrafter
from metasd_local.drafters.ngram import NgramDrafter
from metasd_local.drafters.none import NoDrafter
from metasd_local.engine import Engine
from metasd_local.errors import IncompatibleVocabulary, ModelError, UsageError
from metasd_local.fit import COSTS_FILE, check_drafter, load_target
from metasd_local.lab.emulate import Emulation
from metasd_local.lab.profile import Profile
from metasd_local.local import LocalDrafter, LocalPool, find_pool, remember_pool
from metasd_local.options import MAX_WINDOW, Options
from metasd_local.plan import Plan, make_plan
from metasd_local.protocols import NGRAM, Drafter, Scheme
from metasd_local.selection.experience import Experience
from metasd_local.selection.factory import is_informed, needs_overlaps
from metasd_local.session import Session, Setup
from metasd_local.state import read_state, write_entry
from metasd_local.template import ChatTemplate
from metasd_local.verify import Coupled, Greedy, Match, Rejection

PROFILE_FILE = "profile.json"
QUICK_SIZES, QUICK_DEPTH, QUICK_BUDGET_S = (1, 2, 4, 6, 9), 128, 0.5
"""Of a cost curve that nobody asked for."""


class OpenPool:
    """The loaded models of one pool, for any number of sessions of which one is used at a time."""

    def __init__(
        self,
        pool: LocalPool,
        *,
        target: LlamaModel,
        weights: LlamaWeights,
        drafters: Sequence[Drafter],
        drafter_weights: Mapping[str, LlamaWeights],
        notices: Sequence[str],
        loader: Loader,
        resources: ExitStack,
        state_path: Path | None,
        is_fresh: bool,
    ) -> None:
        self.target = target
        self.drafters = drafters
        """Without `plain`, in the order of the pool."""
        self.notices = notices
        self.interrupt = loader.interrupt
        self.resources = resources
        """Closing it frees the models."""
        self._pool = pool
        self._weights = weights
        self._drafter_weights = drafter_weights
        self._loader = loader
        self._costs_path = state_path and state_path / COSTS_FILE
        info = weights.info
        self._costs_key = costs_key(info.path, info.devices, loader.num_threads)
        path = self._costs_path
        self.costs = RunningCosts(read_curve(path, self._costs_key) if path else None)
        self._token_costs = TokenCosts()
        self._profile_path = None if is_fresh else state_path and state_path / PROFILE_FILE
        kept = read_state(self._profile_path) if self._profile_path else {}
        known = kept.get(self._costs_key)
        self._experience = Experience(known)
        if known is not None and self._experience.is_empty:
            lost = f"what {self._profile_path} says of {pool.name} cannot be read: it begins anew"
            self.notices = [*notices, lost]
        resources.callback(self._keep_experience)

    def session(self, options: Options, resources: ExitStack | None = None) -> Session:
        """Start a conversation with the policy, scheme and sampling of `options`.

        Of the loaded drafters it has those that `options` and the policy can use. `resources`
        are freed when it is closed. Raises UsageError.
        """
        plan = make_plan(options, self._pool, self.costs, self._experience)
        wanted = {source.name for source in plan.sources.models}
        wanted |= {NGRAM} if plan.sources.has_ngram else set()
        chosen = [drafter for drafter in self.drafters if drafter.name in wanted]
        info, vocabulary = self._weights.info, self._weights.vocabulary
        engine = Engine(
            target=self.target,
            drafters=[NoDrafter(), *chosen],
            policy=plan.policy,
            scheme=_make_scheme(plan, vocabulary.size),
            interrupt=self.interrupt,
            num_expected=EVALUATED_ROWS if is_informed(plan.specification) else 0,
            watch=self._watch,
        )
        return Session(
            setup=Setup(
                pool=self._pool.name,
                policy=plan.specification.text,
                scheme=plan.scheme,
                sampling=plan.sampling,
                device=", ".join(info.devices),
                threads=self._loader.num_threads,
                drafters=tuple(drafter.name for drafter in chosen),
                context_size=self.target.context_size,
                memory_bytes=self._loader.memory_bytes,
                notices=tuple(self.notices),
            ),
            engine=engine,
            vocabulary=vocabulary,
            template=ChatTemplate(
                info.chat_template,
                vocabulary,
                # A template prints it where it wants it; a base model may want none.
                bos_text=info.bos_text if info.chat_template or vocabulary.adds_bos else "",
                eos_text=info.eos_text,
            ),
            interrupt=self.interrupt,
            resources=resources or ExitStack(),
            system=options.system,
            stop_strings=options.stop or (),
            thinks=options.think,
        )

    def keep_curve(self, curve: CostCurve) -> None:
        """Remember what was measured, for the next time these models are opened here."""
        if self._costs_path is not None:
            write_curve(self._costs_path, self._costs_key, curve)

    def measure_costs(self) -> None:
        """Measure what verifying some tokens costs, and remember it, unless that is known already.

        Else, or if the target has something in its memory, measure only what a single token costs
        there. The memory is afterwards what it was. Raises Cancelled and BackendError.
        """
        target, clock = self.target, time.perf_counter
        if self.costs.is_measured or target.length:
            if self.drafters and target.length < target.context_size:
                seconds = measure_token(target, budget_s=QUICK_BUDGET_S, clock=clock)
                self._token_costs.add(target.length, seconds)
            return
        curve = measure_curve(
            target,
            depth=min(QUICK_DEPTH, target.context_size // 4),
            budget_s=QUICK_BUDGET_S,
            clock=clock,
            sizes=QUICK_SIZES,
        )
        self.costs.use(curve)
        self.keep_curve(curve)

    def plain_s(self) -> float | None:
        """Return what a single token would cost the target where its context ends now.

        None if nobody knows.
        """
        return self._token_costs.at(self.target.length) or self.costs.seconds(1)

    def _keep_experience(self) -> None:
        if self._profile_path is not None and not self._experience.is_empty:
            write_entry(self._profile_path, self._costs_key, self._experience.to_json())

    def _watch(self, num_tokens: int, seconds: float) -> str | None:
        """Learn the cost of a verification; give up a thread if the machine has become busy."""
        self.costs.observe(num_tokens, seconds)
        num_threads = self._loader.num_threads
        if not self.costs.is_slow or num_threads == 1:
            return None
        self.costs.begin_anew()
        self._loader.use_threads(num_threads - 1)
        return (
            f"decoding has become over {SLOW:.0f} times slower, something else uses the processor; "
            f"going on with {num_threads - 1} of {num_threads} threads"
        )

    def scheme(self, options: Options) -> Scheme:
        """Return a scheme such as a session with these options has. Raises UsageError."""
        return _make_scheme(make_plan(options, self._pool), self._weights.vocabulary.size)

    def emulation(self, profile: Profile, options: Options) -> Emulation:
        """Return what decodes with these models and the acceptance of a profile.

        A drafter of the profile computes with the pool's drafter of that name, else with its first.
        Raises UsageError and BackendError.
        """
        if profile.drafters and not self._drafter_weights:
            raise UsageError(
                f"{self._pool.name} has no model drafter, profile {profile.name} needs one; "
                "add --drafters FILE.gguf"
            )
        first = next(iter(self._drafter_weights.values()), self._weights)
        models = {
            name: self._loader.open(
                self._drafter_weights.get(name, first),
                self.target.context_size,
                max_rows=EVALUATED_ROWS,
            )
            for name in profile.drafters
        }
        return Emulation(
            profile,
            target=self.target,
            models=models,
            # With overlaps, for the policies that look at them.
            scheme=self.scheme(dataclasses.replace(options, policy="ucb", window=MAX_WINDOW)),
            interrupt=self.interrupt,
            costs=self.costs,
            watch=self._watch,
            window=options.window,
            seed=options.seed or 0,
        )

    def close(self) -> None:
        """Free the models; harmless when called twice."""
        self.resources.close()


def open_session(
    options: Options,
    pool: str | None = None,
    *,
    on_progress: Callable[[float], bool] | None = None,
    state_path: Path | None = None,
) -> Session:
    """Load what one session needs; closing the session frees it. See `open_pool`."""
    opened = open_pool(options, pool, on_progress=on_progress, state_path=state_path)
    return opened.session(options, opened.resources)


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
    wanted = find_pool(pool or options.pool)
    sources = make_plan(options, wanted).sources
    with ExitStack() as resources:
        loader = Loader(
            resources=resources,
            num_threads=options.threads or thread_budget().num_threads,
            on_progress=on_progress,
            paths=[wanted.target, *(source.path for source in sources.models)],
        )
        costs_path = state_path and state_path / COSTS_FILE
        weights, placement = load_target(loader, wanted, sources.models, options, costs_path)
        info, context_size = weights.info, placement.context_size
        target = loader.open(weights, context_size, max_rows=MAX_ROWS)
        drafters: list[Drafter] = []
        drafter_weights: dict[str, LlamaWeights] = {}
        notices = [*sources.notices]
        if placement.advice:
            notices.append(f"{wanted.name} hardly fits into memory: {placement.advice}")
        if info.rollback == "none":
            notices.append(
                f"{info.name} ({info.architecture}) cannot forget rejected tokens: decoding plainly"
            )
        else:
            for source in sources.models:
                try:
                    is_on_gpu = source.name in placement.drafters_on_gpu
                    loaded = _load_drafter(loader, source, weights, None if is_on_gpu else 0)
                    size = draft_context(context_size, loaded.info.trained_context)
                    model = loader.open(loaded, size, max_rows=EVALUATED_ROWS)
                except ModelError as error:
                    if sources.are_required:
                        raise
                    notices.append(f"drafter {source.name} is not used: {error}")
                    continue
                drafter_weights[source.name] = loaded
                drafters.append(
                    ModelDrafter(
                        source.name,
                        model,
                        target_vocab_size=weights.vocabulary.size,
                        max_rows=EVALUATED_ROWS,
                    )
                )
            if sources.has_ngram:
                drafters.append(NgramDrafter(NGRAM))
        is_named = (pool or options.pool) is not None
        if state_path is not None and is_named and not options.fresh:
            remember_pool(wanted, state_path)  # what only measures, comes afresh
        return OpenPool(
            wanted,
            target=target,
            weights=weights,
            drafters=drafters,
            drafter_weights=drafter_weights,
            notices=notices,
            loader=loader,
            resources=resources.pop_all(),
            state_path=state_path,
            is_fresh=bool(options.fresh),
        )


def _make_scheme(plan: Plan, vocab_size: int) -> Scheme:
    sampling = plan.sampling
    if plan.scheme == "match":
        return Match(LlamaSampler(sampling, vocab_size), sampling, vocab_size)
    if plan.scheme == "greedy":
        compares = needs_overlaps(plan.specification)
        return Greedy(sampling, vocab_size, plan.window, keeps_rows=compares)
    make = Coupled if plan.scheme == "coupled" else Rejection
    return make(sampling, vocab_size, plan.window)


def _load_drafter(
    loader: Loader, entry: LocalDrafter, target: LlamaWeights, gpu_layers: int | None
) -> LlamaWeights:
    """Load a drafter and check that it fits; raise ModelError if it cannot be used."""
    weights = loader.load(entry.path, gpu_layers)
    for result in check_drafter(target, weights):
        if not result.holds:
            raise IncompatibleVocabulary(
                f"it differs from its target in its {result.rule}: {result.detail}; choose a "
                "drafter of the target's own family"
            )
    return weights
