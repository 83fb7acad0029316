"""Arrays of strings in a GGUF header, skipped without a Python object per string.

A string is its length, eight little-endian bytes, and that many bytes of text.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

_PREFIX_BYTES = 8
_MAX_SHORT_BYTES = 255
_FIRST_WINDOW_BYTES = 4096
_LAST_WINDOW_BYTES = 1 << 20
_STEPS_AFTER_BREAK = 64


@dataclass(frozen=True, slots=True)
class StringArray:
    """Strings that lie one after the other in a file."""

    data: Bytes
    """From the first string's length prefix to the end of the last string."""
    starts: NDArray[np.int64]
    """Offset in `data` of each string's length prefix, `(n,)`."""

    def __len__(self) -> int:
        return len(self.starts)

    def text(self, index: int) -> bytes:
        """Return one string."""
        end = self.starts[index + 1] if index + 1 < len(self.starts) else len(self.data)
        return self.data[self.starts[index] + _PREFIX_BYTES : end].tobytes()

    def find_duplicate(self) -> bytes | None:
        """Return a text that occurs twice as llama.cpp reads it, None if there is none.

        llama.cpp reads a text up to its first zero byte and gives empty ones a name of their own.
        """
        raw, seen = self.data.tobytes(), set[bytes]()
        for index, (start, end) in enumerate(pairwise([*self.starts.tolist(), len(raw)])):
            text = raw[start + _PREFIX_BYTES : end].partition(b"\0")[0] or b"[EMPTY_%d]" % index
            if text in seen:
                return text
            seen.add(text)
        return None


def read_strings(data: Bytes, offset: int, count: int) -> StringArray | None:
    """Return the `count` strings that begin at `offset`, None if they exceed `data`."""
    view = data.data
    end_of_data = len(data)
    parts: list[NDArray[np.int64]] = []
    position, num_found, window = offset, 0, _FIRST_WINDOW_BYTES
    while num_found < count:
        starts = _short_strings(data[position : position + window])[: count - num_found]
        if len(starts):
            window = min(2 * window, _LAST_WINDOW_BYTES)
            starts += position
            position = int(starts[-1]) + _PREFIX_BYTES + view[int(starts[-1])]
            parts.append(starts)
            num_found += len(starts)
            continue
        window = _FIRST_WINDOW_BYTES
        steps: list[int] = []
        while num_found < count and len(steps) < _STEPS_AFTER_BREAK:
            begin = position + _PREFIX_BYTES
            length = int.from_bytes(view[position:begin], "little")
            if begin + length > end_of_data:
                return None
            steps.append(position)
            position = begin + length
            num_found += 1
        parts.append(np.array(steps, dtype=np.int64))
    all_starts = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
    return StringArray(data[offset:position], all_starts - offset)


def _short_strings(window: Bytes) -> NDArray[np.int64]:
    """Return the starts of the whole strings of 1..255 bytes that begin at 0 and are contiguous.

    A place where seven zero bytes follow a byte is the start of such a string, unless a text
    contains such a run; a run of starts in which each lies where the last one ends is sure.
    """
    if len(window) <= _PREFIX_BYTES:
        return np.empty(0, dtype=np.int64)
    words = np.ndarray((len(window) - 7,), dtype="<u8", buffer=window.data, strides=(1,))
    starts = np.flatnonzero(words <= _MAX_SHORT_BYTES)
    if not len(starts) or starts[0] != 0:
        return np.empty(0, dtype=np.int64)
    ends = starts + _PREFIX_BYTES + window[starts]
    breaks = np.flatnonzero(ends[:-1] != starts[1:])
    num_sure = int(breaks[0]) + 1 if len(breaks) else len(starts)
    if ends[num_sure - 1] > len(window):
        num_sure -= 1
    return starts[:num_sure]
