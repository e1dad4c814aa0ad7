"""Read a number or expression with a unit."""

from __future__ import annotations

import re
from fractions import Fraction

from lorid_engine.solver.answers.algebra import UNIT, Algebra, Quotient, Sum
from lorid_engine.solver.answers.bounds import MAX_DIGITS, Budget, Refused
from lorid_engine.solver.answers.forms import Form, Huge, Quantity
from lorid_engine.solver.answers.normalise import DOLLAR, QUOTE_CLOSE, QUOTE_OPEN
from lorid_engine.solver.answers.numbers import parse_literal
from lorid_engine.solver.answers.parser import parse_expression
from lorid_engine.solver.answers.units import Unit, is_spoken, known_name, parse_unit
from lorid_engine.solver.answers.words import SCALES, denominator, parse_number_words

_TAIL_TOKEN = re.compile(
    rf"{QUOTE_OPEN}[^{QUOTE_CLOSE}]*{QUOTE_CLOSE}|[^\W\d_]+(?:[.'\-][^\W\d_]+)*\.?|[°$€£¥₹¢%{DOLLAR}]"
    r"|\^ ?(?:\{ ?-?[0-9] ?\}|-?[0-9])|[/*]"
)
_CURRENCY = re.compile(rf"([+-]?) ?(US|C|A)?({DOLLAR}|[$€£¥₹]|(?:USD|EUR|GBP|CAD|AUD|INR|JPY|Rs\.?)(?= ?[0-9])) ?")
_DECIMAL = re.compile(r"[+-]? ?[0-9]*\.[0-9]+(?:[eE][+-]?[0-9]+| ?\* ?10 ?\^.*)?", re.ASCII)
_NUMERIC_WORD = re.compile(r"[A-Za-z]+")
_REMARK = re.compile(r"([^()]+?) ?\(([A-Za-z][A-Za-z \-]{2,})\)")
_NO_WORDS = re.compile(r"abc|[xyz]+|[a-z]")


def read_quantity(text: str, budget: Budget, plus_minus: int = 1) -> Form | None:
    """A number in digits or words or an expression, with or without a unit; None where text is none of these.

    Raises:
        Refused: a limit was reached.
    """
    literal = parse_literal(text)
    if literal is not None:
        if len(literal.digits) + abs(literal.exponent) > MAX_DIGITS:
            return Huge(literal)
        return Quantity(Quotient.of(literal.fraction()), None, "." in text)
    remark = _REMARK.fullmatch(text)
    if remark:
        return _read_remark(remark, budget)
    currency, match = "", _CURRENCY.match(text)
    if match:
        currency = ((match[2] or "") + match[3]).replace(DOLLAR, "$") + " "
        text = match[1] + text[match.end() :]
    return read_words(text, currency) or _read_digits(text, budget, plus_minus, currency)


def read_words(text: str, currency: str = "") -> Quantity | None:
    """Read "twenty-five apples"; None where text does not start with a number in words."""
    read = parse_number_words(text)
    if read is None:
        return None
    value, ordinal, rest = read
    return _scaled(Quotient.of(value), rest, currency or ("th " if ordinal else ""), False)


def symbols_as_unit(quantity: Quantity) -> Quantity | None:
    """5m, read as a product, as 5 meters; None where a symbol in it is not the short name of a unit."""
    terms = quantity.value.numerator.terms
    if len(terms) != 1 or quantity.value.denominator is not UNIT:
        return None
    ((monomial, coefficient),) = terms.items()
    number = tuple((atom, power) for atom, power in monomial if atom.number)
    symbols = [(known_name(atom.name), power) for atom, power in monomial if not atom.number]
    if not symbols or any(name is None or power.denominator != 1 for name, power in symbols):
        return None
    factors = tuple(sorted((str(name), power.numerator) for name, power in symbols))
    return Quantity(Quotient(Sum({number: coefficient}), UNIT), Unit(factors))


