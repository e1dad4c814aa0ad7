"""What an answer can be: the forms that reading makes and comparing takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

from lorid_engine.solver.answers.algebra import Quotient
from lorid_engine.solver.answers.numbers import Literal
from lorid_engine.solver.answers.units import Unit


@dataclass(frozen=True)
class Huge:
    """A number with too many digits for arithmetic."""

    literal: Literal


@dataclass(frozen=True)
class Quantity:
    """An exact value with a unit, if one was given."""

    value: Quotient
    unit: Unit | None = None
    is_decimal: bool = False  # written with a decimal point, so it may be rounded


@dataclass(frozen=True)
class Group:
    """Several answers: a "list", a "set" (also "1 or 2"), a "union" of sets, a "matrix" of rows, or "bracketed"."""

    kind: str
    items: tuple[Form, ...]
    brackets: str = ""  # "(]" and so on for bracketed items: a point, an interval, a vector
    variable: str = ""  # which variable is in the interval, where the answer says so


@dataclass(frozen=True)
class Equation:
    """left = right, or left != right."""

    left: Form
    right: Form
    negated: bool = False


@dataclass(frozen=True)
class Inequality:
    """value > 0, or value >= 0."""

    value: Quotient
    strict: bool


@dataclass(frozen=True)
class Proportion:
    """3:2, or 1:2:3."""

    parts: tuple[Quotient, ...]


@dataclass(frozen=True)
class Clock:
    """A time of day."""

    hour: int
    minute: int | None
    second: int | None
    half: str  # "am", "pm" or ""


@dataclass(frozen=True)
class Date:
    """A day of the year."""

    month: int
    day: int
    year: int | None


@dataclass(frozen=True)
class Choice:
    """An option with its letter and its value: (B) 12, or (B) alone."""

    letter: str
    value: Form | None


@dataclass(frozen=True)
class Text:
    """Anything else, by its key (see normalise.text_key)."""

    key: str


Form = Union[Huge, Quantity, Group, Equation, Inequality, Proportion, Clock, Date, Choice, Text]  # noqa: UP007
