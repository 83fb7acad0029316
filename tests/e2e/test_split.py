"""A model split into several files is one model: same weights, same answers, one size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metasd_local.backend.llama import LlamaModel, LlamaWeights
from metasd_local.backend.llama_memory import memory_figures
from metasd_local.errors import BackendError, ModelError
from metasd_local.interrupt import Interrupt
from metasd_local.model_files import part_paths
from metasd_local.protocols import Logits
from tests.tiny_gguf import write_tiny_gguf


def logits_of(weights: LlamaWeights) -> Logits:
    model = LlamaModel(weights, context_size=32, max_rows=2, num_threads=1, interrupt=Interrupt())
    return model.feed([7, 8, 9], 2).copy()


def test_parts_load_as_one_from_whichever_part_is_named(
    tmp_path: Path, tiny_model_path: Path
) -> None:
    whole = LlamaWeights(tiny_model_path)
    first = write_tiny_gguf(tmp_path / "split.gguf", tensors_per_part=8)
    parts = part_paths(first)
    assert len(parts) == 3
    for path in (first, parts[2]):
        split = LlamaWeights(path)
        np.testing.assert_array_equal(logits_of(split), logits_of(whole))
        assert split.info.num_parameters == whole.info.num_parameters
        assert split.info.file_bytes == sum(part.stat().st_size for part in parts)
        split.close()
    whole.close()
    parts[1].unlink()
    with pytest.raises(ModelError, match="missing, part 2 of 3"):
        LlamaWeights(first)


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_simulated_weights_tell_what_the_real_ones_take(tmp_path: Path, architecture: str) -> None:
    """The token memory is that of all layers at full size, also with a sliding window."""
    path = write_tiny_gguf(tmp_path / "m.gguf", architecture=architecture)  # type: ignore[arg-type]
    simulated = LlamaWeights(path, is_simulated=True)
    figures = memory_figures(simulated.pointer, "m", 4096, 33)
    # Two layers, two heads of 16 numbers for key and value each, 16 bits.
    assert figures.context_bytes == 4096 * 2 * 2 * 16 * 2 * 2
    assert 0.9 * path.stat().st_size < figures.weights_bytes < path.stat().st_size
    assert 33 * 320 * 4 < figures.compute_bytes < 50e6
    assert figures.total_bytes > figures.context_bytes + figures.weights_bytes
    with pytest.raises(BackendError, match="without its weights"):
        logits_of(simulated)
    simulated.close()
