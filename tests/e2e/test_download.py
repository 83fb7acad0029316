"""Downloads through the Hub's real client from a Hub on loopback, with whatever can go wrong."""

from __future__ import annotations

import errno
import io
import logging
import os
import random
import re
from pathlib import Path
from threading import Barrier, Event

import pytest
from huggingface_hub import try_to_load_from_cache

from metasd_local.download.fetch import (
    FileDone,
    FileNote,
    FileProgress,
    download,
)
from metasd_local.download.plan import plan_download
from metasd_local.download.transfer import WRITE_BYTES
from metasd_local.errors import Cancelled, DownloadError, UsageError
from metasd_local.hub.cache import (
    cache_folder,
    find_local,
    part_suffix,
    repository_folder,
)
from metasd_local.hub.remote import Hub, Patience
from metasd_local.hub.repository import HubFile
from tests.hub_client import (
    CONTENT,
    FILE,
    NAME,
    PART,
    QUICK,
    failures,
    fetch,
    is_complete,
    parts,
    start_fetch,
)
from tests.hub_server import REPO, Asked, Fault, HubServer, sha256


def test_a_file_arrives_where_other_tools_look(hub: HubServer) -> None:
    """In the cache's layout; the next time nothing is asked at all."""
    events = fetch(hub.endpoint, REPO)
    assert is_complete()
    path = find_local(FILE)
    assert try_to_load_from_cache(REPO, NAME, cache_dir=cache_folder()) == str(path)
    assert isinstance(events[-1], FileDone)
    assert events[-1].path == path
    progress = [event.done_bytes for event in events if isinstance(event, FileProgress)]
    assert progress == sorted(progress)
    assert progress[-1] == len(CONTENT)
    hub.calls.clear()
    assert fetch(hub.endpoint, REPO, FILE, f"{REPO}:q4_k_m") == []
    assert not hub.calls


def test_a_cut_connection_goes_on_where_it_ended(hub: HubServer) -> None:
    """In the same run and without a byte twice, as often as it gains anything."""
    hub.faults.extend([Fault(cut_at=1000), Fault(cut_at=0), *[Fault(cut_at=500)] * QUICK.attempts])
    fetch(hub.endpoint, FILE)
    assert [asked.start for asked in hub.asked] == [0, 1000, 1000, 1500, 2000, 2500, 3000]
    assert is_complete()


def test_a_run_goes_on_where_the_last_one_ended(hub: HubServer) -> None:
    """The part's hash is made anew of what is on the disk."""
    hub.faults.extend([Fault(cut_at=1000), *[Fault(cut_at=0)] * QUICK.attempts])
    assert "gave up after 4 attempts" in failures(fetch(hub.endpoint, FILE))[0]
    assert [part.stat().st_size for part in parts()] == [1000]
    hub.faults.clear()
    fetch(hub.endpoint, FILE)
    assert hub.asked[-1].start == 1000
    assert is_complete()


def test_a_complete_part_needs_no_byte(hub: HubServer) -> None:
    """It was killed between the last byte and the new name."""
    folder = repository_folder(REPO) / "blobs"
    folder.mkdir(parents=True)
    (folder / PART).write_bytes(CONTENT)
    fetch(hub.endpoint, FILE)
    assert not hub.asked
    assert is_complete()


@pytest.mark.parametrize(
    "fault",
    [
        Fault(cut_at=2000, ignore_range=True),
        Fault(ignore_range=True),
        Fault(status=416),
        Fault(status=500),
        Fault(status=503, at_endpoint=True, retry_after="0"),
        Fault(status=429, retry_after="0"),
        Fault(status=403),
        Fault(stall=True),
        Fault(cut_at=10, stall=True),
    ],
    ids=str,
)
def test_one_fault_after_another_is_survived(hub: HubServer, fault: Fault) -> None:
    """Servers that ignore ranges, refuse them, stall, are overloaded or forget who signed."""
    hub.faults.extend([Fault(cut_at=1000), fault])
    fetch(hub.endpoint, FILE)
    assert is_complete()


