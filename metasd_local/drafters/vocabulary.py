"""llama.cpp's check that a drafter's tokens mean the same as the target's, rule by rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

MAX_SIZE_DIFFERENCE = 128
FIRST_COMPARED_TOKEN = 5


class VocabularyFacts(Protocol):
    """What the check compares."""

    size: int
    type: int
    """The tokeniser's family, by llama.cpp's number."""
    adds_bos: bool
    """Whether `bos` stands before every text."""
    bos: int | None
    """The token that begins a sequence."""
    adds_eos: bool
    """Whether `eos` stands after every text."""
    eos: int | None
    """The token that ends a sequence."""

    def text(self, token: int) -> str:
        """Return a token's text as stored in the file."""
        ...


@dataclass(frozen=True, slots=True)
class RuleResult:
    """What one rule of the check found."""

    rule: str
    holds: bool
    detail: str
    """Found and expected, in one line."""


def check_vocabulary(target: VocabularyFacts, drafter: VocabularyFacts) -> tuple[RuleResult, ...]:
    """Compare a drafter's vocabulary with its target's by every rule, in order.

    A drafter is compatible if every rule holds. Ids below 5 are not compared by text. Source:
    llama.cpp, common/speculative.cpp, common_speculative_are_compatible.
    """
    difference = abs(target.size - drafter.size)
    sizes = f"{_pair(target.size, drafter.size)}, at most {MAX_SIZE_DIFFERENCE} apart allowed"
    return (
        _equal("type", _type_name(target.type), _type_name(drafter.type)),
        _equal(
            "first token",
            _added(target.adds_bos, target.bos),
            _added(drafter.adds_bos, drafter.bos),
        ),
        _equal(
            "last token", _added(target.adds_eos, target.eos), _added(drafter.adds_eos, drafter.eos)
        ),
        RuleResult("size", difference <= MAX_SIZE_DIFFERENCE, sizes),
        _compare_texts(target, drafter),
    )


def _added(is_added: bool, token: int | None) -> int | None:
    """Return a token only if it is added: otherwise its id does not matter."""
    return token if is_added else None


def _type_name(number: int) -> str:
    """Source: llama.cpp, include/llama.h (llama_vocab_type)."""
    names = ("none", "SentencePiece", "byte pairs", "WordPiece", "Unigram", "RWKV", "PLaMo-2")
    return names[number] if 0 <= number < len(names) else str(number)


def _equal(rule: str, target: int | str | None, drafter: int | str | None) -> RuleResult:
    return RuleResult(rule, target == drafter, _pair(target, drafter))


def _compare_texts(target: VocabularyFacts, drafter: VocabularyFacts) -> RuleResult:
    num_compared = min(target.size, drafter.size)
    for token in range(FIRST_COMPARED_TOKEN, num_compared):
        if target.text(token) != drafter.text(token):
            detail = f"token {token}: {_pair(target.text(token), drafter.text(token))}"
            return RuleResult("token texts", holds=False, detail=detail)
    return RuleResult("token texts", holds=True, detail=f"{num_compared} ids compared")


def _pair(target: object, drafter: object) -> str:
    return f"target {target!r}, drafter {drafter!r}"
