"""The tokeniser: byte-level BPE as llama.cpp's `gpt-2` pre-tokenisation reads it.

Owns the tokeniser's training only.
"""

from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from metasd_local.starter.train.config import Config
from metasd_local.starter.train.data import SPECIAL_TOKENS
from metasd_local.starter.train.records import find_domains, is_held_out, read_records


def train_tokenizer(config: Config, folder: Path) -> Tokenizer:
    """Train on an equal number of bytes of every file, held-out records left out.

    The special tokens get ids 0 to 4 in the order of SPECIAL_TOKENS.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.target.vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(config, folder), trainer)
    return tokenizer


def _texts(config: Config, folder: Path) -> Iterator[str]:
    for name in find_domains(folder):
        num_bytes = 0
        for record in read_records(folder, name):
            if is_held_out(record):
                continue
            yield record.prompt
            yield record.response
            num_bytes += len(record.prompt.encode()) + len(record.response.encode())
            if num_bytes >= config.tokenizer_bytes:
                break
