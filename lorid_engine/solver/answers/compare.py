"""Tell whether two answers are the same."""

from __future__ import annotations

import re
from fractions import Fraction

from lorid_engine.solver.answers.algebra import Algebra, Quotient
from lorid_engine.solver.answers.approximate import approximates
from lorid_engine.solver.answers.bounds import MAX_STRUCTURED_CHARS, Budget, Refused
from lorid_engine.solver.answers.forms import (
    Choice,
    Clock,
    Date,
    Equation,
    Form,
    Group,
    Huge,
    Inequality,
    Proportion,
    Quantity,
    Text,
)
from lorid_engine.solver.answers.normalise import clean, text_key
from lorid_engine.solver.answers.numbers import parse_literal
from lorid_engine.solver.answers.quantities import symbols_as_unit
from lorid_engine.solver.answers.reading import EMPTY_SETS, read
from lorid_engine.solver.answers.split import join_thousands

_NO_ANSWER = frozenset(["", "nan", "null", "n/a", "+nan", "-nan"])
_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?", re.ASCII)
_HUNDRED = Quotient.of(100)


def equivalent(a: str, b: str) -> bool:
    """Whether two answers say the same.

    Exact, symmetric and bounded in time; evaluates nothing. Numbers are equal by value, whatever their notation; a decimal
    with a decimal point also equals a value that has no finite decimal expansion within 1e-6 of it. A missing unit matches
    any unit, units are not converted, and a percentage equals both 50 and 0.5. Lists are ordered unless one is a set.

    Args:
        a: an answer, such as extract returns.
        b: another one.

    Returns:
        True where they surely mean the same; False otherwise and where one is empty, "None" or not a number.
    """
    first, second = sorted(
        (a.strip(), b.strip())
    )  # the order must not matter, not even for what is spent of the budget
    if len(first) > MAX_STRUCTURED_CHARS or len(second) > MAX_STRUCTURED_CHARS:
        return _equal_long(first, second)
    first, second = join_thousands(clean(first)), join_thousands(clean(second))
    if _is_empty(first) or _is_empty(second):
        return False
    if text_key(first) == text_key(second):
        return True
    try:
        return same(_read(first), _read(second), Algebra(Budget()))
    except (Refused, RecursionError):
        return False


def _equal_long(a: str, b: str) -> bool:
    """For texts too long to read: equal as plain numbers or as they stand."""
    if a == b:
        return not _is_empty(a[:10]) or len(a) > 10
    numbers = [parse_literal(text.replace(",", "") if _THOUSANDS.fullmatch(text) else text) for text in (a, b)]
    return numbers[0] is not None and numbers[0] == numbers[1]


def _is_empty(text: str) -> bool:
    if text == "None" or text.lower() in _NO_ANSWER:
        return True
    return len(text) < 200 and not any(c.isalnum() or ord(c) > 127 for c in text) and text not in EMPTY_SETS


def _read(text: str) -> Form:
    try:
        return read(text, Budget())
    except Refused:
        return Text(text_key(text))


def same(a: Form, b: Form, algebra: Algebra) -> bool:
    """Whether two forms are the same answer.

    Raises:
        Refused: comparing takes too much work.
    """
    algebra.budget.spend(1)
    if isinstance(a, Quantity) and isinstance(b, Quantity):
        return _same_quantity(a, b, algebra)
    if isinstance(a, Group) and isinstance(b, Group):
        return _same_group(a, b, algebra)
    if isinstance(a, Equation) or isinstance(b, Equation):
        return _same_equation(a, b, algebra)
    if isinstance(a, Inequality) and isinstance(b, Inequality):
        factor = algebra.factor_between(a.value, b.value)
        return a.strict == b.strict and factor is not None and factor > 0
    if isinstance(a, Proportion) or isinstance(b, Proportion):
        return _same_proportion(a, b, algebra) or _same_proportion(b, a, algebra)
    if isinstance(a, Clock) and isinstance(b, Clock):
        times = [(clock.hour, clock.minute or 0, clock.second or 0) for clock in (a, b)]
        return times[0] == times[1] and (not a.half or not b.half or a.half == b.half)
    if isinstance(a, Clock) or isinstance(b, Clock):
        return _is_hour(a, b) or _is_hour(b, a)
    if isinstance(a, Date) and isinstance(b, Date):
        return (a.month, a.day) == (b.month, b.day) and (a.year is None or b.year is None or a.year == b.year)
    if isinstance(a, Choice) or isinstance(b, Choice):
        return _same_choice(a, b, algebra) or _same_choice(b, a, algebra)
    return isinstance(a, (Huge, Text)) and a == b


def _same_quantity(a: Quantity, b: Quantity, algebra: Algebra) -> bool:
    if a.unit is not None and b.unit is not None:
        return a.unit.agrees(b.unit) and _same_value(a, b, algebra)
    if _same_value(a, b, algebra):
        return True
    if (a.unit is None) != (b.unit is None):
        letters, spelled = (a, b) if a.unit is None else (b, a)
        measured = symbols_as_unit(letters)
        if measured is not None and _same_quantity(measured, spelled, algebra):
            return True
    for percent, plain in ((a, b), (b, a)):
        if percent.unit is not None and percent.unit.is_percent:
            scaled = Quantity(algebra.divide(percent.value, _HUNDRED), None, percent.is_decimal)
            return _same_value(scaled, plain, algebra)
    return False


def _same_value(a: Quantity, b: Quantity, algebra: Algebra) -> bool:
    first, second = a.value.rational(), b.value.rational()
    if first is not None and first == second:
        return True
    if first is None and second is None:
        return algebra.equal(a.value, b.value)
    return (first is not None and a.is_decimal and approximates(first, b.value)) or (
        second is not None and b.is_decimal and approximates(second, a.value)
    )


