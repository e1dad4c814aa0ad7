"""PagePool: the KV pages' reference counts, and which pages hold a prefix that a new sequence can share."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

PAGE_SIZE = 16


def chain_hash(before: bytes, tokens: Sequence[int]) -> bytes:
    """Names a full page by everything up to its end: the adapter at the root, then each page's tokens."""
    return hashlib.sha256(before + b"".join(token.to_bytes(4, "little") for token in tokens)).digest()


class PagePool:
    """Pages 0 to num_pages - 1. A page without references stays filled until it is needed, least recently used first."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self.reset()

    def reset(self) -> None:
        """Makes every page blank and unheld, whatever half-done change came before."""
        num_pages = self.num_pages
        self._references = [0] * num_pages
        self._hash_of: dict[int, bytes] = {}
        self._page_of: dict[bytes, int] = {}
        self._blank = list(range(num_pages - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()  # no references, content worth keeping; oldest first

    @property
    def num_free(self) -> int:
        """Pages that can be taken now, cached ones included."""
        return len(self._blank) + len(self._cached)

    @property
    def num_cached(self) -> int:
        """Pages without references that still hold a prefix."""
        return len(self._cached)

    def references(self, page: int) -> int:
        """How many sequences hold the page."""
        return self._references[page]

    def take(self) -> int | None:
        """A page for new content, held once; None when every page is held."""
        if self._blank:
            page = self._blank.pop()
        elif self._cached:
            page, _ = self._cached.popitem(last=False)
            self._forget(page)
        else:
            return None
        self._references[page] = 1
        return page

    def share(self, page: int) -> None:
        """One more holder of a page."""
        if self._references[page] == 0:
            del self._cached[page]
        self._references[page] += 1

    def release(self, page: int) -> None:
        """One holder less."""
        assert self._references[page] > 0
        self._references[page] -= 1
        if self._references[page] == 0:
            if page in self._hash_of:
                self._cached[page] = None
            else:
                self._blank.append(page)

    def register(self, page: int, name: bytes) -> None:
        """States that a held page is full and what it holds; the first page of a name is the one that is shared."""
        if name not in self._page_of and page not in self._hash_of:
            self._page_of[name] = page
            self._hash_of[page] = name

    def find(self, name: bytes) -> int | None:
        """The page of this name, if there is one."""
        return self._page_of.get(name)

    def _forget(self, page: int) -> None:
        del self._page_of[self._hash_of.pop(page)]
