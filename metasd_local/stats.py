"""The statistics of one generation, folded from its events.

Counters are stored, rates are derived; a rate that is not known yet is None.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any

from metasd_local.events import Event, FinishReason, GenerationDone, PromptRead, RoundDone

LOOP_LENGTH = 8
LOOP_OCCURRENCES = 3
LINE_COLUMNS = 77
"""Of 80 the chat keeps some free around its text."""
ENDINGS = {"length": " (limit)", "cancelled": " (stopped)"}


@dataclass(slots=True)
class ArmCounts:
    """What one arm did in a generation so far."""

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    emitted: int = 0
    seconds: float = 0.0
    """Catch-up, drafting and verification of its rounds."""

    @property
    def acceptance_rate(self) -> float | None:
        """Return accepted / drafted."""
        return _ratio(self.accepted, self.drafted)

    def add(self, event: RoundDone) -> None:
        """Count one more round."""
        self.rounds += 1
        self.drafted += event.drafted
        self.accepted += event.accepted
        self.emitted += len(event.emitted)
        self.seconds += event.seconds


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The counters of one generation so far."""

    prompt_tokens: int = 0
    prompt_tokens_reused: int = 0
    emitted: int = 0
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    looping: int = 0
    """Emitted tokens that belong to loops, see `LoopFinder`."""
    seconds_prompt: float = 0.0
    seconds_decode: float = 0.0
    """Sum of the rounds while the generation runs, the engine's own figure once it is done."""
    seconds_inside: float | None = None
    """The part of `seconds_decode` spent inside llama.cpp; None until the generation is done."""
    seconds_to_first_token: float | None = None
    """None until the generation is done, and if it emitted nothing."""
    finish_reason: FinishReason | None = None
    """None until the generation is done."""
    arms: Mapping[str, ArmCounts] = field(default_factory=dict)
    """The arms that played, in the order of their first round."""

    @property
    def tokens_per_second(self) -> float | None:
        """Return emitted / seconds_decode."""
        return _ratio(self.emitted, self.seconds_decode)

    @property
    def acceptance_rate(self) -> float | None:
        """Return accepted / drafted."""
        return _ratio(self.accepted, self.drafted)

    @property
    def overhead_share(self) -> float | None:
        """Return the share of seconds_decode spent outside llama.cpp."""
        if self.seconds_inside is None:
            return None
        return _ratio(self.seconds_decode - self.seconds_inside, self.seconds_decode)

    @property
    def loop_share(self) -> float | None:
        """Return the share of the emitted tokens that belongs to loops."""
        return _ratio(self.looping, self.emitted)

    def to_json(self) -> dict[str, Any]:
        """Return the "stats" object of `run --json`."""
        counters = asdict(self)
        for name in ("looping", "seconds_inside", "finish_reason"):
            del counters[name]
        return {
            **counters,
            "tokens_per_second": self.tokens_per_second,
            "overhead_share": self.overhead_share,
            "loop_share": self.loop_share,
        }


class Stats:
    """Fold the events of one generation into a Snapshot."""

    def __init__(self) -> None:
        self.begin(())

    def begin(self, prompt_tokens: Sequence[int]) -> None:
        """Start over with a new generation; what the prompt says is no loop in its answer."""
        self._loops = LoopFinder(prompt_tokens)
        self._read: PromptRead | None = None
        self._done: GenerationDone | None = None
        self._arms: dict[str, ArmCounts] = {}

    def observe(self, event: Event) -> None:
        """Count one event; texts and notices change nothing."""
        match event:
            case RoundDone():
                self._loops.add(event.emitted)
                self._arms.setdefault(event.arm, ArmCounts()).add(event)
            case PromptRead():
                self._read = event
            case GenerationDone():
                self._done = event

    @property
    def snapshot(self) -> Snapshot:
        """Return the counters so far; it does not change when more events come."""
        read, done = self._read, self._done
        arms = {name: replace(arm) for name, arm in self._arms.items()}
        return Snapshot(
            prompt_tokens=read.prompt_tokens if read else 0,
            prompt_tokens_reused=read.reused_tokens if read else 0,
            emitted=sum(arm.emitted for arm in arms.values()),
            rounds=sum(arm.rounds for arm in arms.values()),
            drafted=sum(arm.drafted for arm in arms.values()),
            accepted=sum(arm.accepted for arm in arms.values()),
            looping=self._loops.num_looping,
            seconds_prompt=read.seconds if read else 0.0,
            seconds_decode=(
                done.seconds_decode if done else sum(arm.seconds for arm in arms.values())
            ),
            seconds_inside=done.seconds_inside if done else None,
            seconds_to_first_token=done.seconds_to_first_token if done else None,
            finish_reason=done.finish_reason if done else None,
            arms=arms,
        )


