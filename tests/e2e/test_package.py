"""What is built installs into an empty environment and answers there."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILDER = "hatchling"


def run(
    *command: str | Path, cwd: Path, python_path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    path = {"PYTHONPATH": str(python_path)} if python_path else {}
    finished = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, **path},
    )
    assert finished.returncode == 0, finished.stderr
    return finished


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the sdist, and the wheel built from it alone."""
    tools = None
    if find_spec(BUILDER) is None:
        tools = tmp_path_factory.mktemp("tools")
        fetch = [sys.executable, "-m", "pip", "install", "--target", str(tools), BUILDER]
        if subprocess.run(fetch, capture_output=True, check=False).returncode:
            pytest.skip(f"{BUILDER} is neither installed nor can pip find it")
    folder = tmp_path_factory.mktemp("built")
    builder = (sys.executable, "-m", BUILDER, "build", "--directory", folder)
    run(*builder, "--target", "sdist", cwd=ROOT, python_path=tools)
    (sdist,) = folder.glob("metasd_local-*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    source = folder / sdist.name.removesuffix(".tar.gz")
    run(*builder, "--target", "wheel", cwd=source, python_path=tools)
    return folder


@pytest.mark.full
def test_the_wheel_holds_what_runs_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {"metasd_local", "tui"} < tops
    assert all(top in ("metasd_local", "tui") or top.endswith(".dist-info") for top in tops)
    assert "metasd_local/models.toml" in names
    assert "metasd_local/starter/LICENSE" in names
    starter = ROOT / "metasd_local/starter"
    weights = {f"metasd_local/starter/{path.name}" for path in starter.glob("*.gguf")}
    assert weights
    assert weights == {name for name in names if name.endswith(".gguf")}
    assert not [name for name in names if name.startswith("metasd_local/starter/train")]
    assert not [name for name in names if "__pycache__" in name]


@pytest.mark.full
def test_the_installed_wheel_answers(built: Path, tmp_path: Path) -> None:
    """Only what it depends on is borrowed from the environment of this test."""
    (wheel,) = built.glob("*.whl")
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin/python"
    site = Path(
        run(
            python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path
        ).stdout.strip()
    )
    run(
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--target",
        site,
        wheel,
        cwd=tmp_path,
    )
    borrowed = sysconfig.get_path("purelib")
    (site / "borrowed.pth").write_text(f"{borrowed}\n", encoding="utf-8")
    where = run(
        python,
        "-c",
        "import metasd_local, tui; print(metasd_local.__file__, tui.__file__)",
        cwd=tmp_path,
    )
    assert where.stdout.count(str(site)) == 2
    command = (python, "-m", "metasd_local", "run", "--threads=1", "--max-tokens=8")
    finished = run(*command, "Write a haiku about rain.", cwd=tmp_path)
    assert finished.stdout.strip()
    assert "starter" in run(python, "-m", "metasd_local", "ls", cwd=tmp_path).stdout
