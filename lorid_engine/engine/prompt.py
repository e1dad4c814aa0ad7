"""PromptReader: from what a request gives to token ids that the model can take."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Protocol

from lorid_engine.engine.pages import PAGE_SIZE
from lorid_engine.engine.tokenizer import Tokenizer
from lorid_engine.errors import CapacityError, RequestError


class Context(Protocol):
    """What a prompt must fit into."""

    @property
    def vocab_size(self) -> int:
        """How many tokens the model knows."""

    @property
    def max_positions(self) -> int:
        """The longest context, in tokens."""


@dataclass(frozen=True)
class PromptReader:
    """Reads prompts for one model and its KV pages."""

    tokenizer: Tokenizer
    context: Context
    num_pages: int

    def read(self, prompt: str | Sequence[int]) -> list[int]:
        """The prompt's token ids.

        Raises:
            RequestError: it is no prompt, is empty, or leaves no room in the context for an answer.
            CapacityError: it needs more KV pages than there are.
        """
        if isinstance(prompt, str):
            self.require_room(prompt)
            ids = self.tokenizer.encode(prompt)
        else:
            ids = _token_ids(prompt)
        wrong = next((token for token in ids if not 0 <= token < self.context.vocab_size), None)
        if wrong is not None:
            made = (
                ", which the tokenizer made of the text and the model does not know" if isinstance(prompt, str) else ""
            )
            raise RequestError(f"token ids must be from 0 to {self.context.vocab_size - 1}; got {wrong}{made}")
        if not ids:
            raise RequestError("the prompt is empty; give at least one token")
        if len(ids) >= self.context.max_positions:
            raise RequestError(
                f"the prompt has {len(ids)} tokens; the context of {self.context.max_positions} leaves no room for an answer"
            )
        pages = -(-(len(ids) + 1) // PAGE_SIZE)
        if pages > self.num_pages:
            raise CapacityError(
                f"the prompt has {len(ids)} tokens and needs {pages} KV pages; there are {self.num_pages} in all: "
                "raise kv_memory"
            )
        return ids

    def require_room(self, text: str) -> None:
        """Raises RequestError if a text cannot fit into the context whatever its tokens are, without encoding it."""
        least = self.tokenizer.least_tokens(text)
        if least >= self.context.max_positions:
            raise RequestError(
                f"the text has {len(text)} characters, at least {least} tokens; the context of "
                f"{self.context.max_positions} leaves no room for an answer"
            )


def _token_ids(prompt: object) -> list[int]:
    if isinstance(prompt, bytes | bytearray | Mapping | Set) or not isinstance(prompt, Iterable):
        raise RequestError(f"a prompt must be text or a list of token ids; got {type(prompt).__name__}")
    ids = list(prompt)
    wrong = next((token for token in ids if not isinstance(token, numbers.Integral) or isinstance(token, bool)), None)
    if wrong is not None:
        raise RequestError(f"a prompt must be text or a list of token ids; got {wrong!r} in it")
    return [int(token) for token in ids]
