"""Tokenizer: a checkpoint's tokenizer, with text from users and models encoded as plain characters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders
from tokenizers.decoders import DecodeStream

from lorid_engine.errors import CheckpointError


class Detokenizer:
    """Turns tokens into text one by one; what may still change (half a character) is held back."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def push(self, token_id: int) -> str:
        """The text that this token made certain, often a word, sometimes nothing."""
        return self._stream.step(self._tokenizer, token_id) or ""


class Tokenizer:
    """A fast tokenizer. Special tokens are never made from text: "<|im_end|>" inside a question is ten characters.

    Attributes:
        special_ids: id of each special token, by its text; for templates, which may ask for them.
        bos_prefix: ids that the tokenizer puts before any text by itself.
        eos_token_id: the checkpoint's end-of-text token, or None.
    """

    def __init__(
        self, rust: tokenizers.Tokenizer, special_ids: dict[str, int], eos_token_id: int | None = None
    ) -> None:
        self._rust = rust
        self._rust.encode_special_tokens = True
        self._rust.no_truncation()
        self._rust.no_padding()
        self.special_ids = special_ids
        self.eos_token_id = eos_token_id
        self.bos_prefix = _shared_prefix(self._rust)
        self._longest_token = max(map(len, self._rust.get_vocab()), default=1)

    @classmethod
    def from_folder(cls, folder: Path | str) -> Tokenizer:
        """Reads a checkpoint's tokenizer; no code of the checkpoint is run, nothing is fetched.

        Raises:
            CheckpointError: there is none, or it has no fast form.
        """
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        if not Path(folder).is_dir():
            raise CheckpointError(f"there is no folder {folder}")
        try:
            loaded = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        except Exception as error:  # the library raises many kinds for a missing or damaged file
            raise CheckpointError(f"{folder} has no tokenizer that can be read: {error}") from error
        if not isinstance(loaded, PreTrainedTokenizerFast):
            raise CheckpointError(f"{folder} has no fast tokenizer (tokenizer.json)")
        special = {token.content: id for id, token in loaded.added_tokens_decoder.items() if token.special}
        rust = tokenizers.Tokenizer.from_str(loaded.backend_tokenizer.to_str())
        return cls(rust, special, loaded.eos_token_id)

    def encode(self, text: str) -> list[int]:
        """Plain text as ids, after the prefix that the tokenizer adds by itself."""
        return self.bos_prefix + self.encode_plain(text)

    def least_tokens(self, text: str) -> int:
        """A lower bound of a text's tokens, told at once; 0 unless every byte of a text goes into some token."""
        keeps_bytes = self._rust.normalizer is None and isinstance(self._rust.decoder, decoders.ByteLevel)
        return len(text) // self._longest_token if keeps_bytes else 0

    def encode_plain(self, text: str) -> list[int]:
        """Plain text as ids, nothing added. A lone surrogate, which no UTF-8 text has, becomes a question mark."""
        return self._rust.encode(_utf8(text), add_special_tokens=False).ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """encode_plain of each text, on all cores."""
        found = self._rust.encode_batch_fast([_utf8(text) for text in texts], add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        return self._rust.decode(list(ids), skip_special_tokens=True)

    def token(self, token_id: int) -> str:
        """One token's text, as far as it has one of its own."""
        return self._rust.decode([token_id], skip_special_tokens=False)

    def stream(self) -> Detokenizer:
        """A new incremental decoder."""
        return Detokenizer(self._rust)


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _shared_prefix(rust: tokenizers.Tokenizer) -> list[int]:
    """What the post-processor puts before a text: the ids before a probe's own."""
    with_added, plain = (rust.encode("a", add_special_tokens=added).ids for added in (True, False))
    for start in range(len(with_added) - len(plain) + 1):
        if with_added[start : start + len(plain)] == plain:
            return with_added[:start]
    return []
