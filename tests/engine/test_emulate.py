"""Emulated acceptance: the draws decide every draft, for all policies alike; the work is real."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from metasd_local.backend.scripted import ScriptedModel
from metasd_local.bench.measure import run_once
from metasd_local.bench.prompts import Prompt
from metasd_local.bench.schedule import WARM_UP
from metasd_local.errors import UsageError
from metasd_local.events import Event, GenerationDone, PromptRead, RoundDone
from metasd_local.interrupt import Interrupt
from metasd_local.lab.answers import NUM_PROMPT_POSITIONS, draw_answer
from metasd_local.lab.emulate import Emulation, emulated_prompts
from metasd_local.lab.profile import Profile, find_profile, read_profile
from metasd_local.protocols import Draft, Logits, Probabilities, Scheme, Verdict
from metasd_local.sampling import SamplerSettings
from metasd_local.verify import Coupled, Greedy, Rejection

VOCAB_SIZE = 60
MAX_WINDOW = 8
PROMPT_TOKENS = 16
PROFILE = """
prompt_tokens = 16
[domain.code]
acceptance = { good = 0.8, poor = 0.3 }
[domain.code.ngram]
copied_share = 0.4
run_tokens = 12
copied_acceptance = 0.9
match = 0.3
acceptance = 0.1
[domain.moving]
acceptance = { good = [1, 0], poor = [0, 1] }
"""
CODE, MOVING = Prompt("code", "0"), Prompt("moving", "0")
POLICIES = (
    "plain",
    "fixed:good",
    "fixed:poor:window=2",
    "fixed:ngram",
    "random",
    "ucb",
    "auto",
    "hedge",
)


class CountingScheme:
    """Greedy, and a count of the rows it was given."""

    def __init__(self) -> None:
        self._real = Greedy(SamplerSettings(temperature=0.0), VOCAB_SIZE, MAX_WINDOW)
        self.drafted = self.verified = self.compared = 0
        self.begin, self.expect = self._real.begin, self._real.expect
        self.matches, self.margins = self._real.matches, self._real.margins

    def draft(self, logits: Logits, drafted: Sequence[int]) -> int:
        self.drafted += 1
        return self._real.draft(logits, drafted)

    def verify(self, rows: Logits, draft: Draft) -> Verdict:
        self.verified += len(rows)
        return self._real.verify(rows, draft)

    def overlaps(self, rows: Logits, draft: Draft, num_positions: int) -> Probabilities:
        self.compared += num_positions
        return self._real.overlaps(rows, draft, num_positions)


class Bench:
    """An emulation on scripted models, which count what they are fed."""

    def __init__(
        self, profile: Profile, *, num_tokens: int = 200, scheme: Scheme | None = None
    ) -> None:
        row = np.random.default_rng(0).normal(size=VOCAB_SIZE).astype(np.float32) * 4
        self.target, *models = (
            ScriptedModel(lambda _: row, vocab_size=VOCAB_SIZE) for _ in (0, *profile.drafters)
        )
        self.models = dict(zip(profile.drafters, models, strict=True))
        self.counted = CountingScheme()
        self.interrupt = Interrupt()
        self.emulation = Emulation(
            profile,
            target=self.target,
            models=self.models,
            scheme=scheme or self.counted,
            interrupt=self.interrupt,
            seed=3,
        )
        self.num_tokens = num_tokens

    def decode(self, policy: str, prompt: Prompt = CODE) -> list[Event]:
        return list(self.emulation.decode(policy, prompt, self.num_tokens))

    def rounds(self, policy: str, prompt: Prompt = CODE) -> list[RoundDone]:
        return [event for event in self.decode(policy, prompt) if isinstance(event, RoundDone)]


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    path = tmp_path / "small.toml"
    path.write_text(PROFILE)
    return read_profile(path)


def text_of(rounds: Sequence[RoundDone]) -> list[int]:
    return [token for done in rounds for token in done.emitted]


def outcomes(rounds: Sequence[RoundDone]) -> dict[tuple[str, int], bool]:
    """Return whether the token was right at every position an arm's drafts reached."""
    found, position = {}, 0
    for done in rounds:
        for offset in range(min(done.accepted + 1, done.drafted)):
            found[done.arm, position + offset] = offset < done.accepted
        position += len(done.emitted)
    return found


@pytest.mark.parametrize("num_tokens", [1, 37, 256])
def test_every_policy_emits_the_same_text_of_exactly_the_length_asked_for(
    profile: Profile, num_tokens: int
) -> None:
    texts = {
        tuple(text_of(Bench(profile, num_tokens=num_tokens).rounds(policy))) for policy in POLICIES
    }
    assert [len(text) for text in texts] == [num_tokens]


