"""Limits that keep reading and comparing answers to a few milliseconds, whatever the text."""

from __future__ import annotations

MAX_STRUCTURED_CHARS = 1000  # longer answers are compared as plain numbers or as text
MAX_DEPTH = 24  # of nested brackets; each level costs about six Python frames
MAX_ITEMS = 40  # of one list or set: sets are compared item by item
MAX_DIGITS = 4000  # of a number that takes part in arithmetic
MAX_BITS = 14000  # of a numerator or denominator: a little over MAX_DIGITS digits
MAX_EXPONENT = 64  # of a sum of several terms
MAX_ROOT = 12  # index of a root
MAX_KEY_CHARS = 20_000  # of the name of what stands under a root or in a function; names nest
WORK_PER_ANSWER = 1000  # about 10 us each; spent on reading either answer, and again on comparing


class Refused(Exception):
    """The text is not of the form tried, or a limit was reached; the caller falls back to a plainer form."""


class Budget:
    """Units of work left for one answer or one comparison."""

    def __init__(self, units: int = WORK_PER_ANSWER) -> None:
        self.units = units

    def spend(self, units: int) -> None:
        """Take units of work.

        Raises:
            Refused: none are left.
        """
        self.units -= units
        if self.units < 0:
            raise Refused("too much work")
