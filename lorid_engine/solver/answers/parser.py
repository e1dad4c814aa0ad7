"""A bounded parser of small algebra, in LaTeX or plain text, into exact quotients. It evaluates nothing else."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from lorid_engine.solver.answers.algebra import ONE, UNIT, Algebra, Atom, Quotient, Sum
from lorid_engine.solver.answers.bounds import MAX_BITS, MAX_DEPTH, Budget, Refused
from lorid_engine.solver.answers.normalise import SHORT_WORDS
from lorid_engine.solver.answers.numbers import integer, parse_literal
from lorid_engine.solver.answers.roots import IMAGINARY_UNIT, root

_NUMBER = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,18}(?![0-9]))?", re.ASCII)
_REPEATING = re.compile(r"([0-9]*)\.([0-9]*)\\overline\{([0-9]+)\}", re.ASCII)
_WHOLE = re.compile(r"[0-9]+", re.ASCII)
_EXPONENT = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII)
_OVER = re.compile(r"\\over(?![A-Za-z])")
_PLAIN_FRACTION = re.compile(r" ([0-9]+) ?/ ?([0-9]+)(?![0-9.])", re.ASCII)
_LATEX_FRACTION = re.compile(r" ?\\frac ?(?:\{ ?([0-9]+) ?\}|([0-9])) ?(?:\{ ?([0-9]+) ?\}|([0-9]))", re.ASCII)
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_NAME = re.compile(r"\\?([A-Za-z]+)")
_WORD = re.compile(r"[A-Za-z]+")
_SUBSCRIPT = re.compile(r"_(?:\{([A-Za-z0-9]{1,8})\}|([A-Za-z0-9]))")
_FUNCTION_NAMES = "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp max min gcd lcm det deg arg"
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
_NAMED_LIKE_FUNCTIONS = frozenset("fghP")  # f(x) is a value of f, while a(x + 1) is a product
_INFINITY = "\\infty"
_INFINITIES = [{((Atom(_INFINITY), ONE),): sign} for sign in (ONE, -ONE)]
_CONSTANTS = {"pi": "\\pi", "infty": _INFINITY, "inf": _INFINITY, "infinity": _INFINITY}
_LAYOUT_COMMANDS = "right left begin end text not cup cap setminus in to mid ldots dots cdots quad frac sqrt"
_NOT_SYMBOLS = frozenset(_LAYOUT_COMMANDS.split())
_CLOSERS = {"(": ")", "[": "]", "{": "}"}
_USUAL_SYMBOLS = frozenset("abcxyzpqrmnkABC")
_MAX_FACTORIAL = 500


def parse_expression(text: str, budget: Budget, plus_minus: int = 1) -> Quotient:
    """Read text as one expression.

    Args:
        text: normalised text (see normalise.clean).
        budget: the work that may be spent.
        plus_minus: the sign that \\pm stands for; \\mp stands for the other one.

    Raises:
        Refused: it is no expression of the kind known here, it is ambiguous, or it is too large.
    """
    parser = _Parser(text, budget, plus_minus)
    value = parser.group(0)
    if parser.peek():
        raise Refused("more text after the expression")
    if parser.has_infinity and (value.denominator is not UNIT or value.numerator.terms not in _INFINITIES):
        raise Refused("infinity is no number to calculate with")
    return value


class _Parser:
    def __init__(self, text: str, budget: Budget, plus_minus: int) -> None:
        self.text = text
        self.position = 0
        self.algebra = Algebra(budget)
        self.budget = budget
        self.plus_minus = plus_minus
        self.open_bars = 0
        self.has_infinity = False

    def peek(self) -> str:
        """The next character that is not a space, "" at the end."""
        while self.text.startswith(" ", self.position):
            self.position += 1
        return self.text[self.position : self.position + 1]

    def take(self, expected: str) -> bool:
        """Step over expected where it comes next."""
        self.peek()
        if not self.text.startswith(expected, self.position):
            return False
        self.position += len(expected)
        return True

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Step over pattern where it comes next, without skipping spaces."""
        match = pattern.match(self.text, self.position)
        if match:
            self.position = match.end()
        return match

    def group(self, depth: int) -> Quotient:
        """What is between brackets: a sum, or two with TeX's \\over between them."""
        value = self.sum(depth)
        return self.algebra.divide(value, self.sum(depth)) if self.match(_OVER) else value

    def sum(self, depth: int) -> Quotient:
        if depth > MAX_DEPTH:
            raise Refused("nested too deeply")
        parts = [self.product(depth, self.sign() or 1)]
        while sign := self.sign():
            parts.append(self.product(depth, sign))
        return parts[0] if len(parts) == 1 else self.algebra.add(parts)

    def sign(self) -> int:
        """A sign in front of a term: 0 where there is none."""
        sign = 0
        for _ in range(3):  # 2 - -3 is fine, a row of signs is not an answer
            if self.take("+"):
                sign = sign or 1
            elif self.take("-"):
                sign = -(sign or 1)
            elif self.take("\\pm"):
                sign = (sign or 1) * self.plus_minus
            elif self.take("\\mp"):
                sign = (sign or 1) * -self.plus_minus
            else:
                break
        return sign

    def product(self, depth: int, sign: int) -> Quotient:
        value = self.power(depth)
        divided = False  # by something written without brackets: 1/2x is ambiguous, 1/2 x is not
        while True:
            spaced = self.text.startswith(" ", self.position)
            following = self.peek()
            if following == "*" and not self.text.startswith("**", self.position):
                self.position += 1
                value = self.algebra.multiply(value, self.signed_power(depth))
                divided = False
            elif following == "/":
                self.position += 1
                value = self.algebra.divide(value, self.signed_power(depth))
                divided = True
            elif following and (following.isalpha() or following in "\\({[") and not self.at_operator():
                if divided and not spaced:
                    raise Refused("a/bc can be read in two ways")
                value = self.algebra.multiply(value, self.power(depth))
            elif following == "|" and not self.open_bars:
                value = self.algebra.multiply(value, self.power(depth))
            else:
                return self.algebra.negate(value) if sign < 0 else value

    def at_operator(self) -> bool:
        return self.text.startswith(("\\pm", "\\mp"), self.position) or bool(_OVER.match(self.text, self.position))

    def signed_power(self, depth: int) -> Quotient:
        sign = self.sign()
        value = self.power(depth)
        return self.algebra.negate(value) if sign < 0 else value

    def power(self, depth: int) -> Quotient:
        """An atom with its powers and factorials."""
        self.budget.spend(2)
        value = self.atom(depth)
        if self.take("!"):
            value = self.factorial(value)
        if self.take("**") or self.take("^"):
            exponent = self.argument(depth, plain_number=True)
            if self.peek() == "^" or self.text.startswith("**", self.position):
                raise Refused("tower of powers")
            value = self.raised(value, exponent)
        while self.take("°"):
            value = self.algebra.multiply(value, Quotient(Sum.symbol("°"), UNIT))
        return value

    def raised(self, base: Quotient, exponent: Quotient) -> Quotient:
        rational = exponent.rational()
        if rational is None:
            return _opaque(f"({base.key()})^({exponent.key()})")
        if abs(rational.numerator) > MAX_BITS and base.rational() not in (0, 1, -1):
            raise Refused("power too large")
        if rational.denominator > 1:
            base = root(self.algebra, base, rational.denominator)
        return self.algebra.power(base, rational.numerator)

    def factorial(self, value: Quotient) -> Quotient:
        number = value.rational()
        if number is None:
            return _opaque(f"({value.key()})!")
        if number.denominator != 1 or not 0 <= number <= _MAX_FACTORIAL or self.peek() == "!":
            raise Refused("factorial")
        self.budget.spend(10)
        return Quotient.of(math.factorial(number.numerator))

    def argument(self, depth: int, plain_number: bool = False) -> Quotient:
        """What a LaTeX command or ^ applies to: a group, one digit (or a plain number), one letter or one command."""
        following = self.peek()
        if following == "{":
            return self.bracketed(depth)
        if plain_number and following == "-":
            self.position += 1
            return self.algebra.negate(self.argument(depth, plain_number))
        if following.isdigit():
            digits = self.match(_EXPONENT if plain_number else _WHOLE)
            literal = parse_literal(digits[0] if plain_number else digits[0][0]) if digits else None
            if digits is None or literal is None or (not plain_number and len(digits[0]) > 2):
                raise Refused("more than one digit after a command")
            if not plain_number:
                self.position -= len(digits[0]) - 1
            return Quotient.of(literal.fraction())
        if following.isalpha():
            self.position += 1
            return _symbol(following)
        return self.atom(depth)

    def bracketed(self, depth: int) -> Quotient:
        opener = self.text[self.position]
        self.position += 1
        bars, self.open_bars = self.open_bars, 0
        value = self.group(depth + 1)
        self.open_bars = bars
        if not self.take(_CLOSERS[opener]):
            raise Refused("bracket not closed")
        return value

    def atom(self, depth: int) -> Quotient:
        following = self.peek()
        if following.isdigit() or following == ".":
            return self.number()
        if following and following in _CLOSERS:
            return self.bracketed(depth)
        if following == "|":
            return self.absolute(depth)
        if following == "\\":
            command = self.match(_COMMAND)
            if command is None:
                raise Refused("not a command")
            return self.command(command[1], depth)
        word = self.match(_WORD)
        if word is None:
            raise Refused("not an expression")
        if word[0] in _FUNCTIONS or word[0] in ("sqrt", "cbrt", "pi", "abs", "inf", "infinity"):
            return self.command(word[0], depth, plain=True)
        if is_word(word[0]):
            raise Refused("a word, not a product of symbols")
        self.position = word.start() + 1  # letters in a row are multiplied one by one
        return self.letter(word[0][0], depth)

    def letter(self, name: str, depth: int) -> Quotient:
        if name in _NAMED_LIKE_FUNCTIONS and self.text.startswith("(", self.position):
            return _opaque(f"{name}({self.bracketed(depth).key()})")
        subscript = self.match(_SUBSCRIPT)
        return _symbol(name + "_" + (subscript[1] or subscript[2]) if subscript else name)

    def number(self) -> Quotient:
        start = self.position
        repeating = self.match(_REPEATING)
        if repeating:
            value = _repeating_decimal(*repeating.groups())
        else:
            literal = self.match(_NUMBER)
            parsed = parse_literal(literal[0]) if literal else None
            if parsed is None or literal is None:
                raise Refused("not a number")
            value = parsed.fraction()
            if literal[0].isdigit() and literal[0][0] != "0":
                value += self.mixed_part(start)
        following = self.peek()
        if following and following in "0123456789._":
            raise Refused("two numbers in a row")
        return Quotient.of(value)

    def mixed_part(self, start: int) -> Fraction:
        """The fraction of a mixed number: "2 1/2" and "2\\frac{1}{2}", but not "x^2 1/2"."""
        match = _PLAIN_FRACTION.match(self.text, self.position) or _LATEX_FRACTION.match(self.text, self.position)
        if match is None:
            return Fraction(0)
        numerator, denominator = (integer(digits) for digits in match.groups() if digits)
        before = self.text[:start].rstrip()
        if not 0 < numerator < denominator or before.endswith(("/", "^", "*")):
            raise Refused("not a mixed number")
        self.position = match.end()
        return Fraction(numerator, denominator)

    def absolute(self, depth: int) -> Quotient:
        self.position += 1
        self.open_bars += 1
        value = self.sum(depth + 1)
        self.open_bars -= 1
        if not self.take("|"):
            raise Refused("bar not closed")
        return _absolute(value)

    def command(self, name: str, depth: int, plain: bool = False) -> Quotient:
        """A LaTeX command, or (plain) the same name written without a backslash."""
        if name == "frac":
            numerator = self.argument(depth)
            return self.algebra.divide(numerator, self.argument(depth))
        if name in ("sqrt", "cbrt"):
            return self.radical(3 if name == "cbrt" else 2, depth, plain)
        if name in _CONSTANTS:
            self.has_infinity |= _CONSTANTS[name] == _INFINITY
            return _symbol(_CONSTANTS[name])
        if name == "abs":
            return _absolute(self.argument(depth))
        if name in ("binom", "dbinom", "tbinom"):
            return self.binomial(depth)
        if name in _FUNCTIONS:
            return self.function(name, depth)
        if name in _NOT_SYMBOLS:
            raise Refused("not a symbol")
        subscript = self.match(_SUBSCRIPT)
        return _symbol("\\" + name + ("_" + (subscript[1] or subscript[2]) if subscript else ""))

    def radical(self, index: int, depth: int, plain: bool) -> Quotient:
        if not plain and self.take("["):
            digits = self.match(_WHOLE)
            if digits is None or len(digits[0]) > 2 or not self.take("]"):
                raise Refused("root index")
            index = int(digits[0])
        following = self.peek()
        if following == "(":
            radicand = self.bracketed(depth)
        elif not plain and following.isdigit() and self.text[self.position + 1 : self.position + 2].isdigit():
            raise Refused("\\sqrt12 is the root of 1 in LaTeX and of 12 to a reader")
        else:
            radicand = self.argument(depth, plain_number=plain)
        return root(self.algebra, radicand, index)

    def binomial(self, depth: int) -> Quotient:
        upper, lower = self.argument(depth), self.argument(depth)
        n, k = upper.rational(), lower.rational()
        if n is None or k is None:
            return _opaque(f"binom({upper.key()},{lower.key()})")
        if n.denominator != 1 or k.denominator != 1 or not 0 <= k <= n <= _MAX_FACTORIAL:
            raise Refused("binomial")
        self.budget.spend(10)
        return Quotient.of(math.comb(n.numerator, k.numerator))

    def function(self, name: str, depth: int) -> Quotient:
        """A function's value, left as it is: two are the same when their arguments have the same form."""
        subscript = self.match(_SUBSCRIPT)
        if subscript:
            name += "_" + (subscript[1] or subscript[2])
        exponent = None
        if self.take("^"):
            exponent = self.argument(depth, plain_number=True)
            if exponent.rational() == -1 and "arc" + name in _FUNCTIONS:
                name, exponent = "arc" + name, None  # sin^-1 is the inverse
            elif exponent.rational() is None or exponent.rational() == -1:
                raise Refused("a function's power or its inverse")
        self.budget.spend(5)
        if self.peek() in ("(", "{"):
            argument = self.bracketed(depth)
        else:
            argument = self.power(depth + 1)
            while (self.peek().isalpha() or self.peek() == "\\") and not self.at_function():
                argument = self.algebra.multiply(argument, self.power(depth + 1))
        value = _opaque(f"{name}({argument.key()})")
        return value if exponent is None else self.raised(value, exponent)

    def at_function(self) -> bool:
        match = _NAME.match(self.text, self.position)
        return match is None or match[1] in _FUNCTIONS or match[1] in ("pm", "mp")


def is_word(letters: str) -> bool:
    """Whether letters in a row are a word rather than a product of symbols."""
    if len(letters) <= 2:
        return letters.lower() in SHORT_WORDS
    return len(letters) > 3 or not _USUAL_SYMBOLS.issuperset(letters)


def _symbol(name: str) -> Quotient:
    return Quotient(IMAGINARY_UNIT if name == "i" else Sum.symbol(name), UNIT)


def _opaque(name: str) -> Quotient:
    return Quotient(Sum.symbol(name), UNIT)


def _absolute(value: Quotient) -> Quotient:
    number = value.rational()
    return _opaque(f"|{value.key()}|") if number is None else Quotient.of(abs(number))


def _repeating_decimal(whole: str, start: str, period: str) -> Fraction:
    if len(whole) + len(start) + len(period) > 200:
        raise Refused("period too long")
    fixed = Fraction(integer(whole + start or "0"), 10 ** len(start))
    return fixed + Fraction(integer(period), (10 ** len(period) - 1) * 10 ** len(start))