def test_a_drafter_is_right_at_the_same_positions_under_every_policy_and_in_every_run(
    profile: Profile,
) -> None:
    seen: dict[tuple[str, int], bool] = {}
    num_shared = 0
    for policy in (*POLICIES, "fixed:good:window=1", "ucb:reward=be", "ucb"):
        for place, is_right in outcomes(Bench(profile).rounds(policy)).items():
            num_shared += place in seen
            assert seen.setdefault(place, is_right) == is_right
    assert num_shared > 200


def test_other_prompts_get_other_draws(profile: Profile) -> None:
    bench = Bench(profile)
    prompts = emulated_prompts(profile, 2)
    assert [prompt.domain for prompt in prompts] == ["code", "moving", "code", "moving"]
    runs = [bench.rounds("random", prompt) for prompt in prompts]
    for one, other in itertools.combinations(runs, 2):
        assert outcomes(one) != outcomes(other)
        assert text_of(one) != text_of(other)
        assert [done.arm for done in one[:20]] != [done.arm for done in other[:20]]


def test_a_short_answer_is_the_beginning_of_a_long_one(profile: Profile) -> None:
    short, long = (
        draw_answer(profile, CODE, vocab_size=VOCAB_SIZE, num_tokens=count, seed=3)
        for count in (256, 600)
    )
    assert (short.prompt, short.tokens) == (long.prompt, long.tokens[:256])
    beginning = long.trace.matches[:, : NUM_PROMPT_POSITIONS + 256]
    np.testing.assert_array_equal(short.trace.matches, beginning)


@pytest.mark.parametrize("policy", ["fixed:good", "fixed:poor", "fixed:good:window=1"])
def test_measured_acceptance_is_the_profiles(profile: Profile, policy: str) -> None:
    """Within four standard deviations of the positions reached."""
    bench = Bench(profile, num_tokens=600)
    rights = [
        is_right
        for key in range(5)
        for is_right in outcomes(bench.rounds(policy, Prompt("code", str(key)))).values()
    ]
    expected = {"good": 0.8, "poor": 0.3}[policy.split(":")[1]]
    deviation = math.sqrt(expected * (1 - expected) / len(rights))
    assert len(rights) > 1000
    assert abs(np.mean(rights) - expected) < 4 * deviation


def test_prompt_lookup_matches_and_is_right_as_often_as_the_profile_says(profile: Profile) -> None:
    traces = [
        draw_answer(profile, prompt, vocab_size=VOCAB_SIZE, num_tokens=600, seed=0).trace
        for prompt in emulated_prompts(profile, 100)
        if prompt.domain == "code"
    ]
    assert {trace.arms[-1] for trace in traces} == {"ngram"}
    is_copied = np.concatenate([trace.probabilities[-1] == 0.9 for trace in traces])
    has_match = np.concatenate([trace.match_lengths()[-1] > 0 for trace in traces])
    is_right = np.concatenate([trace.matches[-1] for trace in traces])
    assert is_copied.mean() == pytest.approx(0.4, abs=0.03)
    assert has_match[is_copied].all()
    assert has_match[~is_copied].mean() == pytest.approx(0.3, abs=0.02)
    assert is_right[is_copied].mean() == pytest.approx(0.9, abs=0.02)
    assert is_right[~is_copied].mean() == pytest.approx(0.1, abs=0.02)
    # A state lasts 12 tokens until it is drawn anew, and survives that with its own probability.
    num_ends = np.sum(is_copied[:-1] & ~is_copied[1:])
    assert is_copied.sum() / num_ends == pytest.approx(12 / 0.6, rel=0.1)


def test_without_a_match_prompt_lookup_drafts_nothing(profile: Profile) -> None:
    rounds = Bench(profile).rounds("fixed:ngram")
    assert {done.drafted == 0 for done in rounds} == {True, False}
    assert all(done.drafted in (0, done.window) for done in rounds)
    assert not any(done.drafted for done in Bench(profile).rounds("fixed:ngram", MOVING))


def test_an_answer_that_moves_has_a_drafter_for_each_half(profile: Profile) -> None:
    found = outcomes(Bench(profile).rounds("random", MOVING))
    assert len(found) > 100
    for (arm, position), is_right in found.items():
        assert is_right == ((arm == "good") == (position < 100))


def test_models_are_fed_what_a_real_generation_feeds(profile: Profile) -> None:
    """The target reads every draft, a drafter its own and what it missed, an idle one nothing."""
    bench = Bench(profile)
    rounds = bench.rounds("fixed:good")
    drafting = [done for done in rounds if done.drafted]
    total = PROMPT_TOKENS - 1 + sum(done.drafted + 1 for done in rounds)
    assert bench.target.fed_tokens == total
    assert bench.models["poor"].fed_tokens == 0
    # Read once: the context of the last draft. Read in vain: drafts fed and rejected.
    read = PROMPT_TOKENS + sum(len(done.emitted) for done in rounds[: len(drafting) - 1])
    in_vain = sum(max(done.drafted - 1 - done.accepted, 0) for done in drafting[:-1])
    assert bench.models["good"].fed_tokens == read + in_vain + drafting[-1].drafted - 1


