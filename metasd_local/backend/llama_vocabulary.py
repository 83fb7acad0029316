"""The vocabulary of a GGUF file, by llama.cpp's own tokeniser."""

from __future__ import annotations

import ctypes
import re

from llama_cpp import llama_cpp as api

from metasd_local.errors import BackendError

_PIECE_BYTES = 256
_SENTENCE_PIECE, _BYTE_PAIR_ENCODING = 1, 2
_RUN = re.compile(r"\S+|\s+")
_MAX_RUN = 4000


class LlamaVocabulary:
    """Tokenise and detokenise; dies with the weights it was read from.

    `type`, `adds_bos`, `bos`, `adds_eos`, `eos`, `size` and `text` are what llama.cpp compares
    to tell whether a drafter fits a target. `bos` and `eos` are None if the file has none.
    """

    def __init__(self, pointer: int) -> None:
        self._pointer: int | None = pointer
        # Asked for every emitted token; the library's own answer costs microseconds.
        self._pieces: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}
        self._buffer = ctypes.create_string_buffer(_PIECE_BYTES)
        self.type = int(api.llama_vocab_type(pointer))
        self.size = int(api.llama_vocab_n_tokens(pointer))
        self.adds_bos = bool(api.llama_vocab_get_add_bos(pointer))
        self.adds_eos = bool(api.llama_vocab_get_add_eos(pointer))
        self.bos = self._token_or_none(api.llama_vocab_bos(pointer))
        self.eos = self._token_or_none(api.llama_vocab_eos(pointer))

    def encode(self, text: str, *, special: bool, continues: bool = False) -> list[int]:
        """Tokenise `text`; texts of control tokens become those tokens only if `special`.

        Nothing is added at the beginning or the end, but a file may ask for a space before the
        first word of a text, unless it `continues` another. Characters that UTF-8 cannot hold
        become question marks. Raises BackendError if `special` and a run without white space, or
        of nothing else, exceeds 4000 characters.
        """
        pointer = self._alive()
        if continues and self.type == _SENTENCE_PIECE:
            # Where spaces are added a newline is a byte, which nothing is ever joined to.
            before = _tokenise(pointer, "\n", special=False)
            tokens = _tokenise(pointer, "\n" + text, special=special)
            if tokens[: len(before)] == before:
                return tokens[len(before) :]
        tokens = []
        for part in self._parts(text, special=special):
            tokens += _tokenise(pointer, part, special=special)
        return tokens

    def piece(self, token: int) -> bytes:
        """Return the bytes a token adds to the text; empty for control tokens."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._read_piece(token)
        return piece

    def is_end(self, token: int) -> bool:
        """Tell whether the token ends a generation."""
        is_end = self._ends.get(token)
        if is_end is None:
            is_end = bool(api.llama_vocab_is_eog(self._alive(token), token))
            self._ends[token] = is_end
        return is_end

    def text(self, token: int) -> str:
        """Return a token's entry in the vocabulary, also of control tokens.

        Bytes that are not UTF-8 become surrogates, so different entries stay different.
        """
        raw: bytes = api.llama_vocab_get_text(self._alive(token), token)
        return raw.decode("utf-8", "surrogateescape")

    def close(self) -> None:
        """Refuse all further calls: the memory behind them is about to go."""
        self._pointer = None
        self._pieces.clear()
        self._ends.clear()

    def _parts(self, text: str, *, special: bool) -> list[str]:
        """Cut runs so long that the regular expressions of some tokenisers exhaust the stack."""
        if len(text) <= _MAX_RUN or self.type != _BYTE_PAIR_ENCODING:
            return [text]
        cuts = [
            cut
            for run in _RUN.finditer(text)
            for cut in range(run.start() + _MAX_RUN, run.end(), _MAX_RUN)
        ]
        if cuts and special:
            # A cut could fall into the text of a control token.
            raise BackendError(
                f"a text with control tokens has a run of more than {_MAX_RUN} characters; "
                "expected spaces and words in turn: shorten the chat template's text"
            )
        return [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]

    def _read_piece(self, token: int) -> bytes:
        pointer = self._alive(token)
        buffer = self._buffer
        count = api.llama_token_to_piece(pointer, token, buffer, _PIECE_BYTES, 0, False)
        if count < 0:
            buffer = ctypes.create_string_buffer(-count)
            count = api.llama_token_to_piece(pointer, token, buffer, -count, 0, False)
        return buffer.raw[:count]

    def _token_or_none(self, token: int) -> int | None:
        return token if 0 <= token < self.size else None

    def _alive(self, token: int = 0) -> int:
        # llama.cpp ends the process when it is asked for the text of an id it does not have.
        if self._pointer is None:
            raise BackendError("the vocabulary's weights are closed; open the model again")
        if not 0 <= token < self.size:
            raise BackendError(
                f"token id {token} is not in the vocabulary; expected 0..{self.size - 1}"
            )
        return self._pointer


def _tokenise(pointer: int, text: str, *, special: bool) -> list[int]:
    raw = text.encode("utf-8", "replace")
    room = len(raw) + 16
    while True:
        tokens = (api.llama_token * room)()
        count = api.llama_tokenize(pointer, raw, len(raw), tokens, room, False, special)
        if count >= 0:
            return list(tokens[:count])
        if -count <= room:
            raise BackendError(
                f"llama.cpp cannot tokenise a text of {len(raw)} bytes; shorten the text"
            )
        room = -count
