"""The built-in prompts are what the benchmark needs, and a broken file is refused by its line."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from metasd_local.bench.prompts import Prompt, prompts_hash, read_prompts, select_domains
from metasd_local.errors import UsageError

ONE = b'{"domain": "code", "prompt": "Write a loop."}\n'
DOMAINS = ["code", "maths", "translation", "dialogue", "questions", "copying", "mixed"]
SPAN = 8
"""Words that no two prompts may have in common in a row."""


def write(folder: Path, content: bytes) -> Path:
    path = folder / "prompts.jsonl"
    path.write_bytes(content)
    return path


def test_built_in_set_has_enough_prompts_of_every_domain() -> None:
    """At least 14 of each of the seven."""
    counts = Counter(prompt.domain for prompt in read_prompts())
    assert list(counts) == DOMAINS
    assert min(counts.values()) >= 14


def test_built_in_prompts_share_no_long_span() -> None:
    """A templated set would flatter drafters that remember."""
    seen: dict[tuple[str, ...], int] = {}
    for index, prompt in enumerate(read_prompts()):
        words = re.findall(r"\w+", prompt.text.lower())
        for start in range(len(words) - SPAN + 1):
            span = tuple(words[start : start + SPAN])
            assert seen.setdefault(span, index) == index, span


def test_built_in_prompts_fit_a_small_context() -> None:
    """By bytes; the longest have about three to a token of a small vocabulary."""
    for prompt in read_prompts():
        limit = 1100 if prompt.domain == "copying" else 750
        assert len(prompt.text.encode()) <= limit, prompt


def test_a_file_is_read_in_its_order(tmp_path: Path) -> None:
    """Blank lines, a byte order mark, Windows line ends and further keys do no harm."""
    second = '{"domain": "größe", "prompt": " a\u2028b ", "source": 3}\r\n'.encode()
    path = write(tmp_path, b"\xef\xbb\xbf" + ONE + b"\n" + second)
    assert read_prompts(path) == (Prompt("code", "Write a loop."), Prompt("größe", " a\u2028b "))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{broken", "Expecting property name"),
        (b'["code", "text"]', "found no object"),
        (b'{"prompt": "text"}', "domain: found None"),
        (b'{"domain": "code"}', "prompt: found None"),
        (b'{"domain": "code", "prompt": " "}', "prompt: found ' '"),
        (b'{"domain": 3, "prompt": "text"}', "domain: found 3"),
        (b'{"domain": "a\\u001b[2J", "prompt": "text"}', "control characters"),
        (b'{"domain": "code", "prompt": "\\ud800"}', "surrogates"),
        (b'{"domain": "code", "prompt": "\xff"}', "utf-8"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    """File, line and what is wrong with it."""
    path = write(tmp_path, ONE + line + b"\n" + ONE)
    with pytest.raises(UsageError, match=message) as caught:
        read_prompts(path)
    assert str(caught.value).startswith(f"{path}, line 2: ")


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    """Nothing could be measured with it."""
    with pytest.raises(UsageError, match="found no prompt"):
        read_prompts(write(tmp_path, content))


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    """A missing file and a folder are both named."""
    for path in (tmp_path / "missing.jsonl", tmp_path):
        with pytest.raises(UsageError, match=re.escape(f"{path}: cannot be read: ")):
            read_prompts(path)


PROMPTS = (Prompt("code", "a"), Prompt("maths", "b"), Prompt("code", "c"))


def test_selected_domains_keep_the_order_of_the_prompts() -> None:
    """Whatever the order of the names."""
    assert select_domains(PROMPTS, ["maths", "code"]) == PROMPTS
    assert select_domains(PROMPTS, ["code"]) == (PROMPTS[0], PROMPTS[2])


def test_a_domain_without_prompts_is_refused_with_the_nearest() -> None:
    """The message lists those that exist."""
    message = "'math'; did you mean 'maths'? (there are: code, maths)"
    with pytest.raises(UsageError, match=re.escape(message)):
        select_domains(PROMPTS, ["code", "math"])


def test_the_hash_knows_every_field_and_the_order(tmp_path: Path) -> None:
    """Two benches with one hash had the same prompts; how the file was spelled is no matter."""
    others = (
        PROMPTS[::-1],
        PROMPTS[:2],
        (Prompt("maths", "a"), *PROMPTS[1:]),
        (Prompt("code", "x"), *PROMPTS[1:]),
        (Prompt("codea", ""), *PROMPTS[1:]),
    )
    assert len({prompts_hash(prompts) for prompts in (PROMPTS, *others)}) == 6
    lines = [json.dumps({"prompt": each.text, "domain": each.domain}) for each in PROMPTS]
    path = write(tmp_path, "\n\n".join(lines).encode())
    assert prompts_hash(read_prompts(path)) == prompts_hash(PROMPTS)
