"""With everything on this machine no command opens a network connection."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub_cache import put_in_cache
from tests.tiny_gguf import write_tiny_gguf

POOL = """
[pool.mine]
target = { repo = "user/big", file = "big.gguf" }
[[pool.mine.drafter]]
name = "code"
repo = "user/small"
file = "code.gguf"
"""
COMMANDS = (
    "ls --found",
    "show mine",
    "run mine hello --max-tokens 4 --json",
    "run user/big hello --drafters user/small/code.gguf --max-tokens 4",
    "chat mine --lines --max-tokens 4",
    "doctor",
    "download mine",
    "download mine --verify",
    "rm mine --yes",
)
WATCHED = f"""
import os, socket, sys
def watch(event, arguments):
    if event.startswith("socket.") and event != "socket.__new__":
        is_network = event != "socket.connect" or arguments[0].family != socket.AF_UNIX
    else:
        is_network = event == "socket.__new__" and arguments[1] != socket.AF_UNIX
    if is_network:
        os.write(2, f"\\n{{sys.argv}}: {{event}} {{arguments}}\\n".encode())
        os._exit(99)
sys.addaudithook(watch)
from metasd_local.__main__ import main
for command in {COMMANDS!r}:
    if command == "download mine" and "huggingface_hub" in sys.modules:
        sys.exit("huggingface_hub was imported for nothing")
    sys.argv = ["metasd", *command.split()]
    status = main()
    if status:
        sys.exit(f"{{command}}: exit status {{status}}")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="AF_UNIX is how the rest is told apart")
def test_no_command_opens_a_connection(tmp_path: Path) -> None:
    """The interpreter itself reports every socket; nothing tells it to stay offline."""
    big = write_tiny_gguf(tmp_path / "big.gguf", width=128).read_bytes()
    small = write_tiny_gguf(tmp_path / "small.gguf", num_layers=1, width=32).read_bytes()
    put_in_cache(tmp_path / "hub", "user/big", "big.gguf", big)
    put_in_cache(tmp_path / "hub", "user/small", "code.gguf", small)
    own = tmp_path / "config/metasd/models.toml"
    own.parent.mkdir(parents=True)
    own.write_text(POOL, encoding="utf-8")
    environment = {name: text for name, text in os.environ.items() if not name.startswith("HF_")}
    environment |= {
        f"XDG_{name.upper()}_HOME": str(tmp_path / name) for name in ("config", "state", "data")
    }
    environment |= {"HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")}
    finished = subprocess.run(
        [sys.executable, "-c", WATCHED],
        input="hello\n",
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert finished.returncode == 0, finished.stderr