def test_switching_pays_the_catch_up(profile: Profile) -> None:
    bench = Bench(profile)
    bench.rounds("random")
    for model in bench.models.values():
        assert model.fed_tokens > PROMPT_TOKENS + 150


def test_evaluations_read_what_was_decided_and_pay_the_real_prefill(profile: Profile) -> None:
    """By the rows of these models both drafters would always be right."""
    bench = Bench(profile)
    rounds = [done for done in bench.rounds("hedge", MOVING) if done.drafted]
    assert {done.arm for done in rounds[:16]} == {"good"}
    assert rounds[-1].arm == "poor"
    assert bench.models["poor"].fed_tokens > PROMPT_TOKENS + 150


def test_the_real_scheme_sees_every_row_it_would_read(profile: Profile) -> None:
    """One per drafted token, one per emitted token, and for BD one per position reached."""
    bench = Bench(profile)
    rounds = bench.rounds("ucb")
    by_model = sum(done.drafted for done in rounds if done.arm != "ngram")
    assert bench.counted.drafted == by_model
    assert bench.counted.verified == sum(len(done.emitted) for done in rounds) == 200
    reached = sum(min(done.accepted + 1, done.drafted) for done in rounds)
    assert bench.counted.compared == reached
    assert Bench(profile).counted.compared == 0


def test_block_divergence_is_the_profiles_probability(profile: Profile) -> None:
    rounds = [done for done in Bench(profile).rounds("ucb") if done.drafted]
    for done in rounds:
        if done.arm != "ngram":
            assert done.reward == pytest.approx({"good": 0.8, "poor": 0.3}[done.arm])
    assert {done.arm for done in rounds} == {"good", "poor", "ngram"}


@pytest.mark.parametrize("make", [Coupled, Rejection])
def test_the_work_of_sampling_schemes_can_be_paid_too(
    profile: Profile, make: type[Coupled] | type[Rejection]
) -> None:
    sampled = make(SamplerSettings(temperature=0.8), VOCAB_SIZE, MAX_WINDOW)
    rounds = Bench(profile, scheme=sampled).rounds("ucb")
    assert text_of(rounds) == text_of(Bench(profile).rounds("ucb"))
    assert [done.arm for done in rounds] == [done.arm for done in Bench(profile).rounds("ucb")]


@pytest.mark.parametrize("policy", ["fixed:first", "fixed:ngram", "random", "ucb"])
def test_useless_drafters_are_never_accepted(policy: str) -> None:
    rounds = Bench(find_profile("useless")).rounds(policy, Prompt("any", "0"))
    assert sum(done.drafted for done in rounds) > 50
    assert sum(done.accepted for done in rounds) == 0


def test_every_answer_starts_cold_and_ends_like_a_sessions(profile: Profile) -> None:
    bench = Bench(profile)
    for _ in range(2):
        first, *rounds, last = bench.decode("fixed:good")
        assert isinstance(first, PromptRead)
        assert (first.prompt_tokens, first.reused_tokens) == (PROMPT_TOKENS, 0)
        assert all(isinstance(event, RoundDone) for event in rounds)
        assert isinstance(last, GenerationDone)
        assert last.finish_reason == "length"
        assert last.seconds_to_first_token is not None
        assert last.seconds_to_first_token > 0
        assert last.seconds_decode > sum(
            done.seconds for done in rounds if isinstance(done, RoundDone)
        )


def test_an_interrupt_ends_the_answer_as_cancelled(profile: Profile) -> None:
    bench = Bench(profile)
    events = []
    for event in bench.emulation.decode("fixed:good", CODE, 200):
        events.append(event)
        if isinstance(event, RoundDone) and event.index == 2:
            bench.interrupt.set()
    assert isinstance(events[-1], GenerationDone)
    assert events[-1].finish_reason == "cancelled"
    assert len(events) == 5


def test_what_cannot_be_emulated_is_refused(profile: Profile) -> None:
    with pytest.raises(
        UsageError, match=r"no drafter is named 'god'; expected one of good, poor, ngram"
    ):
        Bench(profile).decode("fixed:god")
    with pytest.raises(UsageError, match=r"need 5016 tokens, the context has 4096"):
        Bench(profile, num_tokens=5000).decode("plain")


def test_figures_are_labelled_as_emulated(profile: Profile) -> None:
    assert Bench(profile).emulation.label == "emulated acceptance, profile small"


def test_the_bench_can_measure_it(profile: Profile) -> None:
    bench = Bench(profile)
    warm_up, _ = run_once(bench.emulation, "plain", WARM_UP, 0, 8)
    assert warm_up.length == 8
    run, _ = run_once(bench.emulation, "fixed:good", CODE, 0, 200)
    assert (run.length, run.looping) == (200, 0)
    assert bench.emulation.arms == ("good", "poor", "ngram")
