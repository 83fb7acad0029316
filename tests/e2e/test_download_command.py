"""`metasd download` as a user meets it, and that nothing else ever asks the network."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from threading import Event
from time import perf_counter
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session  # type: ignore[attr-defined]

from metasd_local.hub.cache import cache_folder, find_local
from metasd_local.hub.repository import HubFile
from tests.command import metasd, metasd_here
from tests.hub_server import REPO, Fault, HubServer, running_hub
from tests.tiny_gguf import write_tiny_gguf

OTHER = "user/small-GGUF"
POOL = f"""
[pool.mine]
target = {{ repo = "{REPO}", file = "big-F32.gguf" }}
[[pool.mine.drafter]]
name = "small"
repo = "{OTHER}"
file = "small.gguf"
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    for name in ("CONFIG", "STATE", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name.lower()))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    own = tmp_path / "config/metasd/models.toml"
    own.parent.mkdir(parents=True)
    own.write_text(POOL)
    with running_hub() as server:
        big = write_tiny_gguf(tmp_path / "big.gguf", width=64)
        small = write_tiny_gguf(tmp_path / "small.gguf", num_layers=1, width=32)
        server.files = {
            REPO: {"big-F32.gguf": big.read_bytes()},
            OTHER: {"small.gguf": small.read_bytes()},
        }
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        yield server
        close_session()


def test_a_pool_comes_with_its_drafters(hub: HubServer) -> None:
    """The plan first, then lines, as this is no terminal; the paths are the result."""
    finished = metasd_here("pull", "mine")
    assert finished.returncode == 0, finished.stderr
    paths = finished.stdout.splitlines()
    assert [Path(path).name for path in paths] == ["big-F32.gguf", "small.gguf"]
    said = finished.stderr.splitlines()
    assert said[0] == "asking 127.0.0.1"
    assert "to fetch" in said[3]
    assert "small.gguf: complete, checksum right" in finished.stderr
    assert "\x1b" not in finished.stderr
    hub.calls.clear()
    again = metasd_here("download", "mine")
    assert again.stdout == finished.stdout
    assert metasd_here("download", f"{hub.endpoint}/{REPO}:F32").stdout == f"{paths[0]}\n"
    assert not hub.calls


def test_every_event_is_a_line_of_json(hub: HubServer) -> None:
    """From the plan to the end."""
    finished = metasd_here("download", "mine", "--json")
    lines = [json.loads(line) for line in finished.stdout.splitlines()]
    assert lines[0]["event"] == "plan"
    sizes = {file["name"]: file["size_bytes"] for file in lines[0]["files"]}
    assert sizes == {name: len(data) for each in hub.files.values() for name, data in each.items()}
    assert lines[0]["missing_bytes"] == sum(sizes.values())
    assert {line["name"] for line in lines if line["event"] == "done"} == set(sizes)
    assert lines[-1] == {"event": "end", "ok": True, "paths": lines[-1]["paths"]}
    assert finished.stderr == ""


def test_one_file_that_fails_does_not_keep_the_others(hub: HubServer) -> None:
    """Whether the Hub does not have it or its transfer fails; the status says so."""
    missing = hub.files[OTHER].pop("small.gguf")
    finished = metasd_here("download", "mine")
    assert finished.returncode == 1
    assert "left out: user/small-GGUF has no file 'small.gguf'" in finished.stderr
    assert find_local(HubFile(REPO, "big-F32.gguf")) is not None
    hub.files[OTHER] = {"small.gguf": missing, "b.gguf": b"b"}
    hub.faults.append(Fault(status=404))
    finished = metasd_here("download", "mine", "--json")
    assert finished.returncode == 1
    assert json.loads(finished.stdout.splitlines()[-1])["ok"] is False


def test_offline_names_what_is_missing_and_how_to_get_it(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the option or by the Hub's own variable; nobody is asked."""
    for setting in ("option", "variable"):
        if setting == "variable":
            monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        options = ["--offline"] if setting == "option" else []
        finished = metasd_here("download", "mine", *options)
        assert finished.returncode == 1
        assert f"{REPO}/big-F32.gguf, {OTHER}/small.gguf" in finished.stderr
        assert finished.stderr.endswith("type: metasd download mine\n")
    assert not hub.calls


def test_what_cannot_be_downloaded_is_wrong_usage(hub: HubServer) -> None:
    """Pools that are here anyway, and names of nothing."""
    for words in (["starter"], ["mnie"], ["mine", "other"], ["https://hub.co/user/repo"], ["./x"]):
        assert metasd_here("download", *words).returncode == 2
    assert not hub.calls


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1", "no connection can be made"),
        ("ALL_PROXY", "odd://user:secret@host", "no connection can be made"),
        ("SSL_CERT_FILE", "/none", "no connection can be made"),
        ("HF_TOKEN", "hf_secrét", "the access token cannot be used (not in ASCII)"),
        ("HF_TOKEN_PATH", "/", "the access token cannot be used (Is a directory)"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "x", "huggingface_hub cannot start"),
    ],
)
def test_a_wrong_setting_is_named_and_no_secret(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, variable: str, text: str, message: str
) -> None:
    """What the Hub's client says of its own variables, it says when it is imported."""
    monkeypatch.setenv(variable, text)
    run = metasd if variable in ("HF_TOKEN_PATH", "HF_HUB_DOWNLOAD_TIMEOUT") else metasd_here
    finished = run("download", REPO)
    assert finished.returncode == 1
    assert finished.stderr.startswith(f"metasd: {message}")
    assert finished.stderr.count("\n") == 1
    assert "secr" not in finished.stderr
    assert not hub.calls


