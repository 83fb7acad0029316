"""Where models go: what is placed fits, what is asked for is kept, and advice would work."""

from __future__ import annotations

import random

import pytest

from metasd_local.backend.placement import (
    DRAFT_CONTEXT,
    LARGEST_DEFAULT_CONTEXT,
    MAIN_SHARE,
    Need,
    Placement,
    draft_context,
    place,
    usable_gpu_bytes,
)

GB = 10**9


def model(name: str, weights_gb: float, kilobytes_per_token: int = 100, layers: int = 32) -> Need:
    return Need(name, int(weights_gb * GB), 1000 * kilobytes_per_token, GB // 10, 32768, layers)


TARGET = model("target", 5.0)
DRAFTERS = [model("large", 1.5), model("small", 0.4), model("middle", 0.5)]
NAMES = {"large", "small", "middle"}


def test_without_a_gpu_everything_is_in_main_memory() -> None:
    found = place(TARGET, DRAFTERS, main_bytes=32 * GB)
    assert (found.gpu_layers, found.gpu_bytes, found.drafters_on_gpu) == (0, 0, frozenset())
    assert found.context_size == LARGEST_DEFAULT_CONTEXT
    drafters = sum(drafter.at(DRAFT_CONTEXT) for drafter in DRAFTERS)
    assert found.main_bytes == TARGET.at(LARGEST_DEFAULT_CONTEXT) + drafters
    assert not found.advice


def test_by_default_a_context_takes_what_half_of_the_memory_leaves() -> None:
    found = place(TARGET, [], main_bytes=11 * GB)
    assert found.context_size == (5.5 * GB - 5.1 * GB) // 100_000
    assert place(TARGET, [], main_bytes=6 * GB).context_size == 512
    assert place(TARGET, [], main_bytes=0).context_size == 512


def test_no_larger_context_is_advised_than_was_trained() -> None:
    found = place(TARGET, [], main_bytes=32 * GB, context_size=2**31 - 1)
    assert found.advice == f"--ctx {TARGET.trained_context} would fit"


def test_a_large_gpu_takes_everything() -> None:
    found = place(TARGET, DRAFTERS, main_bytes=16 * GB, gpu_bytes=24 * GB)
    assert found.gpu_layers == TARGET.num_layers + 1
    assert found.drafters_on_gpu == NAMES
    assert found.main_bytes == 0
    assert not found.advice


def test_the_target_comes_first_then_the_smallest_drafters() -> None:
    found = place(TARGET, DRAFTERS, main_bytes=16 * GB, gpu_bytes=int(7.5 * GB))
    assert found.gpu_layers == 33
    assert found.drafters_on_gpu == {"small", "middle"}
    assert found.main_bytes == DRAFTERS[0].at(DRAFT_CONTEXT)


def test_a_drafter_that_is_faster_on_the_cpu_stays_there() -> None:
    found = place(TARGET, DRAFTERS, main_bytes=16 * GB, gpu_bytes=24 * GB, better_on_cpu=["small"])
    assert found.drafters_on_gpu == {"large", "middle"}


def test_a_target_too_large_for_the_gpu_is_split_by_layers() -> None:
    found = place(TARGET, DRAFTERS, main_bytes=16 * GB, gpu_bytes=3 * GB)
    assert 0 < found.gpu_layers < 33
    assert found.gpu_bytes <= 3 * GB
    assert not found.drafters_on_gpu


def test_what_the_user_insists_on_is_kept() -> None:
    """Even if it does not fit; then it is said what would."""
    found = place(
        TARGET, [], main_bytes=64 * GB, gpu_bytes=3 * GB, context_size=1000, gpu_layers=30
    )
    assert (found.context_size, found.gpu_layers) == (1000, 30)
    fits = int(found.advice.split()[1])
    again = place(
        TARGET, [], main_bytes=64 * GB, gpu_bytes=3 * GB, context_size=1000, gpu_layers=fits
    )
    assert not again.advice


@pytest.mark.parametrize("seed", range(300))
def test_whatever_is_placed_fits_or_comes_with_advice_that_does(seed: int) -> None:
    """Random pools on random machines; contexts and drafters as advised are placed without any."""
    rng = random.Random(seed)
    target = model("target", rng.uniform(0.5, 20), rng.choice([30, 100, 400]))
    drafters = [model(f"d{i}", rng.uniform(0.05, 3), 30) for i in range(rng.randrange(5))]
    main_bytes, gpu_bytes = rng.randrange(4, 32) * GB, rng.choice([0, 0, 4, 8, 24]) * GB
    context = rng.choice([None, 4096, 32768])

    def again(context: int | None, kept: list[Need]) -> Placement:
        return place(target, kept, main_bytes=main_bytes, gpu_bytes=gpu_bytes, context_size=context)

    found = again(context, drafters)
    assert found.gpu_bytes <= gpu_bytes
    words = found.advice.split()
    if not words:
        assert found.main_bytes <= main_bytes * MAIN_SHARE
        return
    if words[0] == "--ctx":
        assert not again(int(words[1]), drafters).advice
    elif words[0].startswith("--"):
        names = words[1].split(",") if words[0] == "--drafters" else []
        kept = [drafter for drafter in drafters if drafter.name in names]
        assert not again(int(words[words.index("--ctx") + 1]), kept).advice
    else:
        assert again(512, []).advice


def test_a_drafter_needs_no_more_context_than_it_can_use() -> None:
    assert draft_context(8192, 32768) == DRAFT_CONTEXT
    assert draft_context(1024, 32768) == 1024
    assert draft_context(8192, 512) == 512


def test_a_part_of_every_gpu_is_left_to_others() -> None:
    assert usable_gpu_bytes([]) == 0
    assert usable_gpu_bytes([8 * GB, 80 * GB]) == pytest.approx(7.2 * GB + 80 * GB - 2**30)
