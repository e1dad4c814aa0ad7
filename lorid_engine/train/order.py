"""The order in which a role sees its examples: a function of (seed, role, epoch) alone, so that a run can stop anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

_WINDOW = 16  # batches whose examples are sorted by length together


def key64(*parts: object) -> int:
    """64 bits that depend on all parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little")


class ExampleOrder:
    """Shuffled, length-bucketed batches of one role.

    An epoch shuffles the examples, sorts them by length within windows of some batches, cuts batches, and shuffles those: a
    batch has examples of much the same length, and every example comes once an epoch. The last batch may be smaller.

    Args:
        lengths: of the examples, in tokens.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, epochs: int, seed: int, role: str) -> None:
        self._lengths = np.asarray(lengths)
        self._size, self._seed, self._role = batch_size, seed, role
        self.steps_per_epoch = -(-len(lengths) // batch_size)
        self.steps = self.steps_per_epoch * epochs
        self._epoch, self._batches = -1, [np.zeros(0, np.int64)]

    def batch(self, step: int) -> np.ndarray:
        """Positions of the examples of a step, from 0."""
        epoch = step // self.steps_per_epoch
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._cut(epoch)
        return self._batches[step % self.steps_per_epoch]

    def _cut(self, epoch: int) -> list[np.ndarray]:
        random = np.random.Generator(np.random.Philox(key=key64("order", self._seed, self._role, epoch)))
        order = random.permutation(len(self._lengths))
        batches: list[np.ndarray] = []
        for start in range(0, len(order), self._size * _WINDOW):
            window = order[start : start + self._size * _WINDOW]
            window = window[np.argsort(self._lengths[window], kind="stable")]
            batches += [window[i : i + self._size] for i in range(0, len(window), self._size)]
        return [batches[i] for i in random.permutation(len(batches))]
