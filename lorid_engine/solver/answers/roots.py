"""Roots of exact sums and quotients."""

from __future__ import annotations

import math
from fractions import Fraction

from lorid_engine.solver.answers.algebra import ONE, UNIT, Algebra, Atom, Monomial, Quotient, Sum
from lorid_engine.solver.answers.bounds import MAX_ROOT, Refused

_TRIAL_DIVISORS = (2, *range(3, 1000, 2))
_MAX_ROOT_BITS = 400
_POSITIVE = ("\\pi", "e")  # symbols that name a positive number

I_ATOM = Atom("#-1", number=-1)
IMAGINARY_UNIT = Sum({((I_ATOM, Fraction(1, 2)),): ONE})


def root(algebra: Algebra, value: Quotient, index: int) -> Quotient:
    """The principal index-th root of value; an odd root of a negative number is the real one.

    Symbols are taken to be such that the root is real: sqrt(x y) is sqrt(x) sqrt(y), but sqrt(x^2) is not x.

    Raises:
        Refused: the index or the number is out of bounds.
    """
    if not 1 <= index <= MAX_ROOT:
        raise Refused("root index")
    numerator = _root_of_sum(algebra, value.numerator, index)
    if value.denominator is UNIT:
        return numerator
    return algebra.divide(numerator, _root_of_sum(algebra, value.denominator, index))


def factorise(number: int) -> dict[int, int]:
    """Factors of a positive integer with their powers: primes up to 1000, then whatever is left."""
    if number.bit_length() > _MAX_ROOT_BITS:
        raise Refused("number too large to factorise")
    factors: dict[int, int] = {}
    for divisor in _TRIAL_DIVISORS:
        if divisor * divisor > number:
            break
        while number % divisor == 0:
            factors[divisor] = factors.get(divisor, 0) + 1
            number //= divisor
    if number > 1:
        base = math.isqrt(number)
        if base * base == number:
            factors[base] = 2
        else:
            factors[number] = 1
    return factors


def _root_of_sum(algebra: Algebra, value: Sum, index: int) -> Quotient:
    algebra.budget.spend(20)
    if not value.terms:
        return Quotient.of(0)
    if len(value.terms) == 1:
        ((monomial, coefficient),) = value.terms.items()
        outside, inside = _root_of_monomial(monomial, index)
        result = Quotient(Sum({outside: ONE}), UNIT)
        if inside:
            result = algebra.multiply(result, _opaque_root(Sum({inside: ONE}), index))
        return algebra.multiply(_root_of_rational(algebra, coefficient, index), result)
    content = _content(value)
    if index % 2 and value.terms[min(value.terms)] < 0:
        content = -content
    primitive = Sum({m: c / content for m, c in value.terms.items()})
    denested = _denested(algebra, value) if index == 2 else None
    if denested is not None:
        return denested
    return algebra.multiply(_root_of_rational(algebra, content, index), _opaque_root(primitive, index))


def _root_of_rational(algebra: Algebra, value: Fraction, index: int) -> Quotient:
    result = Quotient.of(1)
    if value < 0:
        if index % 2:
            result = Quotient.of(-1)
        elif index == 2:
            result = Quotient(IMAGINARY_UNIT, UNIT)
        else:
            raise Refused("even root of a negative number")
    powers: dict[Atom, Fraction] = {}
    for number, sign in ((abs(value.numerator), 1), (value.denominator, -1)):
        for factor, power in factorise(number).items():
            powers[Atom(f"#{factor:x}", number=factor)] = Fraction(sign * power, index)
    monomial = tuple(sorted(powers.items(), key=lambda item: item[0].name))
    plain = Quotient(Sum({monomial: ONE}), UNIT)
    return algebra.multiply(algebra.multiply(plain, Quotient.of(1)), result)


def _root_of_monomial(monomial: Monomial, index: int) -> tuple[Monomial, Monomial]:
    """Split a monomial into what comes out of the root and what has to stay under it."""
    outside, inside = [], []
    for atom, power in monomial:
        halved = power / index
        # An even root of x^2 is |x|, so a power may be halved only if it was odd or stays even.
        safe = (
            index % 2 or atom.number > 0 or atom.name in _POSITIVE or power.numerator % 2 or halved.numerator % 2 == 0
        )
        if safe and atom.number >= 0:
            outside.append((atom, halved))
        else:
            inside.append((atom, power))
    return tuple(outside), tuple(inside)


def _opaque_root(value: Sum, index: int) -> Quotient:
    atom = Atom(f"root({value.key()})", base=value)
    return Quotient(Sum({((atom, Fraction(1, index)),): ONE}), UNIT)


def _content(value: Sum) -> Fraction:
    numerator = math.gcd(*(abs(c.numerator) for c in value.terms.values()))
    denominator = math.lcm(*(c.denominator for c in value.terms.values()))
    return Fraction(numerator, denominator)


def _denested(algebra: Algebra, value: Sum) -> Quotient | None:
    """sqrt(a + b sqrt(c)) = sqrt((a + d) / 2) +- sqrt((a - d) / 2) where d^2 = a^2 - b^2 c is a rational square."""
    constant = value.terms.get((), Fraction(0))
    if len(value.terms) != 2 or constant <= 0:
        return None
    ((monomial, coefficient),) = ((m, c) for m, c in value.terms.items() if m)
    if any(atom.number <= 0 or power != Fraction(1, 2) for atom, power in monomial):
        return None
    square = coefficient**2 * math.prod(atom.number for atom, _ in monomial)
    difference = _rational_square_root(constant**2 - square)
    if difference is None:
        return None
    larger = _root_of_rational(algebra, (constant + difference) / 2, 2)
    smaller = _root_of_rational(algebra, (constant - difference) / 2, 2)
    return algebra.add([larger, smaller if coefficient > 0 else algebra.negate(smaller)])


def _rational_square_root(value: Fraction) -> Fraction | None:
    if value <= 0:
        return None
    numerator, denominator = math.isqrt(value.numerator), math.isqrt(value.denominator)
    result = Fraction(numerator, denominator)
    return result if result * result == value else None
