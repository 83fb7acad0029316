"""One llama-server per setting: asked with token ids, stopped while others are timed."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

TIMEOUT_S = 600.0
# The other n-gram types carry what they learned from one request into the next.
FORGETFUL_TYPES = {"draft-simple", "ngram-simple"}


class PeerError(Exception):
    """The peer did not do what it was asked to."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How llama-server speculates; all empty is plain decoding."""

    types: tuple[str, ...] = ()
    """Values of --spec-type."""
    drafter: str = ""
    """Name of the drafter of draft-simple."""
    window: int = 0
    p_min: float = 0.0
    sizes: tuple[tuple[str, int], ...] = ()
    """Options of an n-gram type, without `--spec-`; without them it runs with its defaults."""

    def __str__(self) -> str:
        parts = [kind for kind in self.types if kind != "draft-simple"]
        parts += ["/".join(str(number) for _, number in self.sizes)] * bool(self.sizes)
        if self.drafter:
            parts.append(f"{self.drafter} window={self.window} p-min={self.p_min:g}")
        return " ".join(parts) or "plain"

    def arguments(self, files: Mapping[str, str]) -> list[str]:
        """Return the options of llama-server; `files` has the drafters by name."""
        found = ["--spec-type", ",".join(self.types)] if self.types else []
        for name, number in self.sizes:
            found += [f"--spec-{name}", str(number)]
        if self.drafter:
            found += ["-md", files[self.drafter], "--spec-draft-n-max", str(self.window)]
            found += ["--spec-draft-p-min", str(self.p_min)]
        return found


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, of either program."""

    tokens: tuple[int, ...]
    steps: int
    """Tokens whose time is in `decode_s`: the peer's first one counts as prompt."""
    decode_s: float
    wall_s: float
    """The whole request, prompt included."""
    drafted: int
    accepted: int


class Server:
    """A running llama-server; stopped (SIGSTOP) whenever it is not being asked.

    command: without the options of the setting and the port; files: drafters by name.
    """

    def __init__(self, setting: Setting, command: Sequence[str], files: Mapping[str, str]) -> None:
        self._setting = setting
        self._command = [*command, *setting.arguments(files)]
        self._resources = ExitStack()
        self._start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def ask(self, prompt: Sequence[int], num_tokens: int) -> Reply:
        """Continue the prompt greedily by at most `num_tokens`, knowing nothing from before."""
        if not FORGETFUL_TYPES.issuperset(self._setting.types):
            self._resources.close()
            self._start()
        reply = self._ask(prompt, num_tokens)
        must_draft = self._setting.drafter and self._setting.p_min == 0.0 and reply.steps > 0
        if must_draft and reply.drafted == 0:
            raise self._error("no draft_n in the timings, so it decoded plainly")
        return reply

    def _start(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._address = f"127.0.0.1:{free.getsockname()[1]}"
        log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._log = self._resources.enter_context(log)
        command = [*self._command, "--port", self._address.partition(":")[2]]
        self._process = subprocess.Popen(command, stdout=log, stderr=log)
        self._resources.callback(self._process.wait)
        self._resources.callback(self._process.kill)  # ends a stopped process too
        deadline_s = time.monotonic() + TIMEOUT_S
        while not self._is_healthy():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise self._error("did not start")
            time.sleep(0.02)
        self._ask((0, 0), 3)  # warm-up

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self._address}/health", timeout=5):
                return True
        except OSError:
            return False

    def _ask(self, prompt: Sequence[int], num_tokens: int) -> Reply:
        wanted = {"temperature": 0, "cache_prompt": False, "return_tokens": True}
        body = json.dumps({"prompt": list(prompt), "n_predict": num_tokens, **wanted}).encode()
        request = urllib.request.Request(
            f"http://{self._address}/completion", body, {"Content-Type": "application/json"}
        )
        self._process.send_signal(signal.SIGCONT)
        started_s = time.perf_counter()
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                said = json.load(answer)
        except (OSError, ValueError) as error:
            raise self._error(f"did not answer: {error}") from error
        wall_s = time.perf_counter() - started_s
        self._process.send_signal(signal.SIGSTOP)
        timings = said["timings"]
        return Reply(
            tokens=tuple(said["tokens"]),
            steps=timings["predicted_n"] - 1,
            decode_s=timings["predicted_ms"] / 1000,
            wall_s=wall_s,
            drafted=timings.get("draft_n", 0),
            accepted=timings.get("draft_n_accepted", 0),
        )

    def _error(self, what: str) -> PeerError:
        self._log.seek(0)
        last_words = "\n".join(self._log.read().splitlines()[-8:])
        self._resources.close()
        return PeerError(f"llama-server, {self._setting}: {what}\n{last_words}")
