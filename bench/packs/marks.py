"""GSM8K's calculator marks, <<48/2=24>>: where they are, what arithmetic they hold, and what it comes to, exactly."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d*\.\d+|\d+")
MARK = re.compile(r"<<([^<>=]*)=([^<>=]*)>>")
ARITHMETIC = re.compile(r"[\d.,$+\-*/() ]{1,100}")  # what a mark may hold: no names, no exponents, few brackets
SIGNS: dict[type[ast.AST], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
OPERATORS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
LARGEST = 10**12  # numbers beyond are refused


class UnfitError(ValueError):
    """A row or a mark that cannot be used, or numbers that give no sensible problem: others are drawn."""


def value_of(text: str) -> Fraction:
    """A number as it is written, perhaps with commas and spaces around it.

    Raises:
        UnfitError: it is no number.
    """
    if not NUMBER.fullmatch(text.strip()):
        raise UnfitError
    return Fraction(text.strip().replace(",", ""))


def decimal(value: Fraction | int, most: int = 2) -> str:
    """A number as it is written: whole, or with at most so many decimals.

    Raises:
        UnfitError: it is negative, too large, or has more decimals.
    """
    parts = Fraction(value) * 10**most
    if parts.denominator != 1 or not 0 <= value <= LARGEST:
        raise UnfitError
    whole, rest = divmod(parts.numerator, 10**most)
    return str(whole) if not rest else f"{whole}.{rest:0{most}d}".rstrip("0")


def parse(text: str) -> ast.expr:
    """The arithmetic of a mark: a tree of numbers and + - * /; nothing is run.

    Raises:
        UnfitError: it is no arithmetic.
    """
    if not ARITHMETIC.fullmatch(text):
        raise UnfitError
    plain = re.sub(r"(?<![\d.])0+(?=\d)", "", text.replace(",", "").replace("$", ""))
    try:
        return ast.parse(plain.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        raise UnfitError from None


def evaluate(node: ast.AST, numbers: Callable[[Fraction], Fraction] = lambda value: value) -> Fraction:
    """What such a tree comes to, with other numbers in the place of its own.

    Raises:
        UnfitError: it has something else in it, divides by zero, or comes to a number that is too large.
    """
    if isinstance(node, ast.BinOp) and type(node.op) in SIGNS:
        return calculate(SIGNS[type(node.op)], evaluate(node.left, numbers), evaluate(node.right, numbers))
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return numbers(Fraction(str(node.value)))
    raise UnfitError


def calculate(sign: str, left: Fraction, right: Fraction) -> Fraction:
    """One operation.

    Raises:
        UnfitError: it divides by zero, or comes to a number that is too large.
    """
    if sign == "/" and not right:
        raise UnfitError
    value = OPERATORS[sign](left, right)
    if abs(value) > LARGEST:
        raise UnfitError
    return value
