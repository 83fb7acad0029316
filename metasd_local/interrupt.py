"""The flag that stops a running generation from another thread."""

from __future__ import annotations

import ctypes


class Interrupt:
    """Stop a generation between rounds, and inside a llama.cpp call on the CPU.

    The flag is a C string: empty while the generation may go on, one byte long once it must
    stop. llama.cpp's abort callback can therefore be the C library's `strlen` itself, which
    needs no interpreter lock (a Python callback would take it once per graph node).
    """

    def __init__(self) -> None:
        self._buffer = ctypes.create_string_buffer(2)

    @property
    def address(self) -> int:
        """Return the address of the C string, valid as long as this object lives."""
        return ctypes.addressof(self._buffer)

    @property
    def is_set(self) -> bool:
        """Tell whether the generation must stop."""
        return self._buffer.raw[0] != 0

    def set(self) -> None:
        """Ask the generation to stop; safe from any thread and from a signal handler."""
        self._buffer[0] = b"\1"

    def clear(self) -> None:
        """Allow the next generation to run."""
        self._buffer[0] = b"\0"