def _read_digits(text: str, budget: Budget, plus_minus: int, currency: str) -> Quantity | None:
    """Digits or an expression, then words; the split is where the words at the end begin."""
    start = _tail_start(text, bool(currency))
    head, tail = text[:start].rstrip(), text[start:]
    if tail and head:
        quantity = _with_tail(text, start, currency, budget, plus_minus)
        if quantity is not None:
            return quantity
    try:
        return _scaled(parse_expression(text, budget, plus_minus), "", currency, bool(_DECIMAL.fullmatch(text)))
    except Refused:
        if budget.units < 0:
            raise
        return None


def _with_tail(text: str, start: int, currency: str, budget: Budget, plus_minus: int) -> Quantity | None:
    """The expression before start with the words after it."""
    head, tail = text[:start].rstrip(), text[start:]
    quoted = QUOTE_OPEN in tail
    spaced = text[len(head)] == " " or quoted or not tail[0].isalpha()
    plain = tail.replace(QUOTE_OPEN, " ").replace(QUOTE_CLOSE, " ").replace(DOLLAR, "$").strip()
    try:
        value = parse_expression(head, budget, plus_minus)
    except Refused:
        if budget.units < 0:
            raise
        return None
    words = [word for word in re.split(r"[^A-Za-z]+", plain) if word]
    is_number = value.rational() is not None
    if not quoted and words:
        first = words[0]
        if not spaced and (len(first) < 2 or not (known_name(first) or len(first) > 3)):
            return None  # 5m and 5abc are products of symbols
        if any(_NO_WORDS.fullmatch(word) and not known_name(word) for word in words):
            return None
        if not is_number and not is_spoken(plain):
            return None
        if not is_number and any(len(word) == 1 for word in words):
            return None  # 2x m
    return _scaled(value, plain, currency, bool(_DECIMAL.fullmatch(head)))


def _scaled(value: Quotient, tail: str, unit_ahead: str, is_decimal: bool) -> Quantity | None:
    """Value with the unit in tail, after words such as "million" and "thirds"."""
    tail = tail.strip(" -")
    factor = Fraction(1)
    while match := _NUMERIC_WORD.match(tail):
        word = match[0].lower()
        rest = tail[match.end() :].lstrip()
        if word in SCALES:
            factor *= SCALES[word]
        elif (
            word in ("percent", "pct")
            or unit_ahead == "th "
            or word not in ("thirds", "fifths", "sixths", "eighths", "tenths")
        ):
            break
        else:
            factor /= denominator(word) or 1
        if factor > 10**40:
            return None
        tail = rest
    if factor != 1:
        number = value.rational()
        if number is None:
            return None
        value = Quotient.of(number * factor)
    if tail.lower().startswith("per cent"):
        tail = "percent" + tail[8:]
    if tail.lower() in ("in total", "in all", "total", "altogether", "left", "more", "each"):
        tail = ""
    if not tail and not unit_ahead:
        return Quantity(value, None, is_decimal)
    unit = parse_unit(unit_ahead + tail)
    return None if unit is None else Quantity(value, unit, is_decimal)


def _tail_start(text: str, may_divide: bool) -> int:
    """Where the words, currency signs and powers of words at the end of text begin; "$5/hour" may begin with a slash."""
    tokens = list(_TAIL_TOKEN.finditer(text))
    start = len(text)
    first_word = start
    for token in reversed(tokens):
        if text[token.end() : start].strip() or (token.start() and text[token.start() - 1] in "\\_"):
            break
        start = token.start()
        if token[0][0] not in "/*^" or (may_divide and token[0] == "/" and first_word < len(text)):
            first_word = start
    return first_word


def _read_remark(remark: re.Match[str], budget: Budget) -> Form | None:
    """6 (six): a remark in brackets that says the same."""
    first, second = read_quantity(remark[1], budget), read_words(remark[2])
    if not isinstance(first, Quantity) or second is None:
        return None
    return first if Algebra(budget).equal(first.value, second.value) else None
