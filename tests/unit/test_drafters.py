"""N-gram lookup and the vocabulary check, case by case."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from metasd_local.drafters.ngram import NgramDrafter
from metasd_local.drafters.vocabulary import check_vocabulary
from metasd_local.verify import Greedy


def brute_force(tokens: list[int], window: int, shortest: int, longest: int) -> list[int]:
    """Return what the longest, then most recent, match proposes, by scanning everything."""
    for length in range(longest, shortest - 1, -1):
        for start in range(len(tokens) - length - 1, -1, -1):
            if tokens[start : start + length] == tokens[-length:]:
                extended = list(tokens)
                for index in range(window):
                    extended.append(extended[start + length + index])
                return extended[len(tokens) :]
    return []


@pytest.mark.parametrize("seed", range(20))
def test_ngram_index_finds_what_a_full_scan_finds(seed: int, greedy: Greedy) -> None:
    rng = random.Random(seed)
    tokens = [rng.randrange(3) for _ in range(12)]
    drafter = NgramDrafter(shortest=2, longest=4)
    drafter.begin(tokens)
    for _ in range(30):
        emitted = [rng.randrange(3) for _ in range(rng.randrange(1, 5))]
        drafter.observe(emitted)
        tokens += emitted
        draft = drafter.propose(tokens, 5, greedy)
        assert draft.is_point_mass
        assert list(draft.tokens) == brute_force(tokens, 5, 2, 4)


def test_ngram_continues_across_turns_and_forgets_another_conversation(greedy: Greedy) -> None:
    drafter = NgramDrafter(shortest=2, longest=4)
    drafter.begin([1, 2, 3, 4])
    drafter.observe([5, 6])
    drafter.begin([1, 2, 3, 4, 5, 6, 1, 2])
    assert list(drafter.propose([], 3, greedy).tokens) == [3, 4, 5]
    drafter.begin([9, 9, 1, 2])
    assert list(drafter.propose([], 3, greedy).tokens) == []


def test_ngram_drafts_a_repetition_to_the_full_window(greedy: Greedy) -> None:
    drafter = NgramDrafter(shortest=2, longest=4)
    drafter.begin([7, 8, 7, 8, 7, 8])
    assert list(drafter.propose([], 5, greedy).tokens) == [7, 8, 7, 8, 7]


@dataclass(frozen=True)
class Facts:
    size: int = 300
    type: int = 2
    adds_bos: bool = True
    bos: int | None = 1
    adds_eos: bool = False
    eos: int | None = 0
    changed: int | None = None

    def text(self, token: int) -> str:
        return "changed" if token == self.changed else str(token)


@pytest.mark.parametrize(
    ("drafter", "failing"),
    [
        (Facts(), []),
        (Facts(type=1), ["type"]),
        (Facts(adds_bos=False), ["first token"]),
        (Facts(bos=2), ["first token"]),
        (Facts(adds_eos=True), ["last token"]),
        (Facts(eos=2), []),
        (Facts(size=428), []),
        (Facts(size=429), ["size"]),
        (Facts(size=171), ["size"]),
        (Facts(changed=4), []),
        (Facts(changed=5), ["token texts"]),
        (Facts(changed=299), ["token texts"]),
        (Facts(size=400, changed=399), []),
        (Facts(type=1, size=900, changed=7), ["type", "size", "token texts"]),
    ],
)
def test_vocabulary_check_names_every_failing_rule(drafter: Facts, failing: list[str]) -> None:
    results = check_vocabulary(Facts(), drafter)
    assert [result.rule for result in results if not result.holds] == failing
    assert len(results) == 5
