"""Template: a role's prompt. The template may name special tokens; what is filled into it never becomes one."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from typing import Protocol

from lorid_engine.errors import PackError

PLACEHOLDERS = ("question", "knowledge")
_PLACEHOLDER = re.compile(r"\{(" + "|".join(PLACEHOLDERS) + r")\}")
_NAMED = re.compile(r"\{([A-Za-z_]\w*)\}")


class PromptTokenizer(Protocol):
    """What a template needs of a tokenizer."""

    special_ids: dict[str, int]
    bos_prefix: list[int]

    def encode_plain(self, text: str) -> list[int]:
        """Plain text as ids."""


class Template:
    """A prompt with the placeholders {question} and {knowledge}, filled in one pass; other braces are characters.

    Raises:
        PackError: a placeholder of another name.
    """

    def __init__(self, text: str) -> None:
        for match in _NAMED.finditer(text):
            if match[1] not in PLACEHOLDERS:
                known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
                raise PackError(f"a prompt has the placeholder {match[0]}; known: {known}")
        self.text = text
        self._parts = _PLACEHOLDER.split(text)  # literal, name, literal, name, ..., literal

    @property
    def placeholders(self) -> frozenset[str]:
        """The names that the template fills."""
        return frozenset(self._parts[1::2])

    def encode(self, tokenizer: PromptTokenizer, **values: str) -> list[int]:
        """The prompt's token ids.

        The special tokens of the template's own text become ids; the text between two of them, values included, is encoded
        as one plain string, as in training.
        """
        return self.joined(tokenizer, self.pieces(tokenizer, **values), tokenizer.encode_plain)

    def pieces(self, tokenizer: PromptTokenizer, **values: str) -> list[int | str]:
        """The prompt as ids of special tokens and, between them, texts to be encoded."""
        pieces: list[int | str] = []
        run = ""
        for place, part in enumerate(self._parts):
            if place % 2:
                run += values[part]
                continue
            for number, piece in enumerate(_split(frozenset(tokenizer.special_ids), part)):
                if number % 2:
                    pieces += [run] if run else []
                    pieces.append(tokenizer.special_ids[piece])
                    run = ""
                else:
                    run += piece
        return [*pieces, run] if run else pieces

    @staticmethod
    def joined(
        tokenizer: PromptTokenizer, pieces: Iterable[int | str], encode: Callable[[str], list[int]]
    ) -> list[int]:
        """The ids of such pieces, after the prefix that the tokenizer adds by itself."""
        ids: list[int] = []
        for piece in pieces:
            ids += [piece] if isinstance(piece, int) else encode(piece)
        prefix = tokenizer.bos_prefix
        return ids if ids[: len(prefix)] == prefix else prefix + ids


@functools.lru_cache(maxsize=256)
def _split(special: frozenset[str], text: str) -> tuple[str, ...]:
    """A template's text cut at the names of special tokens: text, name, text, ..."""
    names = sorted(special, key=len, reverse=True)
    return tuple(re.split("(" + "|".join(map(re.escape, names)) + ")", text)) if names else (text,)
