"""Who may import whom: arrows only point down, heavy libraries stay behind one door each."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("metasd_local", "tui")
NOT_SHIPPED = ROOT / "metasd_local/starter/train"

CORE = {"protocols", "events", "errors", "interrupt", "stopwatch"}

ALLOWED: dict[str, set[str]] = {
    # The seams
    "__init__": set(),
    "errors": set(),
    "events": set(),
    "interrupt": set(),
    "protocols": {"numpy"},
    "stopwatch": set(),
    # What decides and what counts: no model, no text
    "sampling": {"protocols", "errors", "numpy"},
    "laws": {"protocols", "sampling", "numpy"},
    "verify": {"protocols", "events", "errors", "sampling", "laws", "numpy"},
    "state": set(),
    "busy": set(),
    "costs": {"protocols", "errors", "state", "numpy"},
    "stats": {"events", "errors", "numpy"},
    "trace": {"events", "errors"},
    # Behind the seams
    "selection": {"protocols", "events", "errors", "options", "costs", "numpy"},
    "drafters": {"protocols", "events", "errors", "numpy"},
    "backend": {*CORE, "model_files", "sampling", "numpy", "llama_cpp"},
    # Texts and files
    "text": CORE,
    "templates": {"protocols", "errors", "text", "jinja2"},
    "values": set(),
    "options": {"values", "errors"},
    "toml_tables": {"options", "values", "errors"},
    "config": {"options", "toml_tables", "errors"},
    "model_files": set(),
    "hub": {
        *("__init__", "model_files", "options", "state", "errors", "filelock"),
        *("huggingface_hub", "httpx2"),
    },
    "download": {"hub", "model_files", "options", "errors", "filelock"},
    "pools": {
        *("backend", "config", "drafters", "hub", "model_files", "options", "protocols"),
        *("sampling", "state", "toml_tables", "values", "errors"),
    },
    "kept": {"costs", "selection", "state"},
    "starter": set(),
    # From the round up to the user
    "engine": {*CORE, "verify", "sampling"},
    "session": {*CORE, "engine", "verify", "sampling", "text", "templates"},
    # The instruments: readers of the same events
    "bench": {
        *("protocols", "events", "errors", "stats", "costs", "options", "selection", "numpy"),
    },
    "selftest": {*CORE, "options", "sampling", "selection", "session", "compose", "numpy"},
    "lab": {
        *CORE,
        *("engine", "selection", "drafters", "costs", "options", "bench", "backend"),
        *("toml_tables", "values", "numpy", "gguf"),
    },
    "plan": {"pools", "options", "sampling", "selection", "costs", "protocols", "errors"},
    "fit": {"backend", "drafters", "costs", "options", "pools", "errors"},
    "doctor": {
        *("backend", "busy", "fit", "costs", "options", "protocols", "pools", "hub", "model_files"),
        *("text", "errors", "interrupt"),
    },
    "compose": {
        *CORE,
        *("backend", "busy", "drafters", "fit", "kept", "options", "plan", "pools", "templates"),
        *("verify", "costs", "engine", "session"),
    },
    "replay": {"trace", "events", "errors", "options", "sampling", "session"},
    "arguments": {"__init__", "options", "selection", "errors"},
    "cli": {
        *("arguments", "config", "options", "errors", "events", "stats", "trace", "text"),
        *("selection", "session", "compose", "busy", "costs", "bench", "selftest"),
        *("lab", "protocols", "replay", "drafters", "kept", "numpy"),
        *("pools", "hub", "download", "doctor", "interrupt", "model_files"),
    },
    "__main__": {"cli", "selection", "tui"},
    "tui": {
        *("session", "events", "stats", "trace", "pools", "config", "options", "errors"),
        *("compose", "hub", "plan", "state", "text", "replay", "cli"),
        *("textual", "rich", "markdown_it", "pygments"),
    },
}
"""What each module, or package inside metasd_local, may import besides the standard library."""

HEAVY = ("llama_cpp", "huggingface_hub", "textual")
BEHIND_DOORS = {
    *("backend", "hub", "download"),
    *("fit", "doctor", "compose", "tui", "cli", "__main__"),
}
"""Modules that may load a heavy library, themselves or by what they import."""

SOURCES = [
    path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
    if NOT_SHIPPED not in path.parents
]


def name_of(path: Path) -> str:
    """Return the dotted name of a module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def group_of(module: str) -> str:
    """Return the row of the table a module of ours belongs to."""
    package, _, rest = module.partition(".")
    if package == "tui":
        return "tui"
    return rest.partition(".")[0] or "__init__"


NAMES = {name_of(path) for path in SOURCES}


def imports_of(path: Path) -> Iterator[str]:
    """Yield every module a file imports, wherever in the file, under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                yield inner if inner in NAMES else module


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_imports_only_what_its_row_allows(path: Path) -> None:
    """A new module gets a row first, a new arrow is a decision."""
    group = group_of(name_of(path))
    assert group in ALLOWED, f"add a row for {group}"
    found = set()
    for module in imports_of(path):
        top = module.partition(".")[0]
        if top in PACKAGES:
            found.add(group_of(module))
        elif top not in sys.stdlib_module_names:
            found.add(top)
    assert found - {group} <= ALLOWED[group]


def test_every_heavy_library_has_one_door() -> None:
    """Only backend/ knows llama.cpp, only hub/ the network, only tui/ the terminal."""
    doors = {"llama_cpp": {"backend"}, "huggingface_hub": {"hub"}, "textual": {"tui"}}
    for library in HEAVY:
        assert {row for row, allowed in ALLOWED.items() if library in allowed} <= doors[library]


SILENT = [
    path for path in SOURCES if group_of(name_of(path)) != "cli" and name_of(path) != "tui.lines"
]


@pytest.mark.parametrize("path", SILENT, ids=name_of)
def test_only_the_command_line_prints(path: Path) -> None:
    """No other file, but the chat in lines, calls print or touches the standard streams."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"line {node.lineno}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            touched = f"{node.value.id}.{node.attr}"
            assert touched not in ("sys.stdout", "sys.stderr", "sys.stdin"), f"line {node.lineno}"


def loaded_by(code: str) -> set[str]:
    """Return the top-level modules a fresh interpreter has loaded after `code`."""
    report = "import sys; sys.stderr.write(' '.join({m.partition('.')[0] for m in sys.modules}))"
    finished = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert finished.returncode == 0, finished.stderr
    return set(finished.stderr.split())


def test_the_core_runs_without_any_heavy_library() -> None:
    """Everything but the doors imports with numpy alone, the engine and the session included."""
    core = sorted(name for name in NAMES if group_of(name) not in BEHIND_DOORS)
    assert {"metasd_local.engine", "metasd_local.session"} <= set(core)
    loaded = loaded_by(f"import {', '.join(core)}")
    assert "numpy" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_help_is_quick_because_it_loads_nothing_slow() -> None:
    """`metasd --help` answers from the option table."""
    run = "import runpy, sys\nsys.argv = ['metasd', '--help']\ntry:\n    "
    run += "runpy.run_module('metasd_local', run_name='__main__')\nexcept SystemExit:\n    pass"
    loaded = loaded_by(run)
    assert "metasd_local" in loaded
    assert loaded.isdisjoint({*HEAVY, "numpy", "jinja2"})
