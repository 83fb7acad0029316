"""What a generation reports, in order: the only way out of the engine.

PromptRead, then for every round a RoundDone and the TextPieces it completed, then
GenerationDone. A Notice may stand anywhere. All readers (command line, chat, bench, trace) see
the same records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

FinishReason: TypeAlias = Literal["stop", "length", "cancelled"]
TextKind: TypeAlias = Literal["answer", "reasoning"]


@dataclass(frozen=True, slots=True)
class PromptRead:
    """The target has read all but the last token of the prompt."""

    prompt_tokens: int
    reused_tokens: int
    """Leading prompt tokens that were still in the target's memory."""
    seconds: float
    """Wall-clock seconds of the target's prefill."""


@dataclass(frozen=True, slots=True)
class RoundDone:
    """One propose-and-verify round."""

    index: int
    """Counts from 0 within a generation."""
    arm: str
    window: int
    """Most tokens the drafter was asked for; 0 for `plain`."""
    drafted: int
    accepted: int
    """Draft tokens that stand; an end inside the draft cuts them."""
    emitted: tuple[int, ...]
    """Token ids; the first `accepted` of them came from the draft."""
    next_kind: Literal["recovered", "bonus"] | None
    """Kind of the last emitted token; None if the generation ended inside the draft."""
    catch_up_s: float
    draft_s: float
    verify_s: float
    own_s: float
    """Seconds of the round spent outside llama.cpp."""
    reward: float
    """What the chosen arm earned, in the unit of the reward the policy learns from."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """The policy's score of each arm when it chose; infinite if not yet tried."""
    evaluate_s: float = 0.0
    """Seconds spent before the round on what idle drafters would have done."""

    @property
    def seconds(self) -> float:
        """Return the seconds spent on the round by its drafter and the target."""
        return self.catch_up_s + self.draft_s + self.verify_s


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Text that became final: whole characters, no part of a stop string."""

    text: str
    kind: TextKind = "answer"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should know."""

    text: str
    dropped: str | None = None
    """The arm that is no longer used, if that is what it says."""


@dataclass(frozen=True, slots=True)
class GenerationDone:
    """The end of a generation, whatever ended it."""

    finish_reason: FinishReason
    seconds_to_first_token: float | None
    """From the start of the prompt's prefill to the first emitted token; None if there is none."""
    seconds_decode: float
    """From PromptRead to this event, catch-up included; 0 if the prompt was never read."""
    seconds_inside: float
    """The part of `seconds_decode` spent inside llama.cpp."""


Event: TypeAlias = PromptRead | RoundDone | TextPiece | Notice | GenerationDone
