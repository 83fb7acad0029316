"""N-gram lookup and the vocabulary check, case by case."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from metasd_local.backend.scripted import ScriptedModel
from metasd_local.drafters.model import ModelDrafter
from metasd_local.drafters.ngram import NgramDrafter
from metasd_local.drafters.vocabulary import check_vocabulary
from metasd_local.verify import Greedy


def occurs_before(tokens: list[int], length: int) -> bool:
    """Tell whether the last `length` tokens occurred before, by scanning everything."""
    last = tokens[len(tokens) - length :]
    return any(tokens[i : i + length] == last for i in range(len(tokens) - length))


@pytest.mark.parametrize("seed", range(20))
def test_ngram_finds_a_match_wherever_there_is_one_and_copies_what_followed_it(
    seed: int, greedy: Greedy
) -> None:
    """It has a match of at least the longest order that occurred, and tells how long it is."""
    rng = random.Random(seed)
    tokens = [rng.randrange(3) for _ in range(12)]
    drafter = NgramDrafter(orders=(4, 2))
    drafter.begin(tokens)
    for _ in range(30):
        tokens += [rng.randrange(3) for _ in range(rng.randrange(1, 5))]
        length = drafter.offer(tokens).match_length
        draft = drafter.propose(tokens, 5, greedy)
        found = max((order for order in (2, 4) if occurs_before(tokens, order)), default=0)
        assert length is not None
        assert length >= found
        assert bool(length) == bool(found)
        assert len(draft.tokens) == (5 if found else 0)
        if found:
            assert occurs_before(tokens, length)
            assert occurs_before([*tokens, *draft.tokens], length + 5)


def test_ngram_evidence_is_what_it_would_have_drafted(greedy: Greedy) -> None:
    """Token by token, from what was known before that token, the match length with it."""
    rng = random.Random(0)
    tokens = [rng.randrange(3) for _ in range(8)]
    drafter, scored = NgramDrafter(orders=(4, 2)), NgramDrafter(orders=(4, 2))
    drafter.begin(tokens)
    scored.begin(tokens)
    matches: list[float] = []
    match_lengths: list[int | None] = []
    seen = len(tokens)
    for _ in range(60):
        match_lengths.append(drafter.offer(tokens).match_length)
        draft = drafter.propose(tokens, 1, greedy).tokens
        tokens.append(rng.randrange(3))
        matches.append(float(draft[0] == tokens[-1]) if draft else math.nan)
    evidence = scored.evaluate(tokens, greedy)
    assert len(tokens) - seen == 60
    np.testing.assert_array_equal(evidence.matches, matches)
    assert evidence.match_lengths == match_lengths
    assert scored.evaluate(tokens, greedy).matches == []


def test_ngram_follows_its_match_rather_than_a_newer_one(greedy: Greedy) -> None:
    drafter = NgramDrafter(orders=(2,))
    drafter.begin([1, 2, 3, 4, 9, 3, 4, 8, 1, 2, 3, 4])
    assert drafter.offer([1] * 12).match_length == 4
    assert drafter.propose([1] * 12, 1, greedy).tokens == [9]


def test_ngram_continues_across_turns_and_forgets_another_conversation(greedy: Greedy) -> None:
    drafter = NgramDrafter(orders=(4, 2))
    drafter.begin([1, 2, 3, 4])
    drafter.begin([1, 2, 3, 4, 5, 6, 1, 2])
    assert list(drafter.propose([], 3, greedy).tokens) == [3, 4, 5]
    drafter.begin([9, 9])
    assert drafter.evaluate([9, 9, 1, 2], greedy).match_lengths == [0, 0]
    assert list(drafter.propose([], 3, greedy).tokens) == []


def test_ngram_drafts_a_repetition_to_the_full_window(greedy: Greedy) -> None:
    drafter = NgramDrafter(orders=(4, 2))
    drafter.begin([7, 8, 7, 8, 7, 8])
    assert list(drafter.propose([], 5, greedy).tokens) == [7, 8, 7, 8, 7]


@dataclass
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


@pytest.mark.parametrize("context_size", [12, 64, 100])
def test_a_drafter_goes_on_when_the_text_outgrows_its_context(
    context_size: int, greedy: Greedy
) -> None:
    """It drafts what it would from the end of the text alone, and reads each token about twice."""

    def last_two(tokens: tuple[int, ...]) -> NDArray[np.float32]:
        row = np.zeros(16, np.float32)
        row[sum(tokens[-2:]) % 16] = 1.0
        return row

    model = ScriptedModel(last_two, vocab_size=16, context_size=context_size)
    drafter = ModelDrafter("d", model, target_vocab_size=16, max_rows=4)
    rng = random.Random(0)
    context = [rng.randrange(16) for _ in range(300)]
    drafter.begin(context)
    for index in range(200):
        if index % 7 == 3:
            greedy.begin(0, context)
            drafter.evaluate(context, greedy)
        drafter.catch_up(context)
        draft = list(drafter.propose(context, 3, greedy).tokens)
        expected = [*context[-2:]]
        for _ in draft:
            expected.append(sum(expected[-2:]) % 16)
        assert draft
        assert draft == expected[2:]
        num_accepted = rng.randrange(len(draft) + 1)
        refused = draft[num_accepted : num_accepted + 1]
        emitted = [
            *draft[:num_accepted],
            rng.choice([token for token in range(16) if token not in refused]),
        ]
        context += emitted
        drafter.observe(emitted)
    assert model.fed_tokens < 4 * len(context)
