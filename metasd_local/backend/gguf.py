"""A quick look at a GGUF file before llama.cpp reads it.

llama.cpp trusts much of a file's header: a damaged or hostile one can end the process. What is
found wrong here ends in ModelError instead. Reads the header only.
Source: the GGUF specification, ggml/docs/gguf.md in ggml-org/ggml.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path

import numpy as np

from metasd_local.backend.gguf_header import Array, Header, Scalar, Tensor
from metasd_local.backend.gguf_rules import check_header
from metasd_local.backend.gguf_strings import Bytes, read_strings
from metasd_local.errors import ModelError
from metasd_local.model_files import part_paths, repair_advice

_SCALAR_FORMATS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
_DEFAULT_ALIGNMENT = 32
_MAX_KEYS = 65_536
_MAX_TENSORS = 1_048_576
_MAX_ELEMENTS = 16_777_216
_MAX_TEXTS = 4_194_304
_MAX_KEY_BYTES = 65_535
_MAX_NAME_BYTES = 63
_MAX_DIMENSIONS = 4
# What servers and tools leave in a model's place, by its first bytes.
_IMPOSTORS = (
    (
        b"version https://git-lfs",
        "is a Git LFS pointer to a file, not the file",
        "run: git lfs pull",
    ),
    (b"<", "is a web page or an error message in its place", ""),
    (b"{", "is an error message in its place", ""),
    (b"PK", "is a ZIP archive or a PyTorch model", "convert it to GGUF or choose another file"),
)

# Elements per block and bytes per block of each tensor type. A type not listed is left to
# llama.cpp, which may be newer. Source: llama.cpp, ggml/src/ggml.c (type_traits).
_BLOCKS = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    16: (256, 66),
    17: (256, 74),
    18: (256, 98),
    19: (256, 50),
    20: (32, 18),
    21: (256, 110),
    22: (256, 82),
    23: (256, 136),
    24: (1, 1),
    25: (1, 2),
    26: (1, 4),
    27: (1, 8),
    28: (1, 8),
    29: (256, 56),
    30: (1, 2),
    34: (256, 54),
    35: (256, 66),
    39: (32, 17),
    40: (64, 36),
    41: (128, 18),
}


def check_gguf(path: Path) -> None:
    """Raise ModelError if llama.cpp must not see the file or one of its parts."""
    parts = part_paths(path)
    for number, part in enumerate(parts, 1):
        if len(parts) > 1 and not os.path.isfile(part):
            raise _damage(part, f"is missing, part {number} of {len(parts)}", "all parts together")
        header = read_header(part)
        count = header.scalars.get("split.count", 0)
        if type(count) is int and count > 1 and count != len(parts):
            raise _damage(
                part,
                f"is one of {count} parts of a model",
                f"a name that ends in -{number:05}-of-{count:05}.gguf",
                "give it its name again, beside the other parts",
            )
        check_header(header, part)


def read_header(path: Path) -> Header:
    """Read a file's header and check it against the file's size; raise ModelError."""
    try:
        if not os.path.isfile(path):
            advice = repair_advice(path, otherwise="check the path")
            raise _damage(path, "is not a file", "a GGUF file", advice)
        if not path.stat().st_size:
            raise _damage(path, "is empty", "a GGUF file")
        return _Reader(path).header()
    except OSError as error:
        raise _damage(
            path, f"cannot be read ({error.strerror})", "a readable file", "check its permissions"
        ) from error


class _Reader:
    """Walks through the bytes of a header."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data: Bytes = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
        self._view = self._data.data
        self._position = 0

    def header(self) -> Header:
        if self._data[:4].tobytes() != b"GGUF":
            raise self._impostor()
        self._take(4)
        version = self._number("<I")
        if version not in (2, 3):
            raise self._damage(f"has GGUF version {version}", "2 or 3, little-endian")
        num_tensors = self._count("tensors", _MAX_TENSORS)
        num_keys = self._count("keys", _MAX_KEYS)
        scalars: dict[str, Scalar] = {}
        arrays: dict[str, Array] = {}
        for _ in range(num_keys):
            key = self._string(_MAX_KEY_BYTES)
            if key in scalars or key in arrays:
                raise self._damage(f"holds the key {key!r} twice", "each key once")
            type_id = self._number("<I")
            if type_id == _ARRAY:
                arrays[key] = self._array(key)
            elif type_id == _STRING:
                scalars[key] = self._string(len(self._data))
            else:
                scalars[key] = self._scalar(key, type_id)
        tensors: dict[str, Tensor] = {}
        extents: list[tuple[str, int, int]] = []
        for _ in range(num_tensors):
            tensor, offset = self._tensor()
            if tensor.name in tensors:
                raise self._damage(f"holds the tensor {tensor.name!r} twice", "each tensor once")
            tensors[tensor.name] = tensor
            extents.append((tensor.name, offset, self._tensor_bytes(tensor)))
        self._check_extents(scalars.get("general.alignment", _DEFAULT_ALIGNMENT), extents)
        return Header(scalars, arrays, tensors)

    def _check_extents(self, alignment: Scalar, extents: list[tuple[str, int, int]]) -> None:
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise self._damage(f"has the alignment {alignment!r}", "a power of two")
        data_begin = -(-self._position // alignment) * alignment
        for name, offset, num_bytes in extents:
            if offset % alignment:
                raise self._damage(
                    f"has the tensor {name!r} at {offset}", f"a multiple of {alignment}"
                )
            if data_begin + offset + num_bytes > len(self._data):
                raise self._damage(
                    f"has {len(self._data)} bytes",
                    f"at least {data_begin + offset + num_bytes} for the tensor {name!r}",
                )

    def _take(self, num_bytes: int) -> memoryview:
        begin = self._position
        if num_bytes > len(self._view) - begin:
            raise self._damage(
                f"ends after {len(self._view)} bytes", f"{num_bytes} bytes of header from {begin}"
            )
        self._position = begin + num_bytes
        return self._view[begin : self._position]

    def _number(self, layout: str) -> int:
        number: int = struct.unpack(layout, self._take(struct.calcsize(layout)))[0]
        return number

    def _count(self, what: str, most: int) -> int:
        count = self._number("<Q")
        if count > most:
            raise self._damage(f"counts {count} {what}", f"at most {most}")
        return count

    def _string(self, most_bytes: int) -> str:
        num_bytes = self._count("bytes in a text", most_bytes)
        return str(self._take(num_bytes), "utf-8", "surrogateescape")

    def _scalar(self, key: str, type_id: int) -> Scalar:
        layout = _SCALAR_FORMATS.get(type_id)
        if layout is None:
            raise self._damage(f"gives the key {key!r} the type {type_id}", "a type of GGUF")
        value: Scalar = struct.unpack(layout, self._take(struct.calcsize(layout)))[0]
        return value

    def _array(self, key: str) -> Array:
        type_id = self._number("<I")
        most = _MAX_TEXTS if type_id == _STRING else _MAX_ELEMENTS
        count = self._count(f"elements in {key!r}", most)
        if type_id == _STRING:
            strings = read_strings(self._data, self._position, count)
            if strings is None:
                raise self._damage(f"has a text in {key!r} beyond its end", f"{count} texts")
            self._position += len(strings.data)
            return strings
        layout = _SCALAR_FORMATS.get(type_id)
        if layout is None:
            raise self._damage(f"gives {key!r} elements of type {type_id}", "a type of GGUF")
        raw = self._take(count * struct.calcsize(layout))
        return np.frombuffer(raw, dtype=np.dtype(layout))

    def _tensor(self) -> tuple[Tensor, int]:
        name = self._string(_MAX_NAME_BYTES)
        num_dimensions = self._number("<I")
        if num_dimensions > _MAX_DIMENSIONS:
            raise self._damage(
                f"gives {name!r} {num_dimensions} dimensions", f"at most {_MAX_DIMENSIONS}"
            )
        shape = tuple(self._number("<Q") for _ in range(num_dimensions))
        return Tensor(name, shape, self._number("<I")), self._number("<Q")

    def _tensor_bytes(self, tensor: Tensor) -> int:
        block = _BLOCKS.get(tensor.type_id)
        if block is None:
            return 0
        block_size, block_bytes = block
        if not tensor.shape or tensor.shape[0] % block_size:
            raise self._damage(
                f"gives {tensor.name!r} the shape {tensor.shape}",
                f"rows in blocks of {block_size}",
            )
        return math.prod(tensor.shape) // block_size * block_bytes

    def _impostor(self) -> ModelError:
        beginning = self._data[:64].tobytes().lstrip()
        for prefix, found, advice in _IMPOSTORS:
            if beginning.startswith(prefix):
                return _damage(self._path, found, "a GGUF file", advice)
        return self._damage(f"is no GGUF file, it begins with {beginning[:4]!r}", "b'GGUF'")

    def _damage(self, found: str, expected: str) -> ModelError:
        return _damage(self._path, found, expected)


def _damage(path: Path, found: str, expected: str, advice: str = "") -> ModelError:
    return ModelError(f"{path} {found}; expected {expected}: {advice or repair_advice(path)}")