def test_a_server_that_asks_for_a_long_rest_gets_it(hub: HubServer) -> None:
    """The user is told how long, rather than waited for."""
    hub.faults.append(Fault(status=429, retry_after="3600"))
    assert "asks to wait 3600 s" in failures(fetch(hub.endpoint, FILE))[0]
    assert len(hub.asked) == 1


def test_a_hub_that_is_down_is_asked_again_and_then_named(hub: HubServer) -> None:
    """Questions after a repository are repeated as transfers are."""
    hub.metadata_status.extend([500, 429])
    fetch(hub.endpoint, FILE)
    assert is_complete()
    hub.metadata_status.extend([503] * QUICK.attempts)
    with pytest.raises(DownloadError, match=r"status 503; gave up after 4 attempts"):
        fetch(hub.endpoint, f"{REPO}/other.gguf")


def test_a_hub_that_never_answered_is_not_waited_for(hub: HubServer) -> None:
    """No network, a wrong port, a wrong address: told at once; a network that went away is not."""
    for endpoint, text in (
        ("http://127.0.0.1:9", r"cannot be reached \(.+\); check the network"),
        ("nonsense", "expected one such as https://"),
        ("ftp://127.0.0.1", "expected one such as https://"),
        ("http://[::1", "expected one such as https://"),
        ("http://127.0.0.1:99999", "expected one such as https://"),
    ):
        with pytest.raises(DownloadError, match=text) as caught:
            fetch(endpoint, FILE, HubFile("user/other", NAME))
        assert "attempts" not in str(caught.value)
    hub.store = "http://127.0.0.1:9"
    assert "gave up after 4 attempts" in failures(fetch(hub.endpoint, FILE))[0]


