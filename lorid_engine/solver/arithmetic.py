"""Arithmetic as a rationale writes it, `3 boxes * $12.50/box`: what the last of a line comes to, exactly. Nothing is run."""

from __future__ import annotations

import re
from fractions import Fraction

LONGEST = 160  # characters that are looked at
MOST_DIGITS = 15  # of a number, and of a value before its point
MOST_DECIMALS = 4  # of a value
MOST_BRACKETS = 16
_OPERATORS = {
    "+": "+",
    "-": "-",
    "\N{MINUS SIGN}": "-",
    "\N{EN DASH}": "-",
    "*": "*",
    "x": "*",
    "\N{MULTIPLICATION SIGN}": "*",
    "of": "*",
    "/": "/",
    "\N{DIVISION SIGN}": "/",
}
_PARTS = re.compile(
    r"(?P<space>\ +)"
    r"|(?P<number>\$?\ ?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?|\$?\.\d+)(?P<percent>\ ?%)?"
    r"|(?P<unit>[/-](?=[^\W\d]))"  # dollars/hour, a 5-pound bag: no operation
    r"|(?P<operator>[-+*/\N{MINUS SIGN}\N{EN DASH}\N{MULTIPLICATION SIGN}\N{DIVISION SIGN}]|x(?!-?[^\W\d]))"
    r"|(?P<bracket>[()])"
    r"|(?P<word>[^\W\d]\w*)"
    r"|(?P<odd>[\^\\|!]|(?<=\d):(?=\d))"  # powers, times of day: what follows is no number by itself
    r"|(?P<other>.)",
    re.DOTALL,
)
# Words that change the number after them, and what may stand between.
_SCALING = {"half", "third", "thirds", "quarter", "quarters", "fourth", "fourths", "fifth", "fifths", "tenth", "tenths"}
_SCALING |= {"twice", "thrice", "double", "triple", "minus", "plus", "times", "negative"}
_BETWEEN = {"of", "the", "a"}


def last_value(text: str) -> Fraction | None:
    """What the arithmetic at the end of a text comes to.

    Numbers may have units (`3 boxes`, `$2/box`, `20%`); words before the first number are prose. None if the text does not
    end in arithmetic with an operation, or if that is not sure: a name or a missing number among its operands, two numbers
    side by side, a division by zero, a number that is too long.
    """
    reader = _Reader()
    for part in _PARTS.finditer(text[-LONGEST:]):
        reader.take(part)
    return reader.value() if len(text) <= LONGEST or reader.has_begun_anew else None


def as_decimal(value: Fraction) -> str | None:
    """A value as a rationale writes it: whole, or with its few decimals. None if it is negative, too long or has no end."""
    scaled = value * 10**MOST_DECIMALS
    if value < 0 or scaled.denominator != 1 or value >= 10**MOST_DIGITS:
        return None
    whole, rest = divmod(scaled.numerator, 10**MOST_DECIMALS)
    return str(whole) if not rest else f"{whole}.{rest:0{MOST_DECIMALS}d}".rstrip("0")


class _Reader:
    """Reads parts from left to right: operands, operators and brackets of the arithmetic that may be the last.

    Attributes:
        has_begun_anew: whether what is read began within the text, after the end of a sentence or the like.
    """

    def __init__(self) -> None:
        self.has_begun_anew = False
        self._items: list[Fraction | str] = []
        self._is_sure = True
        self._is_named = False  # words came after the last item
        self._is_scaled = False  # they change what comes next

    @property
    def _has_operand(self) -> bool:
        return bool(self._items) and (isinstance(self._items[-1], Fraction) or self._items[-1] == ")")

    def take(self, part: re.Match[str]) -> None:
        """One part."""
        kind, text = part.lastgroup, part[0]
        if kind in ("number", "percent"):
            self._number(part["number"], is_percent=kind == "percent")
        elif kind == "operator":
            self._operator(text)
        elif kind == "bracket":
            self._bracket(text)
        elif kind == "word":
            self._word(text)
        elif kind in ("odd", "other"):
            self._items, self._is_named, self._is_scaled, self.has_begun_anew = [], False, False, True
            self._is_sure = kind == "other"

    def _number(self, text: str, *, is_percent: bool) -> None:
        self._begin_operand()
        digits = text.replace(",", "").replace("$", "").strip()
        self._is_sure = self._is_sure and len(digits) <= MOST_DIGITS
        self._items.append(Fraction(digits[:MOST_DIGITS]) / (100 if is_percent else 1))

    def _begin_operand(self) -> None:
        """After words an operand begins arithmetic anew, what came before was prose; right after another it is not sure."""
        if self._has_operand:
            self._is_sure = self._is_sure and self._is_named
            self._items = []
        self._is_sure = self._is_sure and not self._is_scaled
        self._is_named = False

    def _operator(self, text: str) -> None:
        self._is_sure = self._is_sure and self._has_operand
        self._items.append(_OPERATORS[text])
        self._is_named = self._is_scaled = False

    def _bracket(self, text: str) -> None:
        if text == "(":
            self._begin_operand()
            self._items.append(text)
        elif self._items.count("(") > self._items.count(")"):
            self._is_sure = self._is_sure and self._has_operand
            self._items.append(text)
        else:  # of a list, "1) 3 + 4"
            self._items, self._is_named, self._is_scaled = [], False, False

    def _word(self, text: str) -> None:
        if text == "of" and self._has_operand and not self._is_named:
            self._operator(text)
            return
        self._is_sure = self._is_sure and (not self._items or self._has_operand)  # else a name in place of a number
        self._is_named = True
        self._is_scaled = text.lower() in _SCALING or (self._is_scaled and text in _BETWEEN)

    def value(self) -> Fraction | None:
        """What it comes to."""
        opened = self._items.count("(")
        has_operation = any(item in ("+", "-", "*", "/") for item in self._items)
        if not (self._is_sure and has_operation and self._has_operand and opened == self._items.count(")")):
            return None
        if opened > MOST_BRACKETS:
            return None
        try:
            return _sum(self._items[::-1])
        except ZeroDivisionError:
            return None


def _sum(items: list[Fraction | str]) -> Fraction:
    """Takes a sum off the end of the reversed items."""
    value = _product(items)
    while items and items[-1] in ("+", "-"):
        value = value + _product(items) if items.pop() == "+" else value - _product(items)
    return value


def _product(items: list[Fraction | str]) -> Fraction:
    value = _operand(items)
    while items and items[-1] in ("*", "/"):
        value = value * _operand(items) if items.pop() == "*" else value / _operand(items)
    return value


def _operand(items: list[Fraction | str]) -> Fraction:
    item = items.pop()
    if isinstance(item, Fraction):
        return item
    value = _sum(items)  # of a bracket
    items.pop()
    return value
