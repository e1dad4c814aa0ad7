"""Sequence: one sample of one request, its tokens, and the pages that hold their keys and values."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from lorid_engine.engine.pages import PAGE_SIZE, PagePool, chain_hash
from lorid_engine.engine.request import Logprob, Request
from lorid_engine.engine.text import TextStream
from lorid_engine.errors import LoridError


def philox_key(seed: int, key: bytes) -> int:
    """The 64-bit key of a request's draws: the first 8 bytes of SHA-256(seed as 8 bytes little endian, key)."""
    return int.from_bytes(hashlib.sha256(seed.to_bytes(8, "little") + key).digest()[:8], "little")


@dataclass(eq=False)
class Group:
    """A request in the engine with its samples."""

    request: Request
    request_id: str
    prompt: str | None
    prompt_ids: tuple[int, ...]
    slot: int
    root: bytes  # names the adapter's load in page hashes
    key: int
    arrival: int
    sequences: list[Sequence] = field(default_factory=list)
    cached_tokens: int = 0
    error: LoridError | None = None

    @property
    def finished(self) -> bool:
        """Whether every sample has ended."""
        return all(sequence.finish_reason is not None for sequence in self.sequences)


@dataclass(eq=False)
class Sequence:
    """A sample. Its tokens are the prompt and what was drawn; the first `computed` of them are in its pages.

    `taken` of the drawn tokens are taken in whole: their text, log-probabilities and what ends the sample are done.
    """

    group: Group
    index: int
    tokens: list[int]
    stream: TextStream
    computed: int = 0
    taken: int = 0
    waits_for_prompt: bool = False  # samples 1 to n - 1, until sample 0 has the prompt in pages
    pages: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    table: np.ndarray = field(default_factory=lambda: np.full(8, -1, np.int32))
    _hashes: list[bytes] = field(default_factory=list)

    @property
    def order(self) -> tuple[int, int, int]:
        """Who runs first: priority, then arrival, then sample."""
        return (self.group.request.priority, self.group.arrival, self.index)

    @property
    def remaining(self) -> int:
        """Tokens that are not in pages yet; 1 while decoding."""
        return len(self.tokens) - self.computed

    @property
    def output_ids(self) -> list[int]:
        """What was drawn."""
        return self.tokens[len(self.group.prompt_ids) :]

    def page_hash(self, page: int) -> bytes:
        """Names full page number `page` of this sequence by its content."""
        while len(self._hashes) <= page:
            begin = len(self._hashes) * PAGE_SIZE
            before = self._hashes[-1] if self._hashes else self.group.root
            self._hashes.append(chain_hash(before, self.tokens[begin : begin + PAGE_SIZE]))
        return self._hashes[page]

    def add_page(self, page: int) -> None:
        """Appends a page that the caller holds for this sequence."""
        if len(self.pages) == len(self.table):
            self.table = np.concatenate([self.table, np.full_like(self.table, -1)])
        self.table[len(self.pages)] = page
        self.pages.append(page)

    def replace_last_page(self, page: int) -> None:
        """Swaps in a copy of the last page."""
        self.pages[-1] = page
        self.table[len(self.pages) - 1] = page

    def drop_pages(self, pool: PagePool) -> None:
        """Gives all pages back; the tokens stay and are computed again when the sequence next runs."""
        while self.pages:  # the tail is reused first: a prefix is worth more
            pool.release(self.pages.pop())
        self.table.fill(-1)
        self.computed = 0

    def rewind(self) -> None:
        """Forgets its pages and what is not taken in whole, which is drawn again, alike: a draw depends on its position."""
        self.pages.clear()
        self.table.fill(-1)
        self.computed = 0
        del self.tokens[len(self.group.prompt_ids) + self.taken :]
        del self.logprobs[self.taken :]
        self.stream = self.stream.replay(self.output_ids)
