"""GSM8K's calculator marks, <<48/2=24>>: where they are, what arithmetic they hold, what it comes to, exactly."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d*\.\d+|\d+")
MARK = re.compile(r"<<([^<>=]*)=([^<>=]*)>>")
OPERATORS: dict[type[ast.AST], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class UnfitError(ValueError):
    """A row or a mark that cannot be used, or a draw of numbers that gives no sensible problem."""


def value_of(text: str) -> Fraction:
    """A number as it is written, perhaps with commas."""
    return Fraction(text.replace(",", ""))


def parse(text: str) -> ast.expr:
    """The arithmetic of a mark: a tree of numbers and + - * /; nothing is run.

    Raises:
        UnfitError: it is no arithmetic.
    """
    plain = re.sub(r"(?<![\d.])0+(?=\d)", "", text.replace(",", "").replace("$", ""))
    try:
        return ast.parse(plain.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError):
        raise UnfitError from None


def evaluate(node: ast.AST, numbers: Callable[[Fraction], Fraction] = lambda value: value) -> Fraction:
    """What such a tree comes to, with other numbers in the place of its own.

    Raises:
        UnfitError: it has something else in it, or divides by zero.
    """
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left, right = evaluate(node.left, numbers), evaluate(node.right, numbers)
        try:
            return OPERATORS[type(node.op)](left, right)
        except ZeroDivisionError:
            raise UnfitError from None
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return numbers(Fraction(str(node.value)))
    raise UnfitError
