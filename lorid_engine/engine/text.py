"""TextStream: a sample's text as it grows, and where a stop string ends it."""

from __future__ import annotations

from collections.abc import Sequence

from lorid_engine.engine.tokenizer import Tokenizer


class TextStream:
    """Collects a sample's text token by token and looks for stop strings in the new part only.

    Attributes:
        text: everything certain so far, cut at a stop string once one was found.
        stopped_by: the stop string that was found.
    """

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...], *, keep_stop: bool) -> None:
        self._tokenizer, self._stop, self._keep_stop = tokenizer, stop, keep_stop
        self._decoder = tokenizer.stream()
        self._longest = max(map(len, stop), default=0)
        self._ids: list[int] = []
        self.text = ""
        self.stopped_by: str | None = None

    def push(self, token_id: int) -> None:
        """Adds a token."""
        self._ids.append(token_id)
        self._append(self._decoder.push(token_id))

    def replay(self, token_ids: Sequence[int]) -> TextStream:
        """A new stream of the same kind that has taken these tokens."""
        stream = TextStream(self._tokenizer, self._stop, keep_stop=self._keep_stop)
        for token_id in token_ids:
            stream.push(token_id)
        return stream

    def finish(self) -> None:
        """Adds what was held back as half a character, if the sample ends there."""
        if self.stopped_by is None:
            whole = self._tokenizer.decode(self._ids)
            if whole.startswith(self.text):
                self._append(whole[len(self.text) :])

    def _append(self, piece: str) -> None:
        if not piece:
            return
        start = max(0, len(self.text) - self._longest + 1)
        self.text += piece
        # The string that is complete first wins; of those that end together, the one that begins first.
        found = [(at + len(stop), at, stop) for stop in self._stop if (at := self.text.find(stop, start)) >= 0]
        if found:
            end, begin, self.stopped_by = min(found)
            self.text = self.text[: end if self._keep_stop else begin]

    def visible(self) -> str:
        """The text without an end that could be the beginning of a stop string."""
        if self.stopped_by is not None:
            return self.text
        for length in range(min(self._longest - 1, len(self.text)), 0, -1):
            tail = self.text[-length:]
            if any(stop.startswith(tail) for stop in self._stop):
                return self.text[:-length]
        return self.text
