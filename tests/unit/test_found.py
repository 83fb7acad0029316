"""GGUF files of other tools are found where those put them, and paired by llama.cpp's rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metasd_local.pools import found
from metasd_local.pools.found import find_models, find_pairs
from tests.hub_cache import put_in_cache
from tests.tiny_gguf import write_tiny_gguf

MODEL_LAYER = "application/vnd.ollama.image.model"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(found, "OLLAMA_SERVICE", tmp_path / "service")
    return tmp_path


def put_in_ollama(folder: Path, name: str, model: bytes) -> Path:
    blob = folder / "blobs" / f"sha256-{name}"
    manifest = folder / "manifests/registry.ollama.ai/library" / name / "latest"
    for path in (blob, manifest):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(model)
    layers = [
        {"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:licence"},
        {"mediaType": MODEL_LAYER, "digest": f"sha256:{name}"},
    ]
    manifest.write_text(json.dumps({"layers": layers}), encoding="utf-8")
    return blob


def test_every_tool_and_every_pair_is_found(home: Path) -> None:
    """A target pairs with what is less than half its size and has its vocabulary."""
    big = write_tiny_gguf(home / "big.gguf", width=128).read_bytes()
    small = write_tiny_gguf(home / "small.gguf", num_layers=1, width=32).read_bytes()
    shifted = write_tiny_gguf(home / "x.gguf", num_layers=1, width=32, adds_bos=True).read_bytes()
    wide = write_tiny_gguf(home / "y.gguf", num_layers=1, width=32, vocab_size=600).read_bytes()
    target = put_in_cache(home / "hub", "user/repo", "sub/big.gguf", big)
    put_in_cache(home / "hub", "user/repo", "mmproj-big.gguf", small)
    put_in_cache(home / "hub", "user/repo", "wide.gguf", wide)
    drafter = put_in_ollama(home / ".ollama/models", "small", small)
    for name, content in {"shifted": shifted, "cut": big[:1000], "small": small}.items():
        path = home / ".lmstudio/models/user/repo" / f"{name}.gguf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    recurrent = write_tiny_gguf(
        home / "z.gguf", architecture="mamba", num_layers=1, width=32
    ).read_bytes()
    put_in_ollama(home / "service", "recurrent", recurrent)
    (home / ".lmstudio/models/loop.gguf").symlink_to("loop.gguf")
    models = find_models({}, home / "hub")
    assert [(model.tool, model.name, bool(model.problem)) for model in models] == [
        ("Hugging Face", "user/repo/sub/big.gguf", False),
        ("Hugging Face", "user/repo/wide.gguf", False),
        ("LM Studio", "loop.gguf", True),
        ("LM Studio", "user/repo/cut.gguf", True),
        ("LM Studio", "user/repo/shifted.gguf", False),
        ("LM Studio", "user/repo/small.gguf", False),
        ("Ollama", "recurrent:latest", False),
        ("Ollama", "small:latest", False),
    ]
    assert models[0].architecture == "llama"
    assert models[0].size_bytes == len(big)
    same = home / ".lmstudio/models/user/repo/small.gguf"
    pairs = [(pair[0].path, pair[1].path) for pair in find_pairs(models)]
    assert pairs == [(target, same), (target, drafter)]


def test_one_file_under_two_names_is_listed_once(home: Path) -> None:
    """Hard to tell apart otherwise: 17 GB twice or once?"""
    path = write_tiny_gguf(home / "a.gguf", num_layers=1, width=32)
    folder = home / ".cache/lm-studio/models/user/repo"
    folder.mkdir(parents=True)
    (folder / "a.gguf").symlink_to(path)
    (folder / "b.gguf").symlink_to(path)
    assert len(find_models({}, home / "hub")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"layers": 3}',
        '{"layers": [{}]}',
        json.dumps({"layers": [{"mediaType": MODEL_LAYER, "digest": "sha256:absent"}]}),
        json.dumps({"layers": [{"mediaType": MODEL_LAYER, "digest": "../../../secret"}]}),
    ],
)
def test_a_damaged_manifest_is_passed(home: Path, text: str) -> None:
    """And none leads out of the folder of blobs."""
    put_in_ollama(home / "models", "small", b"x")
    (home / "secret").write_bytes(b"x")
    manifest = home / "models/manifests/registry.ollama.ai/library/small/latest"
    manifest.write_text(text, encoding="utf-8")
    assert find_models({"OLLAMA_MODELS": str(home / "models")}, home / "hub") == []
