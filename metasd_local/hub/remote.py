"""The Hugging Face Hub: what a repository holds, and the bytes of its files.

The only importer of huggingface_hub, whose HTTP session it shares. The access token goes to
the endpoint alone; no error and no log line holds it, nor a signed address.
"""

from __future__ import annotations

import contextlib
import email.utils
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

import httpx2
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from metasd_local import __version__
from metasd_local.errors import DownloadError, Unavailable
from metasd_local.hub.cache import COMMIT, HASH, part_suffix, repository_folder

try:
    from huggingface_hub import constants
    from huggingface_hub.hf_api import HfApi
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status  # type: ignore[attr-defined]  # exported, not in __all__
except ValueError as error:  # of the environment
    raise DownloadError(
        f"huggingface_hub cannot start ({error}); correct or unset the variable HF_… it means"
    ) from None

DEFAULT_ENDPOINT = "https://huggingface.co"
"""Where HF_ENDPOINT is set, but empty."""
MAX_REDIRECTS = 5
MOST_CONNECT_S = 10.0
_LOGIN = "run `hf auth login`, or set HF_TOKEN"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a repository, as the Hub announced it."""

    repo: str
    name: str
    revision: str
    commit: str
    blob: str
    """Its name in the cache and its hash: SHA-256, or 40 digits for the SHA-1 of a git blob."""
    size_bytes: int

    @property
    def path(self) -> Path:
        """Return the path of the checked bytes."""
        return repository_folder(self.repo) / "blobs" / self.blob

    @property
    def part(self) -> Path:
        """Return the path of the bytes that came so far; the same in every session."""
        return self.path.with_name(f"{self.blob}{part_suffix(self.name)}")

    @property
    def here_bytes(self) -> int:
        """Return how many bytes need not be fetched again."""
        if self.is_here:
            return self.size_bytes
        part_bytes = self.part.stat().st_size if os.path.isfile(self.part) else 0
        return part_bytes if part_bytes <= self.size_bytes else 0

    @property
    def is_here(self) -> bool:
        """Tell whether there are as many bytes as were checked once."""
        return os.path.isfile(self.path) and self.path.stat().st_size == self.size_bytes


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to go on with a connection that fails."""

    stall_s: float = 30.0
    """Without a byte before the connection is given up."""
    attempts: int = 6
    """That may fail in a row without a byte gained."""
    pause_s: float = 1.0
    """After the first of them; it doubles each time."""


