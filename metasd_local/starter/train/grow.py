"""A larger network that begins as a smaller one: equal outputs, room to learn.

Owns the mapping of weights between shapes; must not train or know about files.
Source: Net2Net, arXiv 1511.05641, with bert2BERT's idea of growing in depth too, arXiv 2110.07143.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from metasd_local.starter.train.config import ModelShape, SettingsError
from metasd_local.starter.train.model import Block, Llama

NEW_SHARE = 0.1
"""Standard deviation of the new columns of the embeddings, as a share of the old ones'."""


def grow(small: Llama, shape: ModelShape) -> Llama:
    """Return a network of the shape with the outputs of the small one, but for rounding.

    Added units read at random and write nothing yet. Raises: SettingsError when a size would
    shrink or the size of a head change.
    """
    _check(small.shape, shape)
    large = Llama(shape)
    old = small.shape.hidden_size
    wider = (shape.hidden_size / old) ** 0.5
    with torch.no_grad():
        table = small.token_embd.weight
        large.token_embd.weight.mul_(NEW_SHARE * table.std() / large.token_embd.weight.std())
        large.token_embd.weight[:, :old] = table
        if not shape.tied_embeddings:
            head = table if small.shape.tied_embeddings else small.output.weight
            large.output.weight.zero_()[:, :old] = head
        _scale(large.output_norm.weight, small.output_norm.weight, wider)
        seen = -1
        for index, block in enumerate(large.blk):
            source = index * len(small.blk) // len(large.blk)
            _grow_block(small.blk[source], block, wider, writes=source != seen)
            seen = source
    return large


def _check(old: ModelShape, new: ModelShape) -> None:
    sizes = ("vocab_size", "num_layers", "hidden_size", "num_heads", "intermediate_size")
    shrunk = [size for size in sizes if getattr(new, size) < getattr(old, size)]
    same_heads = old.hidden_size // old.num_heads == new.hidden_size // new.num_heads
    untied_only = old.tied_embeddings or not new.tied_embeddings
    if shrunk or not same_heads or not untied_only:
        raise SettingsError(
            f"{old} cannot grow into {new}; no size may shrink, the size of a head must stay, "
            "and untied embeddings cannot be tied"
        )


def _grow_block(small: Block, block: Block, wider: float, *, writes: bool) -> None:
    for norm in ("attn_norm", "ffn_norm"):
        _scale(getattr(block, norm).weight, getattr(small, norm).weight, wider)
    for name, large_matrix, small_matrix in _matrices(small, block):
        rows, columns = small_matrix.shape
        if name in ("attn_output", "ffn_down"):
            large_matrix.zero_()
            if writes:
                large_matrix[:rows, :columns] = small_matrix
        else:
            large_matrix[:rows].zero_()
            large_matrix[:rows, :columns] = small_matrix


def _matrices(small: Block, block: Block) -> Iterator[tuple[str, Tensor, Tensor]]:
    sources = dict(small.named_parameters())
    for name, values in block.named_parameters():
        if values.ndim == 2:
            yield name.removesuffix(".weight"), values, sources[name]


def _scale(values: Tensor, source: Tensor, wider: float) -> None:
    """Make up for the zeros that the added columns bring into the root mean square."""
    values.fill_(float(source.mean()) / wider)
    values[: len(source)] = source / wider
