"""Files that may be lost and never do harm."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

import pytest

from metasd_local.state import read_state, write_entry


def test_entries_are_kept_beside_each_other_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state.json"
    write_entry(path, "a", {"x": 1})
    write_entry(path, "b", {"y": 2})
    assert read_state(path) == {"a": {"x": 1}, "b": {"y": 2}}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["state.json"]


@pytest.mark.parametrize(
    "content",
    [
        *(b"{", b"[1]", b"\xff\xfe", b"", b'"a"', b"null"),
        *(b'{"a": NaN}', b'{"a": [-Infinity]}', b'{"a": 1e999}', b'{"a": 1%s}' % (b"0" * 400)),
        *(b"[" * 100_000, b'{"a":' * 100_000),
    ],
    ids=lambda content: content[:9].decode("ascii", "replace"),
)
def test_a_damaged_file_is_moved_aside_with_a_warning(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert read_state(path) == read_state(path) == {}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "state.json.damaged" in caplog.text
    assert (tmp_path / "state.json.damaged").read_bytes() == content
    write_entry(path, "a", {})
    assert read_state(path) == {"a": {}}


def test_a_folder_that_cannot_be_used_costs_one_warning_for_all_its_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "file"
    folder.write_text("")
    with caplog.at_level(logging.WARNING):
        for name in ("profile.json", "costs.json"):
            assert read_state(folder / name) == {}
            write_entry(folder / name, "a", {})
    assert len(caplog.records) == 1
    for part in (str(folder), "File exists", "not kept", "nothing else is lost"):
        assert part in caplog.text


def test_what_cannot_be_read_is_not_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder in the file's place: to the superuser the only such thing."""
    path = tmp_path / "state.json"
    path.mkdir()
    with caplog.at_level(logging.WARNING):
        assert read_state(path) == {}
        write_entry(path, "a", {"x": 1})
    assert [each.name for each in tmp_path.iterdir()] == ["state.json"]
    assert len(caplog.records) == 1
