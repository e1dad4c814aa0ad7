"""Decimal literals of any length, kept as digits and a power of ten."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from lorid_engine.solver.answers.bounds import MAX_DIGITS, Refused

_LITERAL = re.compile(r"([+-]?) ?(?:([0-9]+)(?:\.([0-9]*))?|\.([0-9]+))(?:[eE]([+-]?[0-9]{1,18}))?", re.ASCII)
_CHUNK = 500  # digits per int(): Python may be told to refuse more than 640 digits at once


@dataclass(frozen=True)
class Literal:
    """sign * digits * 10 ** exponent in its one canonical form: digits has no zero at either end, and is "" for zero."""

    sign: int
    digits: str
    exponent: int

    def fraction(self) -> Fraction:
        """The exact value.

        Raises:
            Refused: it has more than MAX_DIGITS digits.
        """
        if len(self.digits) + abs(self.exponent) > MAX_DIGITS:
            raise Refused("too many digits")
        value = Fraction(self.sign * integer(self.digits))
        power = integer("1" + "0" * abs(self.exponent))
        return value * power if self.exponent >= 0 else value / power


def integer(digits: str) -> int:
    """int(digits) without Python's limit on the length of a literal."""
    value = 0
    for start in range(0, len(digits), _CHUNK):
        chunk = digits[start : start + _CHUNK]
        value = value * 10 ** len(chunk) + int(chunk)
    return value


def parse_literal(text: str) -> Literal | None:
    """Read "-12.50" or "1.2e3", of any length, in linear time; None where text is anything else."""
    match = _LITERAL.fullmatch(text)
    if match is None:
        return None
    sign, whole, part, bare_part, power = match.groups()
    part = (part if whole is not None else bare_part) or ""
    digits = ((whole or "") + part).lstrip("0")
    stripped = digits.rstrip("0")
    if not stripped:
        return Literal(0, "", 0)
    exponent = int(power or 0) - len(part) + len(digits) - len(stripped)
    return Literal(-1 if sign == "-" else 1, stripped, exponent)


def terminates(value: Fraction) -> bool:
    """Whether value has a finite decimal expansion.

    >>> terminates(Fraction(1, 40)), terminates(Fraction(1, 3))
    (True, False)
    """
    denominator = value.denominator
    # 10 ** bits is divisible by every 2 ** j * 5 ** k that fits in the denominator.
    return pow(10, denominator.bit_length(), denominator) == 0 if denominator > 1 else True
