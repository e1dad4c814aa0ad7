"""Exact sums of terms with rational exponents, and their quotients.

A term is a rational times a product of atoms to rational powers. An atom is a symbol, a prime (so that sqrt(8) is
2 * 2^(1/2)), -1 (its square root is i), the base of a root that has no simpler form, or a function's value left as it
is. Powers of a prime are kept in [0, 1), which makes sums of roots of rationals canonical.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction

from lorid_engine.solver.answers.bounds import MAX_BITS, MAX_EXPONENT, MAX_KEY_CHARS, Budget, Refused

ONE = Fraction(1)


@dataclass(frozen=True, order=True)
class Atom:
    """What a power is taken of; atoms with the same name are the same."""

    name: str
    number: int = field(default=0, compare=False)  # a prime or -1, where the atom is a number
    base: Sum | None = field(default=None, compare=False)  # what stands under a root


Monomial = tuple[tuple[Atom, Fraction], ...]


@dataclass(frozen=True)
class Sum:
    """A sum of terms: monomial -> rational, without zeros."""

    terms: dict[Monomial, Fraction]

    @staticmethod
    def of(value: int | Fraction) -> Sum:
        """The constant value."""
        return Sum({(): Fraction(value)} if value else {})

    @staticmethod
    def symbol(name: str) -> Sum:
        """The symbol or opaque value called name."""
        return Sum({((Atom(name), ONE),): ONE})

    def rational(self) -> Fraction | None:
        """The value where it is rational and plain to see."""
        if not self.terms:
            return Fraction(0)
        return self.terms.get(()) if len(self.terms) == 1 else None

    def key(self) -> str:
        """A text that two sums share only when they are the same; hex, as Python limits the length of decimal text."""
        parts = []
        length = 0
        for monomial, coefficient in sorted(self.terms.items(), key=lambda item: item[0]):
            powers = "*".join(f"{atom.name}^{power}" for atom, power in monomial)
            parts.append(f"{coefficient.numerator:x}/{coefficient.denominator:x}*{powers}")
            length += len(parts[-1])
            if length > MAX_KEY_CHARS:
                raise Refused("nested too large")
        return "+".join(parts)


@dataclass(frozen=True)
class Quotient:
    """numerator / denominator."""

    numerator: Sum
    denominator: Sum

    @staticmethod
    def of(value: int | Fraction) -> Quotient:
        """The constant value."""
        return Quotient(Sum.of(value), UNIT)

    def rational(self) -> Fraction | None:
        """The value where it is rational and plain to see."""
        return self.numerator.rational() if self.denominator is UNIT else None

    def key(self) -> str:
        """See Sum.key; equal quotients may have different keys."""
        return f"({self.numerator.key()})/({self.denominator.key()})"

    def atoms(self) -> set[str]:
        """Names of everything in it that is not a number."""
        monomials = [*self.numerator.terms, *self.denominator.terms]
        return {atom.name for monomial in monomials for atom, _ in monomial if not atom.number}


UNIT = Sum.of(1)


class Algebra:
    """Arithmetic that takes its work from one budget."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    def add(self, parts: Iterable[Quotient]) -> Quotient:
        """The sum of all parts."""
        total = Quotient.of(0)
        for part in parts:
            if part.denominator is UNIT and total.denominator is UNIT:
                total = Quotient(self._add(total.numerator, part.numerator), UNIT)
                continue
            left = self._multiply(total.numerator, part.denominator)
            right = self._multiply(part.numerator, total.denominator)
            denominator = self._multiply(total.denominator, part.denominator)
            total = Quotient(self._add(left, right), denominator)
        return total

    def negate(self, value: Quotient) -> Quotient:
        """-value."""
        self.budget.spend(len(value.numerator.terms) // 8)
        return Quotient(Sum({m: -c for m, c in value.numerator.terms.items()}), value.denominator)

    def multiply(self, left: Quotient, right: Quotient) -> Quotient:
        """left * right."""
        denominator = self._multiply(left.denominator, right.denominator)
        return Quotient(self._multiply(left.numerator, right.numerator), denominator)

    def divide(self, left: Quotient, right: Quotient) -> Quotient:
        """left / right.

        Raises:
            Refused: right is zero.
        """
        return self.multiply(left, self.invert(right))

    def invert(self, value: Quotient) -> Quotient:
        """1 / value.

        Raises:
            Refused: value is zero.
        """
        terms = value.numerator.terms
        if not terms:
            raise Refused("division by zero")
        if len(terms) > 1:
            return Quotient(value.denominator, value.numerator)
        ((monomial, coefficient),) = terms.items()
        # 1 / root^power = root^(1 - power) / base keeps powers of roots in [0, 1)
        inverse = tuple((atom, 1 - power if atom.base else -power) for atom, power in monomial)
        numerator = self._multiply(Sum({inverse: 1 / coefficient}), UNIT)
        denominator = UNIT
        for atom, _ in monomial:
            if atom.base:
                denominator = self._multiply(denominator, atom.base)
        result = Quotient(self._multiply(numerator, value.denominator), UNIT)
        return result if denominator is UNIT else self.multiply(result, self.invert(Quotient(denominator, UNIT)))

    def power(self, value: Quotient, exponent: int) -> Quotient:
        """value ** exponent for a whole exponent."""
        if exponent < 0:
            return self.power(self.invert(value), -exponent)
        rational = value.rational()
        if rational is not None:
            bits = max(rational.numerator.bit_length(), rational.denominator.bit_length())
            if bits <= 1 and exponent:
                exponent = 2 - exponent % 2  # 0, 1 and -1
            elif bits * exponent > MAX_BITS:
                raise Refused("power too large")
            return Quotient.of(rational**exponent)
        if exponent > MAX_EXPONENT:
            raise Refused("power too large")
        result = Quotient.of(1)
        while exponent:
            if exponent & 1:
                result = self.multiply(result, value)
            exponent >>= 1
            if exponent:
                value = self.multiply(value, value)
        return result

    def equal(self, left: Quotient, right: Quotient) -> bool:
        """Whether left and right are the same function or number."""
        left_cross, right_cross = self._cross(left, right)
        return left_cross.terms == right_cross.terms

    def factor_between(self, left: Quotient, right: Quotient) -> Fraction | None:
        """The rational c, not zero, with left = c * right; None where there is none or both are zero."""
        left_cross, right_cross = self._cross(left, right)
        if not left_cross.terms or left_cross.terms.keys() != right_cross.terms.keys():
            return None
        factors = {c / right_cross.terms[m] for m, c in left_cross.terms.items()}
        return factors.pop() if len(factors) == 1 else None

    def _cross(self, left: Quotient, right: Quotient) -> tuple[Sum, Sum]:
        return (
            self._multiply(left.numerator, right.denominator),
            self._multiply(right.numerator, left.denominator),
        )

    def _add(self, left: Sum, right: Sum) -> Sum:
        self.budget.spend(2 * len(right.terms) + len(left.terms) // 8)
        terms = dict(left.terms)
        for monomial, coefficient in right.terms.items():
            total = terms.get(monomial, 0) + coefficient
            self._check(total)
            if total:
                terms[monomial] = total
            else:
                terms.pop(monomial, None)
        return Sum(terms)

    def _multiply(self, left: Sum, right: Sum) -> Sum:
        if right is UNIT and all(power.denominator == 1 for m in left.terms for _, power in m):
            return left
        if left is UNIT and right is not UNIT:
            return self._multiply(right, left)
        result = Sum({})
        terms: dict[Monomial, Fraction] = {}
        for left_monomial, left_coefficient in left.terms.items():
            for right_monomial, right_coefficient in right.terms.items():
                self.budget.spend(3 + (len(left_monomial) + len(right_monomial)) // 2)
                coefficient, monomial, bases = _join(left_monomial, right_monomial)
                coefficient *= left_coefficient * right_coefficient
                self._check(coefficient)
                if bases:
                    product = Sum({monomial: coefficient})
                    for base in bases:
                        product = self._multiply(product, base)
                    result = self._add(result, product)
                else:
                    terms[monomial] = terms.get(monomial, 0) + coefficient
        plain = Sum({m: c for m, c in terms.items() if c})
        return self._add(result, plain) if result.terms else plain

    def _check(self, value: Fraction | int) -> None:
        bits = max(value.numerator.bit_length(), value.denominator.bit_length())
        if bits > MAX_BITS:
            raise Refused("number too large")
        if bits > 256:
            self.budget.spend((bits // 128) ** 2 // 64 + 1)  # the gcd in a Fraction is quadratic


def _join(left: Monomial, right: Monomial) -> tuple[Fraction, Monomial, list[Sum]]:
    """Product of two monomials: a rational factor, the monomial, and the bases of roots that reached a whole power."""
    if not left and not right:
        return ONE, (), []
    powers = dict(left)
    for atom, power in right:
        powers[atom] = powers.get(atom, 0) + power
    factor = ONE
    bases: list[Sum] = []
    kept = []
    for atom, power in powers.items():
        if atom.number or atom.base:
            whole = math.floor(power)
            if whole:
                power -= whole
                if atom.base:
                    bases.extend([atom.base] * whole)
                else:
                    factor *= Fraction(atom.number) ** whole
        if power:
            kept.append((atom, power))
    kept.sort(key=lambda item: item[0].name)
    return factor, tuple(kept), bases
