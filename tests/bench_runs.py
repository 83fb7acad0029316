"""Generations of a bench, made up: their events, and a decoder that plays them on a fake clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from metasd_local.bench.measure import Run
from metasd_local.bench.prompts import Prompt
from metasd_local.events import Event, GenerationDone, Notice, PromptRead, RoundDone


def round_done(
    index: int,
    *,
    arm: str = "code",
    drafted: int = 4,
    accepted: int = 2,
    tokens: Sequence[int] | None = None,
    seconds: float = 0.01,
) -> RoundDone:
    """Return a round whose tokens, unless given, occur in no other round."""
    emitted = tuple(tokens or range(100 * index, 100 * index + accepted + 1))
    return RoundDone(
        index=index,
        arm=arm,
        window=5,
        drafted=drafted,
        accepted=accepted,
        emitted=emitted,
        next_kind="recovered",
        catch_up_s=0.0,
        draft_s=seconds / 4,
        verify_s=3 * seconds / 4,
        own_s=0.0,
        reward=0.0,
    )


def generation(
    rounds: Sequence[RoundDone], *, inside: float = 0.9, reason: str = "length"
) -> list[Event]:
    """Return the events of a generation that took as long as its rounds."""
    seconds = sum(each.seconds for each in rounds)
    return [
        PromptRead(20, 0, 0.0),
        *rounds,
        GenerationDone(reason, 0.1, seconds, inside * seconds),  # type: ignore[arg-type]
    ]


def make_run(
    policy: str,
    prompt: Prompt,
    seconds: float,
    *,
    repeat: int = 0,
    tokens: int = 200,
    looping: int = 0,
    rounds: Mapping[tuple[str, int, int], int] | None = None,
    draft_seconds: Mapping[str, float] | None = None,
    overhead_share: float = 0.05,
) -> Run:
    """Return counters of one generation."""
    return Run(
        policy=policy,
        prompt=prompt,
        repeat=repeat,
        length=tokens,
        looping=looping,
        emitted=tokens - looping,
        seconds_decode=seconds,
        overhead_share=overhead_share,
        rounds={("plain", 0, 0): tokens} if rounds is None else rounds,
        draft_seconds=draft_seconds or {},
        seconds_prompt=0.1,
    )


@dataclass(slots=True)
class FakeClock:
    """A clock that only moves when somebody works."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass(slots=True)
class PlayedDecoder:
    """Decodes every prompt in the time its policy takes for a token, drafting nothing."""

    clock: FakeClock
    seconds_per_token: Callable[[str, Prompt], float]
    decoded: list[tuple[str, Prompt, int]] = field(default_factory=list)
    prompt_tokens: Sequence[int] = (1, 2, 3)
    stop_after: int | None = None
    """Generations after which every other one is interrupted."""
    notice: str = ""
    """What goes wrong in every answer."""

    def decode(self, policy: str, prompt: Prompt, max_tokens: int) -> Iterator[Event]:
        """Play one generation of `max_tokens` tokens."""
        is_stopped = self.stop_after is not None and len(self.decoded) >= self.stop_after
        self.decoded.append((policy, prompt, max_tokens))
        seconds = self.seconds_per_token(policy, prompt)
        rounds = [
            round_done(index, arm=arm_of(policy), drafted=0, accepted=0, seconds=seconds)
            for index in range(max_tokens)
        ]
        self.clock.now_s += seconds * max_tokens
        read, *others = generation(rounds, reason="cancelled" if is_stopped else "length")
        yield read
        if self.notice:
            yield Notice(self.notice)
        yield from others


def arm_of(policy: str) -> str:
    """Return the arm a fixed policy plays, else `plain`."""
    return policy.split(":")[1] if policy.startswith("fixed:") else "plain"