class Hub:
    """The Hub or a mirror of it; safe to use from several threads."""

    def __init__(self, endpoint: str | None = None, patience: Patience | None = None) -> None:
        for name in ("httpx2", "httpcore2", "huggingface_hub"):
            # Or they tell every log signed addresses and headers.
            logging.getLogger(name).setLevel(logging.WARNING)
        # Or every session begins by asking the Hub which AI agents there are, to report one.
        constants.HF_HUB_DISABLE_TELEMETRY = True
        self.endpoint = (endpoint or constants.ENDPOINT or DEFAULT_ENDPOINT).rstrip("/")
        try:
            self.host = _origin(self.endpoint)[1] or self.endpoint
        except ValueError:
            raise self._no_address() from None
        self.patience = patience or Patience()
        self._timeout = httpx2.Timeout(
            self.patience.stall_s, connect=min(self.patience.stall_s, MOST_CONNECT_S)
        )
        self._has_answered = False
        try:
            self._headers = build_hf_headers(
                library_name="metasd_local",
                library_version=__version__,
                headers={"accept-encoding": "identity"},
            )
            self._headers["authorization"].encode("ascii")
        except KeyError:
            pass
        except (OSError, ValueError) as error:
            # Neither may be quoted: of what is no ASCII the error holds all.
            reason = error.strerror if isinstance(error, OSError) else "not in ASCII"
            raise DownloadError(
                f"the access token cannot be used ({reason}); check HF_TOKEN and "
                f"{constants.HF_TOKEN_PATH}"
            ) from None
        try:
            get_session()
        except (OSError, ImportError, ValueError) as error:
            # A proxy's address may hold a password.
            reason = type(error).__name__ if isinstance(error, ValueError) else str(error)
            raise DownloadError(
                f"no connection can be made ({reason}); check the variables ALL_PROXY, "
                "HTTPS_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
            ) from None

    def files(self, repo: str, revision: str) -> dict[str, RemoteFile]:
        """Ask which files a repository holds, by name. Raise DownloadError."""
        api = HfApi(endpoint=self.endpoint)
        with self._translated(repo, revision):
            found = api.model_info(
                repo,
                revision=revision,
                files_metadata=True,
                timeout=self._timeout,  # type: ignore[arg-type]  # handed on to httpx2
            )
        self._has_answered = True
        commit = str(found.sha)
        if not COMMIT.fullmatch(commit):
            raise DownloadError(
                f"{self.host} names no commit of {repo}; is it a mirror of the Hub?"
            )
        files = {}
        for entry in found.siblings or ():
            blob = entry.lfs.sha256 if entry.lfs else entry.blob_id
            size = entry.lfs.size if entry.lfs else entry.size
            if size is not None and HASH.fullmatch(blob or ""):
                name = entry.rfilename
                files[name] = RemoteFile(repo, name, revision, commit, str(blob), size)
        return files

    @contextlib.contextmanager
    def open(self, file: RemoteFile, offset: int) -> Iterator[httpx2.Response]:
        """Open a file's bytes from `offset` on; the status is 200, 206 or 416.

        Errors of the connection inside the block are raised as Unavailable.
        """
        label = f"{file.repo}/{file.name}"
        url = f"{self.endpoint}/{file.repo}/resolve/{file.commit}/{quote(file.name)}"
        with self._translated(file.repo, file.commit, label):
            for _ in range(MAX_REDIRECTS):
                is_home = _origin(url) == _origin(self.endpoint)
                headers = {
                    key: value
                    for key, value in self._headers.items()
                    if is_home or key.lower() != "authorization"
                }
                if offset:
                    headers["range"] = f"bytes={offset}-"
                with get_session().stream(
                    "GET",
                    url,
                    headers=headers,
                    follow_redirects=False,
                    timeout=self._timeout,
                ) as response:
                    self._has_answered = True
                    if is_home:
                        _check_blob(response, label, file.blob)
                    if not response.has_redirect_location:
                        if response.status_code != 416:
                            hf_raise_for_status(response)
                        yield response
                        return
                    url = urljoin(url, response.headers["location"])
        raise DownloadError(f"{self.host} redirects {label} more than {MAX_REDIRECTS} times")

    @contextlib.contextmanager
    def _translated(self, repo: str, revision: str, label: str = "") -> Iterator[None]:
        """Raise what went wrong as an error of ours.

        label: of the file that is asked for; none if it is the repository.
        """
        try:
            yield
        except GatedRepoError:
            raise DownloadError(
                f"{repo} is gated: accept its licence at {self.endpoint}/{repo} with your account, "
                f"then {_LOGIN}, and try again"
            ) from None
        except RepositoryNotFoundError:
            raise DownloadError(
                f"{self.host} has no repository {repo}, or it is private: check the spelling, or "
                f"{_LOGIN}"
            ) from None
        except RevisionNotFoundError:
            raise DownloadError(f"{repo} has no revision {revision!r}") from None
        except RemoteEntryNotFoundError:
            raise DownloadError(f"{label or repo} is gone; run the same command again") from None
        except OfflineModeIsEnabled:
            raise DownloadError(f"{repo} is not asked for: HF_HUB_OFFLINE is set") from None
        except HfHubHTTPError as error:
            raise self._refused(error.response, repo, label) from None
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            raise Unavailable(
                f"{error.request.url.host} cannot be reached ({error or 'no answer'}); check the "
                "network, the proxy and HF_ENDPOINT",
                # After an answer a network that is gone may come back.
                is_lasting=not self._has_answered,
            ) from None
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL):
            raise self._no_address() from None
        except httpx2.TimeoutException as error:
            raise Unavailable(
                f"{error.request.url.host} sent nothing for {self.patience.stall_s:g} s"
            ) from None
        except httpx2.TransportError as error:
            raise Unavailable(f"the connection broke ({type(error).__name__})") from None
        except (httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
            raise DownloadError(
                f"{self.host} did not answer as the Hub does ({type(error).__name__}); is there a "
                "login page of the network, or is HF_ENDPOINT wrong?"
            ) from None

    def _no_address(self) -> DownloadError:
        return DownloadError(
            f"HF_ENDPOINT or a redirect is no address of the web (asked: {self.endpoint}); "
            f"expected one such as {DEFAULT_ENDPOINT}"
        )

    def _refused(self, response: httpx2.Response, repo: str, label: str) -> DownloadError:
        """Return the error for a status that says no."""
        status, host = response.status_code, response.url.host
        is_home = _origin(str(response.url)) == _origin(self.endpoint)
        if status in (401, 403) and is_home:
            return DownloadError(
                f"{host} refuses {repo} (status {status}): the access token is wrong or lacks the "
                f"right to read it; {_LOGIN} with another"
            )
        # Elsewhere an address that was signed for a while may have expired.
        if status in (401, 403, 408, 425, 429) or status >= 500:
            pause_s = _pause_s(response.headers.get("retry-after", ""))
            return Unavailable(f"{host} answered with status {status}", pause_s)
        advice = "expected what the Hub answers: is HF_ENDPOINT right?"
        if not is_home:
            advice = "run the same command again, which asks for another address"
        return DownloadError(f"{host} answered with status {status} for {label or repo}; {advice}")


def _pause_s(text: str) -> float | None:
    """Return the seconds that a Retry-After header asks for."""
    if text.strip().isdigit():
        return float(text)
    with contextlib.suppress(ValueError):
        moment = email.utils.parsedate_to_datetime(text)
        return max(0.0, (moment - datetime.now(UTC)).total_seconds())
    return None


def _check_blob(response: httpx2.Response, label: str, blob: str) -> None:
    """Raise DownloadError if the file is another one by now."""
    headers = response.headers
    found = (headers.get("x-linked-etag") or headers.get("etag") or "").removeprefix("W/")
    if HASH.fullmatch(found.strip('"')) and found.strip('"') != blob and response.status_code < 400:
        raise DownloadError(f"{label} was replaced by another file; run the same command again")


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
