"""Arithmetic as a rationale writes it, `3 boxes * $12.50/box`: what the last of a line comes to, exactly. Nothing is run."""

from __future__ import annotations

import re
from fractions import Fraction

LONGEST = 160  # characters that are looked at
MOST_DIGITS = 15  # of a number, and of a value before its point
MOST_DECIMALS = 4  # of a value
MOST_BRACKETS = 16
CURRENCIES = "$£€¥"
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
    rf"(?P<space>\ +)"
    rf"|(?P<number>[{CURRENCIES}]?\ ?(?:\d{{1,3}}(?:,\d{{3}})+(?![\d,])|\d+)(?:\.\d+)?|[{CURRENCIES}]?\.\d+)(?P<percent>\ ?%)?"
    r"|(?P<unit>[/-](?=[^\W\d]{2}|[hms]\b))"  # dollars/hour, a 5-pound bag: no operation
    r"|(?P<operator>[-+*/\N{MINUS SIGN}\N{EN DASH}\N{MULTIPLICATION SIGN}\N{DIVISION SIGN}]|x(?!-?[^\W\d]))"
    r"|(?P<bracket>[()])"
    r"|(?P<word>[^\W\d][\w'\N{RIGHT SINGLE QUOTATION MARK}]*)"
    # Powers, roots, times of day, groups of digits: what follows is no number by itself.
    r"|(?P<odd>[\^\\|!\N{SQUARE ROOT}]|(?<=\d)(?::(?=\d)|,(?=\d|\ \d{3}(?!\d))))"
    r"|(?P<other>.)",
    re.DOTALL,
)
# Words that change the number after them, and what may stand between.
_SCALING = {"half", "third", "thirds", "quarter", "quarters", "fourth", "fourths", "fifth", "fifths", "sixth", "eighth"}
_SCALING |= {
    "tenth",
    "tenths",
    "twice",
    "thrice",
    "double",
    "triple",
    "minus",
    "plus",
    "times",
    "by",
    "negative",
    "than",
}
_BETWEEN = {"of", "the", "a"}
# Words that change the number before them.
_CHANGING = {"dozen", "dozens", "hundred", "hundreds", "thousand", "thousands", "million", "millions", "billion"}
_CHANGING |= {"percent", "squared", "cubed", "mod", "divided", "multiplied"}
_UNIT_LETTERS = set("aghlms")  # units, and "3 a day"; other letters are names


def last_value(text: str) -> Fraction | None:
    """What the arithmetic at the end of a text comes to.

    Numbers may have units (`3 boxes`, `$2/box`, `20%`); words before the first number are prose. A sum of per cents is that
    many per cent. None if the text does not end in arithmetic with an operation, or if what is meant is not sure: a name or
    a missing number among its operands, two numbers side by side, a division by zero, a number that is too long.
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
        self._is_lost = False  # what was meant is not clear to the end of the text
        self._before = ""  # the kind of the part before
        self._begin_anew(is_sure=True)

    def _begin_anew(self, *, is_sure: bool) -> None:
        self._items: list[Fraction | str] = []
        self._percents: list[Fraction] = []
        self._is_sure = is_sure
        self._is_named = False  # words came after the last item
        self._is_scaled = False  # they change what comes next

    @property
    def _has_operand(self) -> bool:
        return bool(self._items) and (isinstance(self._items[-1], Fraction) or self._items[-1] == ")")

    def take(self, part: re.Match[str]) -> None:
        """One part."""
        kind, text = part.lastgroup or "", part[0]
        if kind in ("number", "percent"):
            self._number(part["number"], is_percent=kind == "percent")
        elif kind == "operator":
            self._operator(text)
        elif kind == "bracket":
            self._bracket(text)
        elif kind == "word":
            self._word(text)
        elif kind in ("odd", "other"):
            self._is_lost = self._is_lost or (bool(self._items) and not self._has_operand)
            self._begin_anew(is_sure=kind == "other")
            self.has_begun_anew = True
        self._before = kind

    def _number(self, text: str, *, is_percent: bool) -> None:
        self._begin_operand()
        digits = text.replace(",", "").strip(CURRENCIES + " ")
        if len(digits) > MOST_DIGITS or (digits[0] == "0" and digits[1:2].isdecimal()):
            self._is_sure = False
        value = Fraction(digits[:MOST_DIGITS]) / (100 if is_percent else 1)
        self._items.append(value)
        if is_percent:
            self._percents.append(value)

    def _begin_operand(self) -> None:
        """After words an operand begins arithmetic anew, what came before was prose; right after another it is not sure."""
        if self._has_operand:
            self._begin_anew(is_sure=self._is_sure and self._is_named and not self._is_scaled)
        self._is_sure = self._is_sure and not self._is_scaled
        self._is_named = False

    def _operator(self, text: str) -> None:
        self._is_sure = self._is_sure and self._has_operand
        self._items.append(_OPERATORS[text])
        self._is_named = self._is_scaled = False

    def _bracket(self, text: str) -> None:
        if text == "(":
            self._is_sure = self._is_sure and self._before != "word"  # of a function, "sqrt(16)"
            self._begin_operand()
            self._items.append(text)
        elif self._items.count("(") > self._items.count(")"):
            self._is_sure = self._is_sure and self._has_operand
            self._items.append(text)
        else:  # of a list, "1) 3 + 4"
            self._begin_anew(is_sure=self._is_sure)

    def _word(self, text: str) -> None:
        if self._has_operand:
            if text == "of" and not self._is_named:
                self._operator(text)
                self._is_sure = self._is_sure and self._is_share
                return
            is_glued = self._before in ("number", "percent")
            letter = len(text) == 1 and (text not in _UNIT_LETTERS or (text == "a" and is_glued))
            self._is_sure = self._is_sure and text.lower() not in _CHANGING and not letter
        elif self._items:
            self._is_sure = False  # a name in place of a number
        self._is_named = True
        self._is_scaled = text.lower() in _SCALING or (self._is_scaled and text in _BETWEEN)

    @property
    def _is_share(self) -> bool:
        """Whether the operand before the last operator is 20% or 1/2."""
        operand = self._items[-2]
        return any(operand is percent for percent in self._percents) or self._items[-3:-2] == ["/"]

    def value(self) -> Fraction | None:
        """What it comes to."""
        if self._is_lost or not self._is_sure or not self._has_operand:
            return None
        signs = [item for item in self._items if item in ("+", "-", "*", "/")]
        opened = self._items.count("(")
        if not signs or opened != self._items.count(")") or opened > MOST_BRACKETS:
            return None
        if any(before == after == "/" for before, after in zip(self._items, self._items[2:], strict=False)):
            return None  # 60 / 3/4
        unit = 1
        if self._percents:
            if {"+", "-"} & set(signs):
                if len(self._percents) != len(signs) + 1 or {"*", "/"} & set(signs):
                    return None  # 4 + 25%: of what?
                unit = 100
            elif 1 in self._percents or len(self._percents) > 1:
                return None  # 1/4 * 100%, 30% * 50%: a number, or as many per cent
        try:
            return _sum(self._items[::-1]) * unit
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
