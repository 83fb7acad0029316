"""One run: its settings and the layout of its folders.

Owns every path below the output folder; must not train or write anything.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from metasd_local.starter.train.config import Config, ModelShape
from metasd_local.starter.train.export import file_name
from metasd_local.starter.train.fit import load_weights
from metasd_local.starter.train.model import Llama, load_warm_start


@dataclass(frozen=True, slots=True)
class Run:
    """What every stage is given."""

    config: Config
    data: Path
    """Folder of DOMAIN.jsonl.gz."""
    out: Path
    """Folder for tokenizer.json, checkpoints, encoded text and GGUF files."""
    warm_start: Path | None
    """Folder of a ready tokeniser and target; None: both are trained."""
    eval_folder: Path | None
    """Folder of prompts for the matrix; None: the held-out split."""
    say: Callable[[str], None]
    """Takes one progress line."""

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints, created when first asked for."""
        folder = self.out / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def tokenizer_path(self) -> Path:
        """Return the path of the tokeniser."""
        return self.out / "tokenizer.json"

    def tokenizer(self) -> Tokenizer:
        """Read the tokeniser."""
        return Tokenizer.from_file(str(self.tokenizer_path))

    def answers_path(self, domain: str) -> Path:
        """Return the path of a domain's answers; its folder is created."""
        folder = self.out / "answers"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{domain}.npz"

    def loops_path(self, round_index: int) -> Path:
        """Return the path of a round's looping answers; its folder is created."""
        folder = self.out / "loops"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{round_index}.npz"

    def load_target(self) -> Llama:
        """Return the target as far as it is trained here, or the warm start."""
        rounds = (f"target-loops-{index}" for index in range(self.config.loops.num_rounds))
        paths = [self.checkpoints / f"{name}.pt" for name in ("target", *rounds)]
        trained = [path for path in paths if path.exists()]
        if self.warm_start is not None and not trained:
            return load_warm_start(self.warm_start)
        model = Llama(self.config.target)
        load_weights(trained[-1] if trained else paths[0], model)
        return model

    def shape_of(self, name: str) -> ModelShape:
        """Return the sizes of a drafter."""
        return next(one.shape for one in self.config.drafters if one.name == name)

    def load_drafter(self, name: str) -> Llama:
        """Return a drafter as far as it is trained."""
        model = Llama(self.shape_of(name))
        distilled = self.checkpoints / f"{name}-distilled.pt"
        load_weights(distilled if distilled.exists() else self.checkpoints / f"{name}.pt", model)
        return model

    def gguf_path(self, name: str, model: Llama) -> Path:
        """Return the path of a network's GGUF file."""
        settings = self.config.export
        type_name = settings.target_type if name == "target" else settings.drafter_type
        num_parameters = sum(values.numel() for values in model.parameters())
        return self.out / file_name(name, num_parameters, type_name)