def test_a_full_disk_keeps_what_came(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that succeeds by half counts by half."""
    quota = 123_456

    class Full(io.FileIO):
        def write(self, data: object) -> int:
            size = os.fstat(self.fileno()).st_size
            if size >= quota:
                raise OSError(errno.ENOSPC, "no space left")
            return super().write(memoryview(data)[: quota - size])  # type: ignore[arg-type]

    opened = Path.open

    def open_full(path: Path, mode: str = "r", *arguments: object, **keywords: object) -> object:
        if path.suffix == ".part":
            return Full(path, "a+")
        return opened(path, mode, *arguments, **keywords)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_full)
        assert (
            "the disk is full; make room for 176,544 more bytes"
            in failures(fetch(hub.endpoint, FILE))[0]
        )
    assert [part.stat().st_size for part in parts()] == [quota]
    fetch(hub.endpoint, FILE)
    assert hub.asked[-1].start == quota
    assert is_complete()


def test_the_token_goes_to_the_endpoint_alone(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not along the redirect, nor into a message or a log; nor does what signs an address."""
    caplog.set_level(logging.DEBUG)
    hub.gated, hub.token = True, "hf_secret"
    with pytest.raises(DownloadError, match="no repository user/none"):
        fetch(hub.endpoint, "user/none/x.gguf")
    assert "accept its licence at" in failures(fetch(hub.endpoint, FILE))[0]
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(DownloadError, match="refuses user/model-GGUF") as caught:
        fetch(hub.endpoint, FILE)
    assert "hf_wrong" not in str(caught.value)
    assert not hub.asked
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.faults.append(Fault(status=404))
    text = failures(fetch(hub.endpoint, FILE))[0]
    assert f"status 404 for {FILE}; run the same command again" in text
    assert "secret" not in text
    fetch(hub.endpoint, FILE)
    assert is_complete()
    assert hub.endpoint_headers[-1]["authorization"] == "Bearer hf_secret"
    hub.moved = True
    with pytest.raises(DownloadError):
        fetch(hub.endpoint, "user/other")
    assert len(hub.asked) == 3
    for asked in hub.asked:
        assert "authorization" not in {name.lower() for name in asked.headers}
        assert "secret" not in str(asked.headers)
    assert not re.search("secret|hf_wrong", caplog.text)


def test_what_is_not_there_is_named_with_what_is(hub: HubServer) -> None:
    """The nearest file, the nearest quantisation."""
    with pytest.raises(DownloadError, match=f"did you mean '{NAME}'"):
        fetch(hub.endpoint, f"{REPO}/m-Q4_K.gguf")
    with pytest.raises(UsageError, match=f"models: {REPO}:Q4_K_M"):
        fetch(hub.endpoint, f"{REPO}:Q8_0")
    with pytest.raises(DownloadError, match=r"has no file 'm-00001-of-00000\.gguf'"):
        fetch(hub.endpoint, f"{REPO}/m-00001-of-00000.gguf")
    with pytest.raises(DownloadError, match="no revision 'none'"):
        fetch(hub.endpoint, HubFile(REPO, NAME, revision="none"))


def test_another_quantisation_that_is_here_does_not_stand_for_the_one_asked_for(
    hub: HubServer,
) -> None:
    """Nor do two make it ambiguous; without a tag only the Hub can tell, and it is here then."""
    others = [f"m-{tag}.gguf" for tag in ("UD-Q4_K_M", "Q6_K", "Q8_0")]
    hub.files[REPO] |= {name: name.encode() for name in others}
    fetch(hub.endpoint, *(f"{REPO}/{name}" for name in others))
    fetch(hub.endpoint, f"{REPO}:Q4_K_M")
    assert is_complete()
    hub.files["user/other"] = {"m.gguf": CONTENT}
    fetch(hub.endpoint, "user/other")
    assert fetch(hub.endpoint, "user/other") == []


def test_names_that_lead_out_of_the_cache_or_fit_in_no_folder_are_not_fetched(
    hub: HubServer,
) -> None:
    """Whoever owns the repository chose them."""
    for name in ("../../x.gguf", f"{'é' * 126}.gguf"):
        hub.files[REPO][name] = CONTENT
        with pytest.raises(DownloadError, match="expected a relative path"):
            fetch(hub.endpoint, HubFile(REPO, name))
    assert not hub.asked


def test_a_split_model_comes_as_one(hub: HubServer) -> None:
    """Its parts side by side; a missing one is an error before anything is fetched."""
    names = [f"s-Q8_0-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    hub.files[REPO] |= {name: CONTENT[: 1000 * len(name)] for name in names[:2]}
    with pytest.raises(DownloadError, match=f"has no file '{names[2]}'"):
        fetch(hub.endpoint, f"{REPO}:Q8_0")
    hub.files[REPO][names[2]] = CONTENT[500:]
    fetch(hub.endpoint, f"{REPO}:Q8_0")
    first = find_local(HubFile(REPO, names[0]))
    assert first is not None
    for name in names:
        assert first.with_name(name).read_bytes() == hub.files[REPO][name]


def test_two_processes_fetch_one_file_once(hub: HubServer) -> None:
    """The second waits for the first and says so."""
    is_asked, is_waited_for = Event(), Event()

    def hold(_asked: Asked) -> None:
        is_asked.set()
        is_waited_for.wait(60)

    hub.on_bytes = hold
    patience = Patience(stall_s=60)
    first = start_fetch(hub.endpoint, cache_folder().parent, str(FILE), patience=patience)
    assert is_asked.wait(60)
    plan = plan_download([FILE], lambda _: Hub(hub.endpoint, patience), Event())
    events = []
    for event in download(plan, Event()):
        events.append(event)
        is_waited_for.set()
    first.join()
    assert first.exitcode == 0
    assert isinstance(events[0], FileNote)
    assert isinstance(events[-1], FileDone)
    assert len(hub.asked) == 1
    assert is_complete()


def test_files_come_side_by_side(hub: HubServer) -> None:
    """No request is answered before three have come."""
    together = Barrier(3, timeout=10)

    def hold(_asked: Asked) -> None:
        together.wait()

    hub.on_bytes = hold
    names = [f"{number}.gguf" for number in range(3)]
    hub.files[REPO] = {name: name.encode() for name in names}
    fetch(hub.endpoint, *(HubFile(REPO, name) for name in names), patience=Patience(60, attempts=1))
    assert sorted(asked.name for asked in hub.asked) == names
    assert not together.broken


def test_a_stopped_download_keeps_what_came(hub: HubServer) -> None:
    """Even while the server sends nothing; the next run goes on."""
    stop = Event()
    client = Hub(hub.endpoint, Patience(stall_s=3600, pause_s=0))
    hub.faults.extend([Fault(cut_at=1000), Fault(stall=True)])
    hub.on_bytes = lambda asked: stop.set() if asked.start else None
    with pytest.raises(Cancelled):
        list(download(plan_download([FILE], lambda _: client, stop), stop))
    assert [part.stat().st_size for part in parts()] == [1000]
    hub.ended.set()  # what waits for bytes may end
    fetch(hub.endpoint, FILE)
    assert hub.asked[-1].start == 1000
    assert is_complete()


def random_fault(rng: random.Random, size_bytes: int) -> Fault:
    cut_at = rng.randrange(size_bytes)
    return rng.choice(
        [
            Fault(cut_at=cut_at),
            Fault(cut_at=cut_at, stall=True),
            Fault(cut_at=cut_at, ignore_range=True),
            Fault(stall=True),
            Fault(status=rng.choice([416, 429, 500, 502]), retry_after="0"),
            Fault(status=503, at_endpoint=True),
        ]
    )


def fetch_until_done(hub: HubServer, seed: int) -> None:
    """Fetch with faults at random bytes in processes that are killed at random requests."""
    rng = random.Random(seed)
    content = rng.randbytes(rng.randrange(1, 4 * WRITE_BYTES))
    name = f"r{seed}-F16.gguf"
    hub.files[REPO] = {name: content}
    blobs = repository_folder(REPO) / "blobs"
    part = blobs / f"{sha256(content)}{part_suffix(name)}"
    final = blobs / sha256(content)
    early: list[tuple[int, int]] = []
    left_bytes = 0
    reached, is_killed = Event(), Event()

    def check(asked: Asked) -> None:
        size_bytes = part.stat().st_size if part.exists() else 0
        if asked.start < size_bytes - WRITE_BYTES or asked.start > size_bytes:
            early.append((asked.start, size_bytes))

    def count(num_bytes: int) -> None:
        nonlocal left_bytes
        left_bytes -= num_bytes
        if left_bytes <= 0:
            reached.set()
            is_killed.wait()

    hub.on_bytes, hub.on_piece = check, count
    home = cache_folder().parent
    for _ in range(rng.randrange(1, 4)):
        hub.faults.clear()
        hub.faults.extend(random_fault(rng, len(content)) for _ in range(rng.randrange(4)))
        left_bytes = rng.randrange(len(content))
        reached.clear()
        is_killed.clear()
        process = start_fetch(hub.endpoint, home, f"{REPO}/{name}")
        while process.is_alive() and not reached.wait(0.01):
            pass
        process.kill()
        process.join()
        is_killed.set()
        assert not final.exists() or final.read_bytes() == content
        path = find_local(HubFile(REPO, name))
        assert path is None or path.read_bytes() == content
    hub.on_piece = lambda _num_bytes: None
    for _ in range(20):
        if not failures(fetch(hub.endpoint, f"{REPO}/{name}")):
            break
    assert not early
    assert is_complete(name, content)


def test_killed_downloads_end_byte_identical(hub: HubServer) -> None:
    """SIGKILL and faults at random bytes; nothing is asked for twice, nothing is left behind."""
    for seed in range(12):
        fetch_until_done(hub, seed)


@pytest.mark.full
def test_two_hundred_killed_downloads_end_byte_identical(hub: HubServer) -> None:
    """The same, often."""
    for seed in range(100, 300):
        fetch_until_done(hub, seed)
