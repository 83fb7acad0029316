"""Profiles of emulated acceptance: the shipped ones say what they derive, errors are exact."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from metasd_local.errors import ConfigError, UsageError
from metasd_local.lab.profile import NgramLookup, find_profile, read_profile

GOOD = """
prompt_tokens = 16
[domain.code]
acceptance = { small = 0.5, large = [0.75, 0.25] }
ngram = { copied_share = 0.5, run_tokens = 8, copied_acceptance = 0.9, match = 0.2, acceptance = 0 }
[domain.talk]
acceptance = { large = 0.5, small = 1 }
"""
WINDOW = 5
# Speed-ups of MetaSD's tables 3 and 5, and of prompt lookup by MetaSD (summaries) and Spec-Bench.
SPECIALIST = {
    "code": 2.437,
    "translation": 2.076,
    "summarisation": 2.133,
    "qa": 1.960,
    "maths": 2.454,
}
GENERAL = {"code": 2.435, "translation": 1.032, "summarisation": 1.526, "qa": 1.267, "maths": 1.571}
LOOKUP = {"code": 1.64, "translation": 1.04, "summarisation": 2.501, "qa": 1.14, "maths": 1.61}
LANGUAGE = {"japanese": 1.757, "russian": 1.817, "german": 2.36, "french": 2.135, "chinese": 1.516}


def emitted_per_round(acceptance: float) -> float:
    return sum(acceptance**position for position in range(WINDOW + 1))


def speedup_of_model(acceptance: float) -> float:
    return emitted_per_round(acceptance) / (1.1 + WINDOW * 0.08)


def speedup_of_lookup(lookup: NgramLookup) -> float:
    copied_s = 1.1 / emitted_per_round(lookup.copied_acceptance)
    emitted = 1 + lookup.match * (emitted_per_round(lookup.acceptance) - 1)
    new_s = (1 + lookup.match * 0.1) / emitted
    return 1 / (lookup.copied_share * copied_s + (1 - lookup.copied_share) * new_s)


def test_the_metasd_profile_reproduces_the_published_speedups() -> None:
    """Two digits of acceptance are worth 2 % of speed-up at most."""
    profile = find_profile("metasd")
    assert set(profile.domains) == set(SPECIALIST)
    assert set(profile.drafters) == {*SPECIALIST, "general"}
    for name, domain in profile.domains.items():
        published = dict.fromkeys(SPECIALIST, 1.0)
        published |= {name: SPECIALIST[name], "general": GENERAL[name]}
        for drafter, (acceptance,) in domain.acceptance.items():
            assert speedup_of_model(acceptance) == pytest.approx(published[drafter], rel=0.02)
        assert domain.ngram is not None
        assert speedup_of_lookup(domain.ngram) == pytest.approx(LOOKUP[name], rel=0.02)


def test_the_two_language_profile_reproduces_the_published_speedups() -> None:
    """A drafter is worth its own speed-up in its language's half and nothing in the other."""
    profile = find_profile("two-languages")
    for name, domain in profile.domains.items():
        languages = name.split("-then-")
        for drafter, parts in domain.acceptance.items():
            halves = parts if len(parts) == 2 else (parts[0], parts[0])
            for language, acceptance in zip(languages, halves, strict=True):
                published = LANGUAGE[drafter] if drafter == language else 1.0
                assert speedup_of_model(acceptance) == pytest.approx(published, rel=0.02)
    assert not profile.has_ngram


def test_useless_drafters_are_never_right() -> None:
    profile = find_profile("useless")
    assert profile.has_ngram
    for domain in profile.domains.values():
        assert {part for parts in domain.acceptance.values() for part in parts} == {0.0}
        assert domain.ngram is not None
        assert domain.ngram.match > 0
        assert domain.ngram.acceptance == domain.ngram.copied_share == 0


def test_a_path_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    profile = find_profile(str(path))
    assert (profile.name, profile.prompt_tokens, profile.has_ngram) == ("mine", 16, True)
    assert profile.drafters == ("small", "large")
    assert profile.domains["code"].acceptance == {"small": (0.5,), "large": (0.75, 0.25)}
    assert profile.domains["code"].ngram == NgramLookup(0.5, 8, 0.9, 0.2, 0)
    assert profile.domains["talk"].ngram is None


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(UsageError, match=r"'metsd'; did you mean 'metasd'\? \(profiles: metasd, "):
        find_profile("metsd")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("prompt_tokens", "prompt_token", "unknown key 'prompt_token'; did you mean"),
        ("prompt_tokens = 16", "", "prompt_tokens: found nothing, expected a whole number from 2"),
        ("= 16", "= 1", "prompt_tokens: found 1, expected a whole number from 2"),
        ("= 16", "= true", "prompt_tokens: found True, expected a whole number"),
        ("acceptance = { small", "aceptance = { small", "[domain.code]: unknown key 'aceptance'"),
        ("small = 0.5", "small = 1.5", "[domain.code.acceptance]: small: found 1.5, expected a "),
        (
            "[0.75, 0.25]",
            "[0.75, 'x']",
            "[domain.code.acceptance]: large: found [0.75, 'x'], expected",
        ),
        ("[0.75, 0.25]", "[]", "[domain.code.acceptance]: large: found [], expected a number"),
        ("small = 0.5", "plain = 0.5", "[domain.code.acceptance]: found 'plain', expected the"),
        ("small = 1 }", "smal = 1 }", "[domain.talk.acceptance]: unknown key 'smal'; did you mean"),
        (
            ", small = 1 }",
            " }",
            "[domain.talk.acceptance]: small: found nothing, expected a number",
        ),
        (
            "{ large = 0.5, small = 1 }",
            "0.5",
            "[domain.talk]: acceptance: found 0.5, expected a table",
        ),
        ("match", "macth", "[domain.code.ngram]: unknown key 'macth'; did you mean 'match'?"),
        (
            "match = 0.2, ",
            "",
            "[domain.code.ngram]: match: found nothing, expected a number from 0",
        ),
        ("run_tokens = 8", "run_tokens = 0", "[domain.code.ngram]: run_tokens: found 0, expected"),
        ("= 16", "= = 16", "no valid TOML: Invalid value"),
    ],
)
def test_a_mistake_names_file_table_and_key(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = tmp_path / "broken.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}: {re.escape(message)}"):
        read_profile(path)


@pytest.mark.parametrize("domains", ["domain = {}", "domain = 3", ""])
def test_a_profile_without_domains_is_refused(tmp_path: Path, domains: str) -> None:
    path = tmp_path / "empty.toml"
    path.write_text(f"prompt_tokens = 16\n{domains}\n")
    with pytest.raises(ConfigError, match=r"domain"):
        read_profile(path)


def test_a_missing_or_undecodable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        find_profile(str(tmp_path / "nowhere.toml"))
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"binary\.toml"):
        read_profile(path)
