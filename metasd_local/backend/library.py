"""The llama.cpp library of this process: its set-up, its log and its devices."""

from __future__ import annotations

import atexit
import ctypes
import functools
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from llama_cpp import llama_cpp as api
from llama_cpp._ctypes_extensions import load_shared_library

from metasd_local.errors import Cancelled

logger = logging.getLogger(__name__)

DeviceKind: TypeAlias = Literal["cpu", "gpu", "accelerator"]

# Source: llama.cpp, ggml/include/ggml.h (ggml_log_level) and ggml-backend.h
# (ggml_backend_dev_type). Level 5 continues the last message.
_LOG_LEVELS = {0: logging.INFO, 1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING}
_DEVICE_KINDS: dict[int, DeviceKind] = {0: "cpu", 1: "gpu", 2: "gpu", 3: "accelerator"}
_CONTINUED = 5
_MAX_COMPLAINT_LINES = 6
_MAX_SIZE_LINES = 100


@dataclass(frozen=True, slots=True)
class Device:
    """A processor llama.cpp can compute on."""

    name: str
    """llama.cpp's name, such as CPU, CUDA0 or Vulkan0."""
    kind: DeviceKind
    memory_bytes: int
    """All of the device's memory; 0 if unknown."""
    free_bytes: int
    """What is not in use; of main memory, which is shared and mapped, the same as all."""


class LibraryLog:
    """Hand llama.cpp's log to `logging` and keep the last complaints, and what tells sizes.

    llama.cpp gives the reason of most failures and the sizes of its buffers only there. Safe to be
    called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line = ""
        self._level = logging.INFO
        self._sizes: deque[str] = deque(maxlen=_MAX_SIZE_LINES)
        self._complaints: deque[str] = deque(maxlen=_MAX_COMPLAINT_LINES)
        self._callback = api.llama_log_callback(self._receive)

    def install(self) -> None:
        """Replace whatever receives llama.cpp's log."""
        api.llama_log_set(self._callback, ctypes.c_void_p(0))

    def remove(self) -> None:
        """Drop the log from now on: a C function with no effect stands in at interpreter exit."""
        api.llama_log_set(ctypes.cast(c_library().abs, api.llama_log_callback), ctypes.c_void_p(0))

    def clear(self) -> None:
        """Forget what calls that are over had to say."""
        with self._lock:
            self._complaints.clear()
            self._sizes.clear()

    def sizes(self) -> tuple[str, ...]:
        """Return the last lines since `clear` that tell the size of something."""
        with self._lock:
            return tuple(self._sizes)

    def complaints(self) -> str:
        """Return the last warnings and errors on one line, and forget them."""
        with self._lock:
            text = " | ".join(self._complaints)
            self._complaints.clear()
        return text or "llama.cpp gave no reason"

    def _receive(self, level: int, text: bytes, _data: object) -> None:
        with self._lock:
            if level != _CONTINUED:
                self._level = _LOG_LEVELS.get(level, logging.ERROR)
            self._line += text.decode("utf-8", "replace")
            if not self._line.endswith("\n"):
                return
            line, self._line = self._line.strip(), ""
            if "size = " in line:
                self._sizes.append(line)
            if self._level >= logging.WARNING and line:
                self._complaints.append(line)
            level_now = self._level
        if line:
            logger.log(level_now, "%s", line)


class LoadProgress:
    """Carry llama.cpp's progress calls, and exceptions raised in them, across C code."""

    def __init__(self, on_progress: Callable[[float], bool] | None) -> None:
        self._on_progress = on_progress
        self._error: BaseException | None = None
        self._is_stopped = False
        self.callback = api.llama_progress_callback(self._receive)

    def raise_if_stopped(self, path: Path) -> None:
        """Raise what was raised in the callback, or Cancelled if it returned False."""
        if self._error is not None:
            raise self._error
        if self._is_stopped:
            raise Cancelled(f"loading {path.name} was stopped; open it again to use it")

    def _receive(self, share: float, _data: object) -> bool:
        if self._on_progress is None:
            return True
        try:
            self._is_stopped = not self._on_progress(share)
        except BaseException as error:
            self._error = error
        return not self._is_stopped and self._error is None


@functools.cache
def open_library() -> LibraryLog:
    """Set llama.cpp up at the first call; return its log."""
    # Without a handler of its own, an unconfigured program would print warnings to stderr.
    logger.addHandler(logging.NullHandler())
    log = LibraryLog()
    # Keeps the callback alive as well, also if two threads come here first.
    atexit.register(log.remove)
    log.install()
    api.llama_backend_init()
    return log


@functools.cache
def c_library() -> ctypes.CDLL:
    """Return the C library."""
    if os.name == "nt":
        return ctypes.CDLL("msvcrt")
    return ctypes.CDLL(None)


def devices() -> tuple[Device, ...]:
    """Return the processors this build of llama.cpp can use on this machine."""
    open_library()
    count = _ggml_function("ggml_backend_dev_count", ctypes.c_size_t)
    get = _ggml_function("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    kind = _ggml_function("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
    name = _ggml_function("ggml_backend_dev_name", ctypes.c_char_p, ctypes.c_void_p)
    memory = _ggml_function(
        "ggml_backend_dev_memory", None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p
    )
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    found = []
    for pointer in map(get, range(count())):
        if kind(pointer) in _DEVICE_KINDS:
            memory(pointer, ctypes.byref(free), ctypes.byref(total))
            text = name(pointer).decode("utf-8", "replace")
            found.append(Device(text, _DEVICE_KINDS[kind(pointer)], total.value, free.value))
    return tuple(found)


def features() -> dict[str, tuple[str, ...]]:
    """Return the backends of this build and what each was compiled with or for."""
    open_library()
    count = _ggml_function("ggml_backend_reg_count", ctypes.c_size_t)
    get = _ggml_function("ggml_backend_reg_get", ctypes.c_void_p, ctypes.c_size_t)
    name_of = _ggml_function("ggml_backend_reg_name", ctypes.c_char_p, ctypes.c_void_p)
    found: dict[str, tuple[str, ...]] = {
        name_of(pointer).decode("utf-8", "replace"): () for pointer in map(get, range(count()))
    }
    name = ""
    for part in api.llama_print_system_info().decode("utf-8", "replace").split("|"):
        backend, separator, text = part.rpartition(" : ")
        if separator:
            name = backend.strip()
        key, separator, value = text.partition(" = ")
        if separator and value.strip() not in ("", "0"):
            is_switch = value.strip() == "1"
            flag = key.strip() if is_switch else f"{key.strip()}={value.strip()}"
            found[name] = (*found.get(name, ()), flag)
    return found


def _ggml_function(name: str, result: Any, *arguments: Any) -> Any:
    """Return a function the Python package does not bind.

    On Windows each library shows only its own functions, elsewhere `llama` shows all of them.
    """
    prototype = ctypes.CFUNCTYPE(result, *arguments)
    for base_name in ("llama", "ggml"):
        library = load_shared_library(base_name, api._base_path)
        if hasattr(library, name):
            return prototype((name, library))
    return prototype((name, load_shared_library("ggml-base", api._base_path)))
