"""Hard arithmetic worked out: its calculator mark becomes the smaller steps by which the result is found.

    143+88 = <<143+88=231>>231        becomes    143+88 = 143 + 80 + 8 = 223 + 8 = 231
    47*36 = <<47*36=1692>>1692        becomes    47*36 = 47 * 30 + 47 * 6 = 1410 + 282 = 1692
    1365/5 = <<1365/5=273>>273        becomes    1365/5 = 1000 / 5 + 350 / 5 + 15 / 5 = 200 + 70 + 3 = 270 + 3 = 273

Small models learn sums of two digits, their products with one digit, and quotients of those; beyond, they mostly guess.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from fractions import Fraction

from marks import MARK, SIGNS, UnfitError, calculate, decimal, evaluate, parse, value_of

_MOST_CHARACTERS = 160  # of a working; longer ones are left out
_DECIMALS = 4
_MOST_STEPS = 24
_BINDS = {"+": 1, "-": 1, "*": 2, "/": 2}
Tree = Fraction | tuple[str, "Tree", "Tree"]  # a number, or a sign between two trees


def worked(answer: str) -> str:
    """A rationale whose marks are worked out; those that are wrong, rounded or trivial are left out."""
    pieces, end = [], 0
    for match in MARK.finditer(answer):
        before = answer[end : match.start()]
        end = match.end()
        steps = working(match[1], match[2])
        if steps:
            money = "$" if before.endswith("$") else ""
            before = before.removesuffix("$")
            if before.rstrip().endswith("="):
                before = before if before.endswith(" ") else f"{before} "
            else:
                steps = [_written(_tree(parse(match[1]))), *steps]
            before = f"{before}{' = '.join(steps)} = {money}"
        pieces.append(before)
    return "".join([*pieces, answer[end:]])


def working(expression: str, result: str) -> list[str]:
    """What is written between an expression and its result; nothing where there is nothing to show."""
    try:
        parsed = parse(expression)
        if evaluate(parsed) != value_of(result):
            return []
        steps, tree = [], _tree(parsed)
        while not isinstance(tree, Fraction):
            if len(steps) > _MOST_STEPS:
                return []
            tree = _next(tree)
            steps.append(_written(tree))
    except UnfitError:
        return []
    steps = steps[:-1]
    return steps if sum(map(len, steps)) <= _MOST_CHARACTERS else []


def _tree(node: ast.expr) -> Tree:
    if isinstance(node, ast.BinOp):
        return SIGNS[type(node.op)], _tree(node.left), _tree(node.right)
    return evaluate(node)


def _next(tree: Tree) -> Tree:
    """The tree after one step: hard operations are taken apart; else products and quotients are done; else the first sum."""
    for change in (_apart, _product):
        if (changed := _changed(tree, change)) != tree:
            return _flat(changed)
    return _first_sum(tree)


def _changed(tree: Tree, change: Callable[[str, Fraction, Fraction], Tree | None]) -> Tree:
    """The tree with all its operations on two numbers changed that `change` takes."""
    if isinstance(tree, Fraction):
        return tree
    sign, left, right = tree
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        found = change(sign, left, right)
        return tree if found is None else found
    return sign, _changed(left, change), _changed(right, change)


def _first_sum(tree: Tree) -> Tree:
    assert not isinstance(tree, Fraction)
    sign, left, right = tree
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return calculate(sign, left, right)
    if isinstance(left, Fraction):
        return sign, left, _first_sum(right)
    return sign, _first_sum(left), right


def _flat(tree: Tree) -> Tree:
    """Without the brackets around sums that need none: a + (b + c) is a + b + c, and a - (b + c) is a - b - c."""
    if isinstance(tree, Fraction):
        return tree
    sign, left, right = tree[0], _flat(tree[1]), _flat(tree[2])
    if sign in "+-" and not isinstance(right, Fraction) and (right[0] == "+" or (sign == "+" and right[0] == "-")):
        return _flat((right[0] if sign == "+" else "-", (sign, left, right[1]), right[2]))
    return sign, left, right


def _product(sign: str, left: Fraction, right: Fraction) -> Tree | None:
    return calculate(sign, left, right) if sign in "*/" else None


def _apart(sign: str, left: Fraction, right: Fraction) -> Tree | None:
    """A hard operation in simpler ones; None where it is simple."""
    short, long = sorted(_length(number) for number in (left, right))
    if sign in "+-":
        is_long = max(left, right) >= 100 or long > 2
        if (sign == "+" and short < 2) or _length(right) < 2 or not is_long or not _carries(sign, left, right):
            return None
        return _chain([left, *_places(right)], sign)
    if sign == "/":
        quotient = left / right
        if quotient.denominator != 1 or _length(quotient) < 2 or _length(left) < 3 or _is_power_of_ten(right):
            return None
        return _chain([("/", place * right, right) for place in _places(quotient)], "+")
    if short < 2 and long < 3:
        return None
    if short < 2:  # one row of products of digits
        single, other = (left, right) if _length(left) < 2 else (right, left)
        if _is_power_of_ten(single):
            return None
        return _chain([single * place for place in _places(other)], "+")
    return _chain([("*", left, place) for place in _places(right)], "+")


def _chain(parts: list[Tree], sign: str) -> Tree:
    tree = parts[0]
    for part in parts[1:]:
        tree = sign, tree, part
    return tree


def _places(number: Fraction) -> list[Fraction]:
    """A number's digits, each with its zeros: 407 is 400 and 7."""
    digits = decimal(number, _DECIMALS)
    point = digits.index(".") if "." in digits else len(digits)
    places = []
    for at, digit in enumerate(digits.replace(".", "")):
        if digit != "0":
            places.append(int(digit) * Fraction(10) ** (point - 1 - at))
    return places


def _length(number: Fraction) -> int:
    """Digits from the first to the last that is not zero: 1500 has two."""
    return len(decimal(number, _DECIMALS).replace(".", "").strip("0"))


def _carries(sign: str, left: Fraction, right: Fraction) -> bool:
    """Whether a digit of the result needs its neighbour."""
    a, b = (f"{int(number * 10**4):020d}" for number in (left, right))
    pairs = [(int(x), int(y)) for x, y in zip(a, b, strict=True)]
    return any(x + y > 9 if sign == "+" else x < y for x, y in pairs)


def _is_power_of_ten(number: Fraction) -> bool:
    return re.fullmatch(r"10*|0\.0*1", decimal(number, _DECIMALS)) is not None


def _written(tree: Tree, binds: int = 0) -> str:
    if isinstance(tree, Fraction):
        return decimal(tree, _DECIMALS)
    sign, left, right = tree
    own = _BINDS[sign]
    text = f"{_written(left, own)} {sign} {_written(right, own + 1)}"
    return f"({text})" if own < binds else text
