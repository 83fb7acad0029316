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


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe", b""])
def test_a_damaged_file_is_moved_aside_with_a_warning(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert read_state(path) == {}
    assert "state.json.damaged" in caplog.text
    assert (tmp_path / "state.json.damaged").read_bytes() == content
    write_entry(path, "a", {})
    assert read_state(path) == {"a": {}}


def test_a_folder_that_cannot_be_made_costs_a_warning_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        write_entry(tmp_path / "file" / "state.json", "a", {})
    assert "not kept" in caplog.text
