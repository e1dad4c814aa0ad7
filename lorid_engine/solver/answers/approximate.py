"""Decimals that approximate a value which has no finite decimal expansion."""

from __future__ import annotations

from decimal import Context, Decimal, InvalidOperation, Overflow
from fractions import Fraction

from lorid_engine.solver.answers.algebra import UNIT, Quotient, Sum
from lorid_engine.solver.answers.numbers import terminates

_TOLERANCE = Fraction(1, 10**6)
_MAX_TERMS = 20
_MAX_BITS = 400
_CONSTANTS = {
    "\\pi": Decimal("3.14159265358979323846264338327950288419716939937510582"),
    "e": Decimal("2.71828182845904523536028747135266249775724709369995957"),
}


def approximates(decimal: Fraction, value: Quotient) -> bool:
    """Whether value is a constant without a finite decimal expansion, within 1e-6 of its size from decimal."""
    rational = value.rational()
    if rational is not None:
        if rational == 0 or terminates(rational):
            return False
        return abs(decimal - rational) <= _TOLERANCE * abs(rational)
    number = _number(value.numerator)
    if number is None or value.denominator is not UNIT:
        bottom = _number(value.denominator)
        if number is None or not bottom:
            return False
        number /= bottom
    return bool(number) and abs(decimal - number) <= _TOLERANCE * abs(number)


def _number(value: Sum) -> Fraction | None:
    """The constant's value to some 50 digits; None where it has symbols or is too large."""
    if len(value.terms) > _MAX_TERMS:
        return None
    context = Context(prec=60)
    total = Fraction(0)
    for monomial, coefficient in value.terms.items():
        term = coefficient
        for atom, power in monomial:
            base = Decimal(atom.number) if atom.number > 0 else _CONSTANTS.get(atom.name)
            if base is None and atom.base is not None:
                inner = _number(atom.base)
                base = None if inner is None or inner <= 0 else _decimal(inner, context)
            if base is None or atom.number.bit_length() > _MAX_BITS or abs(power) > 100:
                return None
            try:
                term *= Fraction(context.power(base, _decimal(power, context)))
            except (InvalidOperation, Overflow):
                return None
        total += term
    return total


def _decimal(value: Fraction, context: Context) -> Decimal:
    return context.divide(Decimal(value.numerator), Decimal(value.denominator))
