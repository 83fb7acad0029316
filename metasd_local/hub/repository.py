"""Names of repositories on the Hub and of the model files in them; opens nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from metasd_local.errors import UsageError
from metasd_local.model_files import part_names
from metasd_local.options import nearest_hint

DEFAULT_QUANTISATION = "Q4_K_M"

# Source: huggingface_hub, utils/_validators.py.
_REPOSITORY = re.compile(
    r"(?!.*(?:\.\.|--|\.git$))(?=.{3,96}$)[A-Za-z0-9][\w.-]*/[A-Za-z0-9](?:[\w.-]*\w)?", re.ASCII
)
_QUANTISATION = re.compile(
    r"(?<![A-Za-z0-9])(?:UD-)?"
    r"(?:I?Q\d+(?:_(?:K|\d+|NL|XXS|XS|S|M|L|XL))*|TQ\d_\d|BF16|F(?:P)?(?:16|32)|MXFP4(?:_MOE)?)"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class HubFile:
    """A model's file in a repository of the Hugging Face Hub."""

    repo: str
    """As in user/repo."""
    name: str
    """Inside the repository, with its folders; of a split model the first part."""
    revision: str = "main"
    size_bytes: int | None = None
    """Of all parts together; None where nobody wrote it down."""
    sha256: str | None = None
    """Of a file that is not split."""

    def __str__(self) -> str:
        """Return it as it can be typed."""
        return f"{self.repo}/{self.name}"


@dataclass(frozen=True, slots=True)
class RepositoryText:
    """What a user typed for a model on the Hub: a file's name or, failing that, a quantisation."""

    repo: str
    name: str | None = None
    quantisation: str | None = None


def parse_repository(text: str) -> RepositoryText | None:
    """Return what `user/repo[:QUANT]` or `user/repo/file.gguf` means; None for anything else."""
    user, _, rest = text.partition("/")
    repository, slash, name = rest.partition("/")
    if slash and not (name.lower().endswith(".gguf") and is_inside(name)):
        return None
    quantisation = None
    if not slash and ":" in repository:
        repository, _, quantisation = repository.partition(":")
    repo = f"{user}/{repository}"
    if not _REPOSITORY.fullmatch(repo) or repository.lower().endswith(".gguf"):
        return None
    return RepositoryText(repo, name or None, quantisation or None)


def is_inside(name: str) -> bool:
    """Tell whether a file name stays in the folder it is put in, on any system."""
    segments = {*name.split("/")}
    return name.isprintable() and not {"", ".", ".."} & segments and not {*"\\:"} & {*name}


def is_model(name: str) -> bool:
    """Tell whether a file is a model, or the first part of one; projectors and matrices are not."""
    base = PurePosixPath(name).name.lower()
    return (
        base.endswith(".gguf")
        and "mmproj" not in base
        and not ("imatrix" in base and quantisation_of(name) is None)
        and name == part_names(name)[0]
    )


def quantisation_of(name: str) -> str | None:
    """Return the quantisation that a file's name, or else its folder's, ends with."""
    path = PurePosixPath(name)
    for text in (path.name, path.parent.name):
        if found := _QUANTISATION.findall(text):
            return str(found[-1]).upper()
    return None


def matching_models(
    names: Iterable[str], quantisation: str | None, *, is_exact: bool = False
) -> list[str]:
    """Return the models of a quantisation; without one, those of the default, or else all.

    is_exact: leave out variants of it, and do without "or else".
    """
    models = {name: quantisation_of(name) or "" for name in sorted(names) if is_model(name)}
    wanted = (quantisation or DEFAULT_QUANTISATION).upper()
    exact = [name for name, tag in models.items() if tag == wanted]
    if is_exact:
        return exact
    found = exact or [name for name, tag in models.items() if tag.removeprefix("UD-") == wanted]
    return found or (list(models) if quantisation is None else [])


def choose_model(repo: str, names: Iterable[str], quantisation: str | None) -> str:
    """Return the only model that matches. Raise UsageError, which lists what there is."""
    models = sorted(name for name in names if is_model(name))
    if not models:
        raise UsageError(f"{repo} has no .gguf model; name a repository of GGUF files")
    found = matching_models(models, quantisation)
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{repo} has several models; say which: {_listed(repo, found)}")
    tags = {tag for name in models if (tag := quantisation_of(name))}
    hint = nearest_hint(str(quantisation).upper(), sorted(tags))
    raise UsageError(f"{repo} has no {quantisation}{hint} (models: {_listed(repo, models)})")


def _listed(repo: str, models: Sequence[str]) -> str:
    """Return what to type for each model."""
    tags = [quantisation_of(name) for name in models]
    return ", ".join(
        f"{repo}:{tag}" if tag and tags.count(tag) == 1 else f"{repo}/{name}"
        for name, tag in zip(models, tags, strict=True)
    )
