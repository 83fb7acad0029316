"""The composition root: names the concrete classes and puts them together.

Turns options and the name of a pool into a session that is ready to answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from metasd_local.backend.library import devices
from metasd_local.backend.llama import LlamaModel, LlamaWeights
from metasd_local.backend.llama_info import ModelInfo
from metasd_local.backend.llama_sampler import LlamaSampler
from metasd_local.backend.threads import default_num_threads
from metasd_local.catalogue import DEFAULT_POOL, DrafterEntry, Pool, pool_of_file, read_catalogue
from metasd_local.config import Options
from metasd_local.drafters.model import ModelDrafter
from metasd_local.drafters.ngram import NgramDrafter
from metasd_local.drafters.none import NoDrafter
from metasd_local.drafters.vocabulary import check_vocabulary
from metasd_local.engine import Engine
from metasd_local.errors import IncompatibleVocabulary, ModelError, UsageError
from metasd_local.interrupt import Interrupt
from metasd_local.protocols import PLAIN, Drafter, Policy, Reward, Scheme
from metasd_local.sampling import SamplerSettings
from metasd_local.selection.factory import DEFAULT_POLICY, make_policy, policy_window
from metasd_local.selection.specification import PolicySpecification, parse_policy
from metasd_local.session import Session, Setup
from metasd_local.template import ChatTemplate
from metasd_local.verify import Coupled, Greedy, Match, Rejection

NGRAM = "ngram"
LARGEST_DEFAULT_CONTEXT = 8192
SMALLEST_DEFAULT_CONTEXT = 512
MAX_ROWS = 33
"""Most logits rows of the target: the widest batch of a measured cost curve."""


def names_pool(text: str) -> bool:
    """Tell whether `text` is a catalogue name or looks like the path of a .gguf file."""
    is_path = text.endswith(".gguf") and not any(character.isspace() for character in text)
    return is_path or text in read_catalogue()


class OpenPool:
    """The loaded models of one pool, for any number of sessions of which one is used at a time."""

    def __init__(
        self,
        pool: Pool,
        *,
        target: LlamaModel,
        weights: LlamaWeights,
        drafters: Sequence[Drafter],
        notices: Sequence[str],
        num_threads: int,
        interrupt: Interrupt,
        resources: ExitStack,
    ) -> None:
        self.target = target
        self.drafters = drafters
        """Without `plain`, in the order of the pool."""
        self.notices = notices
        self.interrupt = interrupt
        self.resources = resources
        """Closing it frees the models."""
        self._pool = pool
        self._weights = weights
        self._num_threads = num_threads

    def session(self, options: Options, resources: ExitStack | None = None) -> Session:
        """Start a conversation with the policy, scheme and sampling of `options`.

        Of the loaded drafters it has those that `options` and the policy can use. `resources`
        are freed when it is closed. Raises UsageError.
        """
        plan = _make_plan(options, self._pool)
        wanted = {source.name for source in plan.sources.models}
        wanted |= {NGRAM} if plan.sources.has_ngram else set()
        chosen = [drafter for drafter in self.drafters if drafter.name in wanted]
        info, vocabulary = self._weights.info, self._weights.vocabulary
        engine = Engine(
            target=self.target,
            drafters=[NoDrafter(), *chosen],
            policy=plan.policy,
            reward=plan.reward,
            scheme=_make_scheme(plan.scheme, plan.sampling, vocabulary.size, plan.window),
            interrupt=self.interrupt,
        )
        return Session(
            setup=Setup(
                pool=self._pool.name,
                policy=plan.specification.text,
                scheme=plan.scheme,
                sampling=plan.sampling,
                device=", ".join(info.devices),
                threads=self._num_threads,
                drafters=tuple(drafter.name for drafter in chosen),
                context_size=self.target.context_size,
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

    def close(self) -> None:
        """Free the models; harmless when called twice."""
        self.resources.close()


def open_session(
    options: Options,
    pool: str | None = None,
    *,
    on_progress: Callable[[float], bool] | None = None,
) -> Session:
    """Load what one session needs; closing the session frees it. See `open_pool`."""
    opened = open_pool(options, pool, on_progress=on_progress)
    return opened.session(options, opened.resources)


def open_pool(
    options: Options,
    pool: str | None = None,
    *,
    on_progress: Callable[[float], bool] | None = None,
) -> OpenPool:
    """Load the target of a pool and the drafters that the policy of `options` can use.

    What cannot work is refused before anything is loaded.
    on_progress: told the loaded share of all files, in [0, 1]; loading is cancelled when it
    returns False.
    Raises UsageError, ModelError, BackendError and Cancelled.
    """
    wanted = _find_pool(pool or options.pool or DEFAULT_POOL)
    sources = _make_plan(options, wanted).sources
    with ExitStack() as resources:
        loader = _Loader(
            resources=resources,
            num_threads=options.threads or default_num_threads(),
            gpu_layers=options.gpu_layers,
            on_progress=on_progress,
            paths=[wanted.target, *(source.path for source in sources.models)],
        )
        weights = loader.load(wanted.target)
        info = weights.info
        context_size = options.ctx or _default_context(info)
        target = loader.open(weights, context_size, max_rows=MAX_ROWS)
        drafters: list[Drafter] = []
        notices: list[str] = []
        if info.rollback == "none":
            notices.append(
                f"{info.name} ({info.architecture}) cannot forget rejected tokens: decoding plainly"
            )
        else:
            for source in sources.models:
                try:
                    drafters.append(loader.open_drafter(source, weights, context_size))
                except ModelError as error:
                    if sources.are_required:
                        raise
                    notices.append(f"drafter {source.name} is not used: {error}")
            if sources.has_ngram:
                drafters.append(NgramDrafter(NGRAM))
        return OpenPool(
            wanted,
            target=target,
            weights=weights,
            drafters=drafters,
            notices=notices,
            num_threads=loader.num_threads,
            interrupt=loader.interrupt,
            resources=resources.pop_all(),
        )


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the options ask of a session, settled; one policy object for one session."""

    specification: PolicySpecification
    window: int
    policy: Policy
    reward: Reward
    sampling: SamplerSettings
    scheme: str
    sources: _Sources