def _same_group(a: Group, b: Group, algebra: Algebra) -> bool:
    kinds = {a.kind, b.kind}
    if kinds <= {"list", "set"} and "set" in kinds:
        if len(a.items) != len(b.items) and len(kinds) > 1:
            return False
        return _same_members(a, b, algebra)
    if kinds <= {"union", "set"}:
        return _same_members(a, b, algebra)
    if len(kinds) > 1 or a.brackets != b.brackets or len(a.items) != len(b.items):
        return False
    if a.variable and b.variable and a.variable != b.variable:
        return False
    return all(same(x, y, algebra) for x, y in zip(a.items, b.items, strict=True))


def _same_members(a: Group, b: Group, algebra: Algebra) -> bool:
    """Each member of a is in b and the other way round."""
    missing = list(b.items)
    for x in a.items:
        found = next((i for i, y in enumerate(missing) if same(x, y, algebra)), None)
        if found is not None:
            del missing[found]
        elif not any(same(x, y, algebra) for y in b.items):
            return False
    return all(any(same(x, y, algebra) for x in a.items) for y in missing)


def _same_equation(a: Form, b: Form, algebra: Algebra) -> bool:
    if isinstance(a, Equation) and isinstance(b, Equation):
        if a.negated != b.negated:
            return False
        for left, right in ((b.left, b.right), (b.right, b.left)):
            if same(a.left, left, algebra) and same(a.right, right, algebra):
                return True
        sides = [_moved_to_one_side(equation, algebra) for equation in (a, b)]
        if sides[0] is None or sides[1] is None:
            return False
        return algebra.factor_between(sides[0], sides[1]) is not None
    equation, other = (a, b) if isinstance(a, Equation) else (b, a)
    assert isinstance(equation, Equation)
    value = None if equation.negated else _assigned(equation, algebra)
    return value is not None and same(value, other, algebra)


def _moved_to_one_side(equation: Equation, algebra: Algebra) -> Quotient | None:
    left, right = equation.left, equation.right
    if not isinstance(left, Quantity) or not isinstance(right, Quantity) or left.unit or right.unit:
        return None
    if not left.value.atoms() | right.value.atoms():
        return None  # 2 = 8 and 0 = 8 are not the same
    return algebra.add([left.value, algebra.negate(right.value)])


def _assigned(equation: Equation, algebra: Algebra) -> Form | None:
    """The value that an equation such as x = 5, (x, y) = (1, 2) or 2 + 3 = 5 gives to its label."""
    left, right = equation.left, equation.right
    if isinstance(left, Quantity) and isinstance(right, Quantity) and not left.value.atoms() | right.value.atoms():
        return right if _same_quantity(left, right, algebra) else None
    for label, value in ((left, right), (right, left)):
        names = _label_names(label)
        if names and not names & _atoms(value) and not isinstance(value, (Text, Equation, Inequality)):
            return value
    return None


def _label_names(form: Form) -> set[str]:
    """Symbols that form consists of, where it can stand for a value."""
    if isinstance(form, Text):
        return {"text:" + form.key} if any(map(str.isalpha, form.key)) else set()
    if isinstance(form, Group) and form.kind == "bracketed" and form.brackets in ("()", "⟨⟩"):
        names = [_label_names(item) for item in form.items]
        return set().union(*names) if all(names) else set()
    if isinstance(form, Quantity) and form.unit is None:
        atoms = form.value.atoms()
        monomials = form.value.numerator.terms
        constants = {"\\pi", "e", "\\infty", "°"}
        if len(atoms) == 1 and len(monomials) == 1 and form.value.denominator.rational() == 1 and not atoms & constants:
            ((monomial, coefficient),) = monomials.items()
            if coefficient == 1 and len(monomial) == 1 and monomial[0][1] == 1 and not monomial[0][0].base:
                return atoms
    return set()


def _atoms(form: Form) -> set[str]:
    if isinstance(form, Quantity):
        return form.value.atoms()
    if isinstance(form, Group):
        return set().union(*(_atoms(item) for item in form.items))
    return set()


def _same_proportion(a: Form, b: Form, algebra: Algebra) -> bool:
    if not isinstance(a, Proportion):
        return False
    if isinstance(b, Quantity) and b.unit is None and len(a.parts) == 2 and a.parts[1].rational() != 0:
        return algebra.equal(algebra.divide(a.parts[0], a.parts[1]), b.value)
    if isinstance(b, Clock):
        numbers = [Fraction(n) for n in (b.hour, b.minute, b.second) if n is not None]
        return not b.half and [part.rational() for part in a.parts] == numbers
    if not isinstance(b, Proportion) or len(a.parts) != len(b.parts):
        return False
    cross = [
        (algebra.multiply(x, b.parts[0]), algebra.multiply(y, a.parts[0]))
        for x, y in zip(a.parts, b.parts, strict=True)
    ]
    return all(algebra.equal(x, y) for x, y in cross) and a.parts[0].rational() != 0 and b.parts[0].rational() != 0


def _is_hour(a: Form, b: Form) -> bool:
    """10 am is 10."""
    if not isinstance(a, Clock) or not isinstance(b, Quantity):
        return False
    return a.minute is None and b.unit is None and b.value.rational() == a.hour


def _same_choice(a: Form, b: Form, algebra: Algebra) -> bool:
    if not isinstance(a, Choice):
        return False
    if isinstance(b, Choice):
        return a.letter == b.letter and (a.value is None or b.value is None or same(a.value, b.value, algebra))
    return isinstance(b, Quantity) and b.unit is None and {name.upper() for name in _label_names(b)} == {a.letter}
