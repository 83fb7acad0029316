"""The composition root: the only file that names concrete classes.

Turns options and the name of a pool into a session that is ready to answer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metasd_local.backend.library import devices
from metasd_local.backend.llama import LlamaModel, LlamaWeights
from metasd_local.backend.llama_info import ModelInfo
from metasd_local.backend.llama_sampler import LlamaSampler
from metasd_local.backend.threads import default_num_threads
from metasd_local.catalogue import DEFAULT_POOL, DrafterEntry, Pool, pool_of_file, read_catalogue
from metasd_local.config import MAX_WINDOW, Options
from metasd_local.drafters.model import ModelDrafter
from metasd_local.drafters.ngram import NgramDrafter
from metasd_local.drafters.none import NoDrafter
from metasd_local.drafters.vocabulary import check_vocabulary
from metasd_local.engine import Engine
from metasd_local.errors import IncompatibleVocabulary, ModelError, UsageError
from metasd_local.interrupt import Interrupt
from metasd_local.protocols import PLAIN, Drafter, Policy, Reward, Scheme
from metasd_local.sampling import SamplerSettings
from metasd_local.selection import POLICIES
from metasd_local.selection.fixed import FixedPolicy
from metasd_local.selection.rewards import block_divergence, block_efficiency
from metasd_local.selection.specification import PolicySpecification, parse_policy
from metasd_local.selection.ucb import UcbPolicy
from metasd_local.selection.uniform import UniformPolicy
from metasd_local.session import Session, Setup
from metasd_local.template import ChatTemplate
from metasd_local.verify import Coupled, Greedy, Match, Rejection

NGRAM = "ngram"
DEFAULT_POLICY = "ucb"
DEFAULT_WINDOW = 5
LARGEST_DEFAULT_CONTEXT = 8192
SMALLEST_DEFAULT_CONTEXT = 512
REWARDS: dict[str, Reward] = {"bd": block_divergence, "be": block_efficiency}


def names_pool(text: str) -> bool:
    """Tell whether `text` is a catalogue name or looks like the path of a .gguf file."""
    is_path = text.endswith(".gguf") and not any(character.isspace() for character in text)
    return is_path or text in read_catalogue()


def open_session(
    options: Options,
    pool: str | None = None,
    *,
    on_progress: Callable[[float], bool] | None = None,
) -> Session:
    """Load a pool and settle everything the options leave open.

    on_progress: told the loaded share of all files, in [0, 1]; loading is cancelled when it
    returns False.
    Raises UsageError, ModelError, BackendError and Cancelled.
    """
    wanted = _find_pool(pool or options.pool or DEFAULT_POOL)
    specification = parse_policy(options.policy or DEFAULT_POLICY)
    window = specification.value("window", _whole_window, options.window or DEFAULT_WINDOW)
    policy, reward = _make_policy(specification, window, options.seed)
    sampling = _settle_sampling(options, wanted)
    scheme_name = _settle_scheme(options, sampling)
    sources = _choose_drafters(wanted, options, specification)
    with ExitStack() as resources:
        loader = _Loader(
            resources=resources,
            num_threads=options.threads or default_num_threads(),
            gpu_layers=options.gpu_layers,
            on_progress=on_progress,
            paths=[wanted.target, *(source.path for source in sources.models)],
        )
        weights = loader.load(wanted.target)
        info, vocabulary = weights.info, weights.vocabulary
        context_size = options.ctx or _default_context(info)
        target = loader.open(weights, context_size, max_rows=window + 1)
        drafters: list[Drafter] = [NoDrafter()]
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
        engine = Engine(
            target=target,
            drafters=drafters,
            policy=policy,
            reward=reward,
            scheme=_make_scheme(scheme_name, sampling, vocabulary.size, window),
            interrupt=loader.interrupt,
        )
        return Session(
            setup=Setup(
                pool=wanted.name,
                policy=specification.text,
                scheme=scheme_name,
                sampling=sampling,
                device=", ".join(info.devices),
                threads=loader.num_threads,
                drafters=tuple(drafter.name for drafter in drafters if drafter.name != PLAIN),
                context_size=target.context_size,
                notices=tuple(notices),
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
            interrupt=loader.interrupt,
            resources=resources.pop_all(),
            system=options.system,
            stop_strings=options.stop or (),
            thinks=options.think,
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


def _make_policy(
    specification: PolicySpecification, window: int, seed: int | None
) -> tuple[Policy, Reward]:
    match specification.name:
        case "plain":
            specification.check_keys()
            return FixedPolicy(PLAIN, window=window), block_efficiency
        case "fixed":
            specification.check_keys("window")
            assert specification.drafter is not None
            return FixedPolicy(specification.drafter, window=window), block_efficiency
        case "random":
            specification.check_keys("window")
            return UniformPolicy(np.random.default_rng(seed), window=window), block_efficiency
        case "ucb":
            specification.check_keys("beta", "reward", "window")
            beta = specification.value("beta", _positive, 1.0)
            reward = specification.value("reward", _reward, REWARDS["bd"])
            return UcbPolicy(beta=beta, window=window), reward
    names = ", ".join(policy.name for policy in POLICIES)
    raise UsageError(f"--policy: found {specification.text!r}, expected one of {names}")


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


def _whole_window(text: str) -> int:
    window = int(text)
    if not 1 <= window <= MAX_WINDOW:
        raise ValueError(f"found {window}, expected 1 to {MAX_WINDOW}")
    return window


def _positive(text: str) -> float:
    value = float(text)
    if not 0.0 < value < math.inf:
        raise ValueError(f"found {value}, expected a number above 0")
    return value


def _reward(text: str) -> Reward:
    if text not in REWARDS:
        raise ValueError(f"found {text!r}, expected {' or '.join(REWARDS)}")
    return REWARDS[text]