class LoopFinder:
    """Find the tokens of an answer that belong to loops.

    An 8-gram loops if it stands at least three times in the answer, not counting occurrences that
    overlap an earlier counted one (from the left), and nowhere in the prompt. The tokens of every
    counted occurrence but the first belong to a loop; a token counts once. The search waits until
    somebody asks, so that a round pays nothing for it.
    """

    def __init__(self, prompt_tokens: Sequence[int]) -> None:
        self._prompt_tokens = prompt_tokens
        self._prompt_grams: set[tuple[int, ...]] | None = None
        self._tokens: list[int] = []
        self._starts: dict[tuple[int, ...], list[int]] = {}
        self._is_looping = bytearray()

    @property
    def num_looping(self) -> int:
        """Return how many tokens belong to loops so far."""
        self._search()
        return self._is_looping.count(1)

    @property
    def start(self) -> int | None:
        """Return the position of the first token that belongs to a loop, None without loops."""
        self._search()
        position = self._is_looping.find(1)
        return None if position < 0 else position

    def add(self, tokens: Sequence[int]) -> None:
        """Append tokens to the answer."""
        self._tokens += tokens

    def _search(self) -> None:
        for end in range(len(self._is_looping) + 1, len(self._tokens) + 1):
            self._is_looping.append(0)
            start = end - LOOP_LENGTH
            if start >= 0:
                self._add_gram(tuple(self._tokens[start:end]), start)

    def _add_gram(self, gram: tuple[int, ...], start: int) -> None:
        starts = self._starts.setdefault(gram, [])
        if starts and start < starts[-1] + LOOP_LENGTH:
            return
        starts.append(start)
        if len(starts) < LOOP_OCCURRENCES or self._is_in_prompt(gram):
            return
        for repeat in starts[1:] if len(starts) == LOOP_OCCURRENCES else (start,):
            self._is_looping[repeat : repeat + LOOP_LENGTH] = b"\1" * LOOP_LENGTH

    def _is_in_prompt(self, gram: tuple[int, ...]) -> bool:
        # Most answers never ask, so the prompt is cut into grams only once one does.
        if self._prompt_grams is None:
            tokens = self._prompt_tokens
            num_grams = len(tokens) - LOOP_LENGTH + 1
            grams = (tuple(tokens[start : start + LOOP_LENGTH]) for start in range(num_grams))
            self._prompt_grams = set(grams)
        return gram in self._prompt_grams


def percent(share: float | None) -> str:
    """Return a share, `-` for one that is not known."""
    return "-" if share is None else f"{100 * share:.0f} %"


def speed(tokens_per_second: float | None) -> str:
    """Return tokens per second without its unit."""
    if tokens_per_second is None:
        return "-"
    return f"{tokens_per_second:.{0 if tokens_per_second >= 100 else 1}f}"


def gain(tokens_per_second: float | None, plain_s: float | None) -> float | None:
    """Return how much faster than plain decoding, 0.5 for half as fast again.

    plain_s: seconds a single token would cost; None if nobody knows.
    """
    if tokens_per_second is None or not plain_s:
        return None
    return tokens_per_second * plain_s - 1


def gain_text(value: float) -> str:
    """Return a gain in per cent, always with its sign and marked as an estimate."""
    return f"~{100 * value:+.0f} %"


def answer_line(snapshot: Snapshot, plain_s: float | None = None, seed: int | None = None) -> str:
    """Return the one line shown after an answer; `seed` only if it is worth knowing.

    The arms follow with their shares of the rounds, largest first, as many as fit a terminal of
    80 columns, for which the first token's delay makes room. What is not known is left out.
    """
    for num_arms, with_delay in product((3, 2, 1), (True, False)):
        parts = _answer_parts(snapshot, plain_s, seed, num_arms, with_delay=with_delay)
        line = " · ".join(parts).replace(" %", "%")
        if len(line) <= LINE_COLUMNS:
            break
    return line


def _answer_parts(
    snapshot: Snapshot, plain_s: float | None, seed: int | None, num_arms: int, *, with_delay: bool
) -> Iterator[str]:
    unit = "token" if snapshot.emitted == 1 else "tokens"
    yield f"{snapshot.emitted} {unit}{ENDINGS.get(snapshot.finish_reason or '', '')}"
    pace = snapshot.tokens_per_second
    if pace is not None:
        yield f"{speed(pace)} tok/s"
    gained = gain(pace, plain_s)
    if gained is not None and snapshot.drafted:
        yield gain_text(gained)
    if snapshot.acceptance_rate is not None:
        yield f"{percent(snapshot.acceptance_rate)} acc."
    arms = sorted(snapshot.arms.items(), key=lambda item: -item[1].rounds)[:num_arms]
    if arms:
        shares = (f"{name} {percent(arm.rounds / snapshot.rounds)}" for name, arm in arms)
        yield ", ".join(shares)
    if with_delay and snapshot.seconds_to_first_token is not None:
        yield f"first {snapshot.seconds_to_first_token:.2f} s"
    if seed is not None:
        yield f"seed {seed}"


def _ratio(amount: float, total: float) -> float | None:
    return amount / total if total > 0 else None
