"""A damaged header ends in ModelError before llama.cpp sees it; a sound one passes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from metasd_local.backend.gguf import check_gguf, read_header
from metasd_local.backend.gguf_strings import StringArray, read_strings
from metasd_local.errors import ModelError
from metasd_local.model_files import part_paths, size_of_parts
from tests.tiny_gguf import CHAT_TEMPLATE, CONTROL_TOKENS, write_tiny_gguf


def write_header(path: Path, **keys: Any) -> Path:
    """Write a file without weights: key__like_this stands for key.like_this."""
    writer = gguf.GGUFWriter(path, "llama")
    kinds = {int: gguf.GGUFValueType.UINT32, float: gguf.GGUFValueType.FLOAT32}
    for key, value in keys.items():
        name = key.replace("__", ".")
        if isinstance(value, list):
            writer.add_array(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        else:
            writer.add_key_value(name, value, kinds[type(value)])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_sound_file_passes_and_is_read_whole(tiny_model_path: Path) -> None:
    check_gguf(tiny_model_path)
    header = read_header(tiny_model_path)
    assert header.scalars["general.architecture"] == "llama"
    assert header.scalars["llama.block_count"] == 2
    assert header.scalars["tokenizer.chat_template"] == CHAT_TEMPLATE
    tokens = header.arrays["tokenizer.ggml.tokens"]
    assert isinstance(tokens, StringArray)
    assert [tokens.text(index).decode() for index in range(5)] == list(CONTROL_TOKENS)
    assert len(tokens) == 320
    assert len(header.arrays["tokenizer.ggml.token_type"]) == 320
    assert header.tensors["output.weight"].shape == (64, 320)
    assert len(header.tensors) == 21


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mamba"])
def test_every_architecture_of_the_tests_passes(tmp_path: Path, architecture: Any) -> None:
    check_gguf(write_tiny_gguf(tmp_path / "model.gguf", architecture=architecture))


def _set(offset: int, raw: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:offset] + raw + data[offset + len(raw) :]


def _replace(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def replace(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new, 1)

    return replace


def _u64(number: int) -> bytes:
    return struct.pack("<Q", number)


DAMAGE = {
    "no magic": (_set(0, b"GGML"), "b'GGML'"),
    "version 1": (_set(4, struct.pack("<I", 1)), "version 1"),
    "big-endian": (_set(4, struct.pack(">I", 3)), "version 50331648"),
    "many tensors": (_set(8, _u64(2**40)), "tensors"),
    "one tensor too many": (_set(8, _u64(22)), "expected"),
    "many keys": (_set(16, _u64(2**63)), "keys"),
    "long key": (_set(24, _u64(2**50)), "bytes in a text"),
    "unknown type": (
        _replace(b"llama.block_count\x04", b"llama.block_count\x63"),
        "type 99",
    ),
    "nested array": (
        _replace(b"ggml.token_type\x09\0\0\0\x05", b"ggml.token_type\x09\0\0\0\x09"),
        "elements of type 9",
    ),
    "many elements": (
        _replace(
            b"ggml.token_type\x09\0\0\0\x05\0\0\0" + _u64(320),
            b"ggml.token_type\x09\0\0\0\x05\0\0\0" + _u64(2**40),
        ),
        "elements in",
    ),
    "long token": (_replace(_u64(9) + b"<|begin|>", _u64(2**62) + b"<|begin|>"), "beyond its end"),
    "key twice": (
        _replace(b"llama.attention.key_length", b"llama.attention.head_count"),
        "'llama.attention.head_count' twice",
    ),
    "five dimensions": (
        _replace(b"output.weight" + struct.pack("<I", 2), b"output.weight" + struct.pack("<I", 5)),
        "5 dimensions",
    ),
    "huge tensor": (
        _replace(
            b"output.weight" + struct.pack("<IQ", 2, 64),
            b"output.weight" + struct.pack("<IQ", 2, 2**60),
        ),
        "at least",
    ),
    "integers as weights": (
        _replace(
            b"output.weight" + struct.pack("<IQQI", 2, 64, 320, 0),
            b"output.weight" + struct.pack("<IQQI", 2, 64, 320, 24),
        ),
        "I8",
    ),
    "half-precision norm": (
        _replace(
            b"output_norm.weight" + struct.pack("<IQI", 1, 64, 0),
            b"output_norm.weight" + struct.pack("<IQI", 1, 64, 1),
        ),
        "expected F32",
    ),
    "no layers": (
        _replace(b"llama.block_count\x04\0\0\0\x02", b"llama.block_count\x04\0\0\0\0"),
        "0 layers",
    ),
    "negative epsilon": (
        _replace(
            b"layer_norm_rms_epsilon\x06\0\0\0" + struct.pack("<f", 1e-5),
            b"layer_norm_rms_epsilon\x06\0\0\0" + struct.pack("<f", -1e-5),
        ),
        "0 or more",
    ),
    "token twice": (_replace(b"<|begin|>", b"<|end|>\0\0"), "twice"),
    "empty": (lambda _: b"", "empty"),
    "first bytes only": (lambda data: data[:20], "ends after 20 bytes"),
    "short web page": (lambda _: b"<html>", "a web page"),
    "short error message": (lambda _: b'{"error": 1}', "an error message"),
    "header cut": (lambda data: data[:2000], "expected"),
    "weights cut by one byte": (lambda data: data[:-1], "at least"),
}


@pytest.mark.parametrize(("damage", "found"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_named(
    tiny_model_path: Path, tmp_path: Path, damage: Callable[[bytes], bytes], found: str
) -> None:
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damage(tiny_model_path.read_bytes()))
    with pytest.raises(ModelError) as caught:
        check_gguf(path)
    message = str(caught.value)
    assert found in message
    assert "expected" in message
    assert message.endswith("download it again")


@pytest.mark.parametrize(
    ("content", "found", "advice"),
    [
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "is a Git LFS pointer",
            "git lfs pull",
        ),
        ("\n<!DOCTYPE html><html>Access denied</html>", "is a web page", "download it again"),
        ('{"error": "Repository not found"}     ', "is an error message", "download it again"),
        ("PK\x03\x04 archive/data.pkl              ", "is a ZIP archive", "convert it"),
        (
            "something else altogether",
            "is no GGUF file, it begins with b'some'",
            "download it again",
        ),
    ],
)
def test_what_lies_in_the_place_of_a_model_is_named(
    tmp_path: Path, content: str, found: str, advice: str
) -> None:
    path = tmp_path / "model.gguf"
    path.write_text(content, encoding="ascii")
    with pytest.raises(ModelError) as caught:
        check_gguf(path)
    assert found in str(caught.value)
    assert advice in str(caught.value)


def test_a_file_of_the_hub_cache_comes_with_the_command_that_repairs_it(tmp_path: Path) -> None:
    """Also where its link leads nowhere."""
    folder = tmp_path / "models--user--some--repo/snapshots/0123abc/Q4"
    folder.mkdir(parents=True)
    path = folder / "model.gguf"
    command = "run: metasd download --verify user/some--repo/Q4/model.gguf"
    for make in (lambda: path.write_bytes(b"GGUF" + bytes(10)), path.unlink):
        make()
        with pytest.raises(ModelError) as caught:
            check_gguf(path)
        assert str(caught.value).endswith(command)


@pytest.mark.parametrize("suffix", ["", "missing.gguf"])
def test_what_is_no_file_is_refused(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(ModelError, match="is not a file"):
        check_gguf(tmp_path / suffix)


@pytest.mark.parametrize(
    "keys",
    [
        {"llama__block_count": 513},
        {"llama__block_count": 2, "llama__nextn_predict_layers": 3},
        {"llama__rope__dimension_count": 32, "llama__attention__key_length": 16},
        {
            "llama__rope__dimension_count": 32,
            "llama__embedding_length": 64,
            "llama__attention__head_count": 4,
        },
        {"llama__rope__dimension_count": 7},
        {"llama__rope__dimension_count": 0, "llama__attention__head_count": 4},
        {"llama__expert_count": 8},
        {"llama__expert_count": 8, "llama__expert_used_count": 9},
        {"llama__expert_count": 8, "llama__expert_used_count": [2, 9]},
        {"llama__expert_count": 2000, "llama__expert_used_count": 2},
        {"llama__expert_group_count": 1},
        {
            "llama__expert_count": 8,
            "llama__expert_used_count": 2,
            "llama__expert_group_count": 3,
            "llama__expert_group_used_count": 1,
        },
        {
            "llama__expert_count": 8,
            "llama__expert_used_count": 2,
            "llama__expert_group_count": 4,
            "llama__expert_group_used_count": 4,
        },
        {"llama__rope__scaling__type": "wild"},
        {"llama__attention__layer_norm_epsilon": float("nan")},
        {"tokenizer__ggml__tokens": ["a", "b", "a"]},
        {"tokenizer__ggml__tokens": ["a\0b", "c", "a"]},
        {"tokenizer__ggml__tokens": ["[EMPTY_1]", ""]},
        {"tokenizer__ggml__tokens": ["x" * 5000, "y", "x" * 5000]},
        {"tokenizer__ggml__model": "llama", "tokenizer__ggml__tokens": ["a", "b"]},
    ],
    ids=str,
)
def test_facts_that_would_abort_are_refused(tmp_path: Path, keys: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"expected .*: download it again"):
        check_gguf(write_header(tmp_path / "model.gguf", **keys))


@pytest.mark.parametrize(
    "keys",
    [
        {"llama__expert_count": 8, "llama__expert_used_count": [2, 8]},
        {
            "llama__expert_count": 8,
            "llama__expert_used_count": 2,
            "llama__expert_group_count": 4,
            "llama__expert_group_used_count": 3,
        },
        {"llama__rope__scaling__type": "yarn"},
        {"tokenizer__ggml__tokens": ["", "", "a", "A", "ab"]},
        {
            "tokenizer__ggml__model": "llama",
            "tokenizer__ggml__tokens": [f"<0x{byte:02X}>" for byte in range(256)],
        },
    ],
    ids=lambda keys: str(keys)[:80],
)
def test_unusual_but_sound_facts_pass(tmp_path: Path, keys: dict[str, Any]) -> None:
    check_gguf(write_header(tmp_path / "model.gguf", **keys))


def test_all_parts_of_a_split_model_are_checked(tmp_path: Path, tiny_model_path: Path) -> None:
    first, second = part_paths(tmp_path / "big-00001-of-00002.gguf")
    assert second.name == "big-00002-of-00002.gguf"
    for part in (first, second):
        part.write_bytes(tiny_model_path.read_bytes())
    check_gguf(first)
    assert size_of_parts(first) == 2 * tiny_model_path.stat().st_size
    second.unlink()
    with pytest.raises(ModelError, match=r"big-00002-of-00002.gguf is missing, part 2 of 2"):
        check_gguf(first)


def test_a_part_of_a_split_model_must_keep_its_name(tmp_path: Path) -> None:
    """llama.cpp finds the other parts by it."""
    first = write_tiny_gguf(tmp_path / "model.gguf", tensors_per_part=8)
    check_gguf(first)
    other = tmp_path / "renamed.gguf"
    other.write_bytes(first.read_bytes())
    with pytest.raises(ModelError, match=r"one of 3 parts .* ends in -00001-of-00003.gguf"):
        check_gguf(other)


def test_strings_are_skipped_as_a_plain_loop_would() -> None:
    """The quick way to skip strings agrees with the definition, whatever the strings hold."""
    for seed in range(200):
        rng = np.random.default_rng(seed)
        texts = [
            rng.choice(
                [rng.bytes(int(rng.integers(0, 12))), b"\0" * int(rng.integers(0, 20)), b"\x07"]
            )
            if rng.random() < 0.9
            else rng.bytes(int(rng.integers(200, 700)))
            for _ in range(int(rng.integers(0, 300)))
        ]
        texts = [bytes(text) for text in texts]
        before, after = rng.bytes(5), rng.bytes(9)
        raw = before + b"".join(_u64(len(text)) + text for text in texts) + after
        data = np.frombuffer(raw, dtype=np.uint8)
        strings = read_strings(data, len(before), len(texts))
        assert strings is not None
        assert len(strings.data) == len(raw) - len(before) - len(after)
        assert [strings.text(index) for index in range(len(texts))] == texts
        assert read_strings(data[: -len(after) - 1], len(before), len(texts) + 1) is None


def test_duplicates_are_found_among_many_tokens() -> None:
    texts = [b"%d" % (7 * number) for number in range(5000)]
    for extra, expected in ((b"x", None), (b"7000", b"7000"), (b"7" * 300, None)):
        raw = b"".join(_u64(len(text)) + text for text in [*texts, extra])
        strings = read_strings(np.frombuffer(raw, dtype=np.uint8), 0, len(texts) + 1)
        assert strings is not None
        assert strings.find_duplicate() == expected