def _make_plan(options: Options, pool: Pool) -> _Plan:
    specification = parse_policy(options.policy or DEFAULT_POLICY)
    window = policy_window(specification, options.window)
    policy, reward = make_policy(specification, window, options.seed)
    sampling = _settle_sampling(options, pool)
    return _Plan(
        specification=specification,
        window=window,
        policy=policy,
        reward=reward,
        sampling=sampling,
        scheme=_settle_scheme(options, sampling),
        sources=_choose_drafters(pool, options, specification),
    )


def _default_context(info: ModelInfo) -> int:
    """Return what was trained and fits: weights and token memory take half a device at most."""
    sizes = [device.memory_bytes for device in devices() if device.name in info.devices]
    free_bytes = min((size for size in sizes if size), default=0) // 2 - info.file_bytes
    fitting = max(free_bytes // max(info.memory_bytes_per_token, 1), SMALLEST_DEFAULT_CONTEXT)
    return min(info.trained_context, LARGEST_DEFAULT_CONTEXT, fitting)


def _find_pool(text: str) -> Pool:
    catalogue = read_catalogue()
    if text not in catalogue and text.endswith(".gguf"):
        return pool_of_file(Path(text).expanduser())
    return catalogue[text]


@dataclass(frozen=True, slots=True)
class _Sources:
    """The drafters to open."""

    models: tuple[DrafterEntry, ...]
    has_ngram: bool
    are_required: bool
    """Whether the user named them, so that one that cannot be used is an error."""


def _choose_drafters(pool: Pool, options: Options, specification: PolicySpecification) -> _Sources:
    """Return what the policy can choose from, and nothing it never would."""
    known = {entry.name: entry for entry in pool.drafters}
    names = options.drafters or (*known, NGRAM)
    entries = [known.get(name) or _drafter_of_file(name, pool) for name in names if name != NGRAM]
    if len({entry.name for entry in entries}) < len(entries):
        raise UsageError(f"--drafters {','.join(names)}: two drafters have the same name")
    has_ngram = NGRAM in names
    wanted = PLAIN if specification.name == PLAIN else specification.drafter
    if wanted is not None:
        arms = [entry.name for entry in entries] + [NGRAM] * has_ngram
        if wanted not in [*arms, PLAIN]:
            raise UsageError(
                f"--policy {specification.text}: no drafter is named {wanted!r}; "
                f"expected one of {', '.join(arms)}"
            )
        entries = [entry for entry in entries if entry.name == wanted]
        has_ngram = wanted == NGRAM
    is_named = options.drafters is not None or specification.drafter is not None
    return _Sources(tuple(entries), has_ngram, is_named)


def _drafter_of_file(text: str, pool: Pool) -> DrafterEntry:
    if not text.endswith(".gguf"):
        names = ", ".join([*(entry.name for entry in pool.drafters), NGRAM])
        raise UsageError(
            f"--drafters: found {text!r}, expected the path of a .gguf file or one of {names}"
        )
    path = Path(text).expanduser()
    return DrafterEntry(name=path.stem, path=path)


def _settle_sampling(options: Options, pool: Pool) -> SamplerSettings:
    said = {
        name: getattr(options, name)
        for name in ("temperature", "top_k", "top_p", "min_p", "repeat_penalty")
        if getattr(options, name) is not None
    }
    return dataclasses.replace(pool.sampling, **said)


def _settle_scheme(options: Options, sampling: SamplerSettings) -> str:
    """Return the scheme's name: at temperature 0 all but `match` are the greedy one."""
    is_greedy = sampling.temperature == 0.0
    if options.scheme == "greedy" and not is_greedy:
        raise UsageError(
            f"--scheme greedy decodes at temperature 0, found {sampling.temperature}; "
            "add --temperature 0 or choose coupled, match or rejection"
        )
    if is_greedy:
        return "match" if options.scheme == "match" else "greedy"
    return options.scheme or "coupled"


def _make_scheme(name: str, sampling: SamplerSettings, vocab_size: int, window: int) -> Scheme:
    if name == "match":
        chain = LlamaSampler(
            vocab_size=vocab_size,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            repeat_penalty=sampling.repeat_penalty,
            penalty_last_n=sampling.penalty_last_n,
        )
        return Match(chain, sampling, vocab_size)
    if name == "greedy":
        return Greedy(sampling, vocab_size, window)
    make = Coupled if name == "coupled" else Rejection
    return make(sampling, vocab_size, window)


class _Loader:
    """Opens model files, one progress for all of them; what it opens is closed by `resources`."""

    def __init__(
        self,
        *,
        resources: ExitStack,
        num_threads: int,
        gpu_layers: int | None,
        on_progress: Callable[[float], bool] | None,
        paths: Sequence[Path],
    ) -> None:
        self.interrupt = Interrupt()
        self.num_threads = num_threads
        self._resources = resources
        self._gpu_layers = gpu_layers
        self._on_progress = on_progress
        self._total_bytes = sum(path.stat().st_size for path in paths if path.is_file())
        self._loaded_bytes = 0

    def load(self, path: Path) -> LlamaWeights:
        """Read a file's weights."""
        file_bytes = path.stat().st_size if path.is_file() else 0

        def report(share: float) -> bool:
            if self._on_progress is None:
                return True
            return self._on_progress(
                (self._loaded_bytes + share * file_bytes) / max(self._total_bytes, 1)
            )

        weights = LlamaWeights(path, gpu_layers=self._gpu_layers, on_progress=report)
        self._resources.callback(weights.close)
        self._loaded_bytes += file_bytes
        return weights

    def open(self, weights: LlamaWeights, context_size: int, *, max_rows: int) -> LlamaModel:
        """Make a token memory on loaded weights."""
        return LlamaModel(
            weights,
            context_size=context_size,
            max_rows=max_rows,
            num_threads=self.num_threads,
            interrupt=self.interrupt,
        )

    def open_drafter(
        self, entry: DrafterEntry, target: LlamaWeights, context_size: int
    ) -> ModelDrafter:
        """Load a drafter and check that it fits; raise ModelError if it cannot be used."""
        weights = self.load(entry.path)
        for result in check_vocabulary(target.vocabulary, weights.vocabulary):
            if not result.holds:
                raise IncompatibleVocabulary(
                    f"its vocabulary differs from the target's in its {result.rule}: "
                    f"{result.detail}; choose a drafter of the target's own family"
                )
        info = weights.info
        if info.rollback == "none":
            raise ModelError(
                f"{info.name} ({info.architecture}) cannot forget rejected tokens; "
                "expected a drafter with attention only"
            )
        model = self.open(weights, min(context_size, info.trained_context), max_rows=1)
        return ModelDrafter(entry.name, model, target_vocab_size=target.vocabulary.size)
