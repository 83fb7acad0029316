"""A Hub on loopback: the parts the real client calls, and faults on demand.

Two servers: the endpoint answers metadata and redirects large files to the store, which stands
for the CDN and writes down the headers it gets. Faults are taken from a list, one per request for
a file's bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

REPO = "user/model-GGUF"
PIECE_BYTES = 1 << 16


def sha256(content: bytes) -> str:
    """Return what names an LFS file's blob."""
    return hashlib.sha256(content).hexdigest()


def git_sha1(content: bytes) -> str:
    """Return what names a blob of git."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one request for bytes."""

    cut_at: int | None = None
    """Bytes of the body before the connection closes."""
    status: int = 200
    retry_after: str = ""
    stall: bool = False
    """Instead of closing, send nothing more until the server ends; with cut_at None no headers."""
    ignore_range: bool = False
    wrong_bytes: bool = False
    wrong_etag: bool = False
    at_endpoint: bool = False
    """Whether the endpoint has it, not the store."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for bytes that reached the store, or the endpoint for a small file."""

    name: str
    start: int
    headers: Mapping[str, str]


@dataclass
class HubServer:
    """What the two servers share; tests change it while they run."""

    files: dict[str, dict[str, bytes]] = field(default_factory=lambda: {REPO: {}})
    """By repository and name."""
    small: set[str] = field(default_factory=set)
    """Names that are blobs of git, served by the endpoint itself."""
    faults: deque[Fault] = field(default_factory=deque)
    asked: list[Asked] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    """Method and path of each request to the endpoint."""
    endpoint_headers: list[Mapping[str, str]] = field(default_factory=list)
    metadata_status: deque[int] = field(default_factory=deque)
    """Statuses for the next questions after a repository."""
    moved: bool = False
    """Whether questions after a repository are redirected to the store."""
    gated: bool = False
    """Whether bytes are only for those with a token."""
    token: str | None = None
    """The only one that is accepted; None accepts all and none."""
    on_bytes: Callable[[Asked], None] = lambda _asked: None
    """Called before bytes are sent."""
    on_piece: Callable[[int], None] = lambda _num_bytes: None
    """Called after every piece of a body."""
    generated: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Files of zeros by name: hash and size; they take no memory."""
    endpoint: str = ""
    store: str = ""
    ended: threading.Event = field(default_factory=threading.Event)

    def commit(self, repo: str) -> str:
        """Return the commit of what a repository holds now."""
        names = "".join(f"{name}{sha256(data)}" for name, data in self.files[repo].items())
        return hashlib.sha1(names.encode()).hexdigest()

    def blob(self, name: str, content: bytes) -> str:
        """Return a file's hash."""
        return git_sha1(content) if name in self.small else sha256(content)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer
    is_store: bool

    def log_request(self, *_: object) -> None:
        """Stay silent."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.is_store:
            _, repo_user, repo_name, name = path.split("/", 3)
            if name == "api":
                self.hub.asked.append(Asked(name, 0, dict(self.headers)))
                return self._refuse(404)
            return self._send_bytes(f"{repo_user}/{repo_name}", name)
        self.hub.calls.append(f"{self.command} {self.path}")
        self.hub.endpoint_headers.append(dict(self.headers))
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        if found:
            return self._send_model_info(found[1], found[2] or "main")
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if found:
            return self._resolve(found[1], found[2], found[3])
        return self._refuse(404)

    def _refuse(self, status: int, code: str = "", retry_after: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_model_info(self, repo: str, revision: str) -> None:
        hub = self.hub
        if hub.moved:
            self.send_response(307)
            self.send_header("Location", f"{hub.store}/{repo}/api")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if hub.metadata_status:
            return self._refuse(hub.metadata_status.popleft())
        if hub.token and self.headers.get("authorization") not in (None, f"Bearer {hub.token}"):
            return self._refuse(401)
        if repo not in hub.files:
            return self._refuse(401, "RepoNotFound")
        commit = hub.commit(repo)
        if revision not in ("main", commit):
            return self._refuse(404, "RevisionNotFound")
        siblings: list[dict[str, Any]] = []
        for name, content in hub.files[repo].items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(content)}
            entry["blobId"] = git_sha1(content[:100])
            if name in hub.small:
                entry["blobId"] = git_sha1(content)
            else:
                oid = {"sha256": sha256(content), "size": len(content), "pointerSize": 134}
                entry["lfs"] = oid
            siblings.append(entry)
        for name, (blob, size) in hub.generated.items():
            lfs = {"sha256": blob, "size": size, "pointerSize": 134}
            siblings.append({"rfilename": name, "size": size, "blobId": "0" * 40, "lfs": lfs})
        body = json.dumps({"id": repo, "sha": commit, "siblings": siblings}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return None

    def _resolve(self, repo: str, commit: str, name: str) -> None:
        hub = self.hub
        if hub.gated and self.headers.get("authorization") != f"Bearer {hub.token}":
            return self._refuse(403, "GatedRepo")
        if name in hub.generated:
            blob, size = hub.generated[name]
        elif name in hub.files.get(repo, {}):
            content = hub.files[repo][name]
            blob, size = hub.blob(name, content), len(content)
        else:
            return self._refuse(404, "EntryNotFound")
        if hub.faults and hub.faults[0].wrong_etag:
            hub.faults.popleft()
            blob = sha256(b"another")
        elif hub.faults and hub.faults[0].at_endpoint:
            fault = hub.faults.popleft()
            return self._refuse(fault.status, retry_after=fault.retry_after)
        if name in hub.small:
            return self._send_bytes(repo, name, blob)
        self.send_response(302)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("X-Linked-Etag", f'"{blob}"')
        self.send_header("X-Linked-Size", str(size))
        self.send_header("ETag", '"of-the-redirect"')
        self.send_header("Location", f"{hub.store}/{repo}/{name}?signature=secret")
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    def _send_bytes(self, repo: str, name: str, etag: str = "of-the-store") -> None:
        hub = self.hub
        size = hub.generated[name][1] if name in hub.generated else len(hub.files[repo][name])
        fault = hub.faults.popleft() if hub.faults else Fault()
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        start = int(wanted[1]) if wanted else 0
        asked = Asked(name, start, dict(self.headers))
        hub.asked.append(asked)
        hub.on_bytes(asked)
        if fault.status == 416 or start >= size > 0:
            return self._refuse(416)
        if fault.status != 200:
            return self._refuse(fault.status, retry_after=fault.retry_after)
        if fault.stall and fault.cut_at is None:
            self.close_connection = True
            hub.ended.wait()
            return None
        if fault.ignore_range:
            start, wanted = 0, None
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("Content-Length", str(size - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.end_headers()
        end = size if fault.cut_at is None else min(size, start + fault.cut_at)
        with suppress(ConnectionError):
            for at in range(start, end, PIECE_BYTES):
                to = min(end, at + PIECE_BYTES)
                piece = bytes(to - at) if name in hub.generated else hub.files[repo][name][at:to]
                self.wfile.write(piece[::-1] if fault.wrong_bytes else piece)
                hub.on_piece(len(piece))
            self.wfile.flush()
        if end < size:
            self.close_connection = True
            if fault.stall:
                hub.ended.wait()
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


@contextmanager
def running_hub() -> Iterator[HubServer]:
    """Run both servers; they have different host names and ports."""
    hub = HubServer()
    servers = []
    for is_store in (False, True):
        handler = type("Handler", (_Handler,), {"hub": hub, "is_store": is_store})
        server = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
    hub.endpoint = f"http://127.0.0.1:{servers[0].server_port}"
    hub.store = f"http://localhost:{servers[1].server_port}"
    try:
        yield hub
    finally:
        hub.ended.set()
        for server in servers:
            server.shutdown()
            server.server_close()