def test_verify_repairs_what_is_damaged(hub: HubServer) -> None:
    """Only that is fetched again."""
    metasd_here("download", "mine")
    path = find_local(HubFile(OTHER, "small.gguf"))
    assert path is not None
    good = path.read_bytes()
    path.resolve().write_bytes(good[:-1])
    hub.asked.clear()
    finished = metasd_here("download", "mine", "--verify", "--offline")
    assert f"or damaged: {OTHER}/small.gguf; " in finished.stderr
    assert finished.stderr.endswith("type: metasd download --verify mine\n")
    hub.metadata_status.append(401)
    assert metasd_here("download", "mine", "--verify").returncode == 1
    assert path.read_bytes() == good[:-1]
    finished = metasd_here("download", "mine", "--verify")
    assert finished.returncode == 0
    assert "small.gguf: damaged, to be fetched again" in finished.stderr
    assert "big-F32.gguf: no damage found" in finished.stderr
    assert [asked.name for asked in hub.asked] == ["small.gguf"]
    assert path.read_bytes() == good


def test_a_download_that_does_not_fit_does_not_begin(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan refuses it, with sizes and place."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
    finished = metasd_here("download", "mine")
    assert (finished.returncode, finished.stdout) == (1, "")
    size_bytes = sum(len(content) for files in hub.files.values() for content in files.values())
    assert f"{size_bytes:,} bytes are to be fetched, but only 100,000 are" in finished.stderr
    assert not hub.asked


def test_ctrl_c_keeps_what_came_and_says_how_to_go_on(hub: HubServer) -> None:
    """Within a moment, even while the server sends nothing; nothing needless was asked."""
    hub.faults.append(Fault(cut_at=1000, stall=True))
    is_sent = Event()
    hub.on_piece = lambda _num_bytes: is_sent.set()
    process = subprocess.Popen(
        [sys.executable, "-m", "metasd_local", "download", f"{REPO}:F32", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert is_sent.wait(60)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(stdout.splitlines()[-1]) == {"event": "end", "ok": False, "paths": []}
    assert stderr.endswith(f"to go on, type: metasd download {REPO}:F32\n")
    assert "Traceback" not in stderr
    assert list(cache_folder().rglob("*.part"))
    assert hub.calls == [
        f"GET /api/models/{REPO}/revision/main?blobs=true",
        f"GET /{REPO}/resolve/{hub.commit(REPO)}/big-F32.gguf",
    ]


MEASURED = """
import resource, sys
from threading import Event
from metasd_local.download.fetch import FileDone, download
from metasd_local.download.plan import plan_download
from metasd_local.hub.remote import Hub
from time import perf_counter

hub = Hub()
hub.files(sys.argv[1], "main")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began_s = perf_counter()
events = download(plan_download([sys.argv[1]], lambda _: hub, Event()), Event())
assert any(isinstance(event, FileDone) for event in events)
seconds = perf_counter() - began_s
print(seconds, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


def measure_download(hub: HubServer, size_bytes: int) -> tuple[float, float]:
    """Fetch zeros in a process of its own; return seconds and bytes of memory it took."""
    hasher = hashlib.sha256()
    for _ in range(size_bytes >> 20):
        hasher.update(bytes(1 << 20))
    hub.files[REPO] = {}
    hub.generated["huge-Q4_K_M.gguf"] = (hasher.hexdigest(), size_bytes)
    finished = subprocess.run(
        [sys.executable, "-c", MEASURED, REPO], capture_output=True, text=True, check=True
    )
    path = find_local(HubFile(REPO, "huge-Q4_K_M.gguf"))
    assert path is not None
    assert path.stat().st_size == size_bytes
    shutil.rmtree(cache_folder())
    seconds, memory_bytes = map(float, finished.stdout.split())
    return seconds, memory_bytes


@pytest.mark.full
def test_a_large_file_takes_no_memory(hub: HubServer) -> None:
    """A gigabyte comes in less than 80 MB above what the client itself takes."""
    assert measure_download(hub, 1 << 30)[1] < 80e6


@pytest.mark.full
@pytest.mark.skipif(shutil.which("curl") is None, reason="nothing to compare with")
def test_a_file_comes_nearly_as_fast_as_by_curl(hub: HubServer, tmp_path: Path) -> None:
    """Hashed and flushed to the disk, which curl does not do; in alternating rounds."""
    ratios = []
    for _ in range(5):
        seconds, _ = measure_download(hub, 1 << 29)
        url = f"{hub.endpoint}/{REPO}/resolve/main/huge-Q4_K_M.gguf"
        began_s = perf_counter()
        subprocess.run(["curl", "-sfLo", tmp_path / "by-curl", url], check=True)
        ratios.append((perf_counter() - began_s) / seconds)
    assert median(ratios) >= 0.8
