"""What came damaged, or lies damaged in the cache, never passes for a model."""

from __future__ import annotations

from pathlib import Path
from threading import Event

import pytest

from metasd_local.download.plan import plan_download
from metasd_local.errors import DownloadError
from metasd_local.hub.cache import discard, find_local, is_sound, part_suffix, repository_folder
from metasd_local.hub.remote import Hub
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
)
from tests.hub_server import REPO, Fault, HubServer, sha256


@pytest.mark.parametrize("name", [NAME, "small.gguf"])
def test_a_wrong_checksum_is_no_model(hub: HubServer, name: str) -> None:
    """SHA-256, or git's hash of a small file; the part goes and the next run starts anew."""
    hub.files[REPO]["small.gguf"] = b"GGUF, but small"
    hub.small.add("small.gguf")
    hub.faults.append(Fault(wrong_bytes=True))
    assert "wrong checksum" in failures(fetch(hub.endpoint, f"{REPO}/{name}"))[0]
    assert not parts()
    assert find_local(HubFile(REPO, name)) is None
    fetch(hub.endpoint, f"{REPO}/{name}")
    assert is_complete(name, hub.files[REPO][name])


def test_a_damaged_blob_gets_no_name(hub: HubServer) -> None:
    """As long as it should be, it is hashed all the same; a shorter one counts for nothing."""
    folder = repository_folder(REPO) / "blobs"
    folder.mkdir(parents=True)
    (folder / sha256(CONTENT)).write_bytes(bytes(5000))
    (folder / PART).write_bytes(CONTENT[:1000])
    plan = plan_download([FILE], lambda _: Hub(hub.endpoint, QUICK), Event())
    assert plan.missing_bytes == len(CONTENT) - 1000
    (folder / PART).unlink()
    (folder / sha256(CONTENT)).write_bytes(bytes(len(CONTENT)))
    fetch(hub.endpoint, FILE)
    assert is_complete()


def test_a_damaged_part_is_noticed(hub: HubServer) -> None:
    """As after a power cut; it is as long as it should be but holds zeros."""
    folder = repository_folder(REPO) / "blobs"
    folder.mkdir(parents=True)
    (folder / PART).write_bytes(bytes(5000))
    assert "wrong checksum" in failures(fetch(hub.endpoint, FILE))[0]
    fetch(hub.endpoint, FILE)
    assert is_complete()


def test_another_file_under_the_same_name_starts_anew(hub: HubServer) -> None:
    """Between two runs: the old part of that name goes. In a run: nothing new is mixed in."""
    hub.faults.extend([Fault(cut_at=1000), Fault(status=404)])
    assert failures(fetch(hub.endpoint, FILE))
    assert len(parts()) == 1
    new = CONTENT[::-1]
    hub.files[REPO][NAME] = new
    hub.faults.append(Fault(wrong_etag=True))
    assert "was replaced" in failures(fetch(hub.endpoint, FILE))[0]
    other = repository_folder(REPO) / f"blobs/{'a' * 64}{part_suffix('other.gguf')}"
    other.touch()
    fetch(hub.endpoint, FILE)
    assert hub.asked[-1].start == 0
    assert parts() == [other]
    other.unlink()
    assert is_complete(content=new)


def test_the_catalogues_checksum_counts_before_a_byte_comes(hub: HubServer) -> None:
    """A repository that changed hands is not trusted."""
    with pytest.raises(DownloadError, match="another file by now"):
        fetch(hub.endpoint, HubFile(REPO, NAME, sha256="0" * 64))
    with pytest.raises(DownloadError, match="it has 300,000 bytes, expected 1;"):
        fetch(hub.endpoint, HubFile(REPO, NAME, size_bytes=1))
    assert not hub.asked
    fetch(hub.endpoint, FILE)
    new = hub.files[REPO][NAME] = CONTENT[::-1]
    fetch(hub.endpoint, HubFile(REPO, NAME, sha256=sha256(new)))
    assert len(hub.asked) == 2
    assert is_complete(content=new)


def ignore(_share: float) -> None:
    """Look at no progress."""


def test_damage_in_the_cache_is_found_and_repaired(hub: HubServer) -> None:
    """A changed byte by its hash; a missing end already by the size."""
    fetch(hub.endpoint, FILE)
    path = find_local(FILE)
    assert path is not None
    assert is_sound(path, None, ignore)
    path.resolve().write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    assert is_sound(path, None, ignore) is False
    with pytest.raises(DownloadError, match="mem cannot be read: "):
        is_sound(Path("/proc/self/mem"), sha256(CONTENT), ignore)
    discard(path)
    fetch(hub.endpoint, FILE)
    assert is_complete()
    path.resolve().write_bytes(CONTENT[:-1])
    fetch(hub.endpoint, HubFile(REPO, NAME, size_bytes=len(CONTENT)))
    assert is_complete()


def test_a_file_that_a_link_of_the_users_own_leads_to_is_never_removed(
    hub: HubServer, tmp_path: Path
) -> None:
    """Nobody knows its hash, and it is not the cache's."""
    fetch(hub.endpoint, FILE)
    path, own = find_local(FILE), tmp_path / "own.gguf"
    assert path is not None
    own.write_bytes(CONTENT)
    path.unlink()
    path.symlink_to(own)
    assert is_sound(path, None, ignore) is None
    discard(path)
    assert own.read_bytes() == CONTENT
    assert not path.is_symlink()
