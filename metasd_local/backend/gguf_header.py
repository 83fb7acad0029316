"""What a GGUF header says, as records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from metasd_local.backend.gguf_strings import StringArray

Scalar: TypeAlias = int | float | bool | str
Array: TypeAlias = NDArray[np.generic] | StringArray


@dataclass(frozen=True, slots=True)
class Tensor:
    """The description of one tensor."""

    name: str
    shape: tuple[int, ...]
    type_id: int


@dataclass(frozen=True, slots=True)
class Header:
    """Everything a GGUF file holds but its weights."""

    scalars: Mapping[str, Scalar]
    arrays: Mapping[str, Array]
    tensors: Mapping[str, Tensor]
