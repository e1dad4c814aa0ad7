"""Times of day, dates, ratios and numbers in other bases."""

from __future__ import annotations

import re

from lorid_engine.solver.answers.bounds import Budget, Refused
from lorid_engine.solver.answers.forms import Clock, Date, Form, Group, Proportion, Text
from lorid_engine.solver.answers.parser import parse_expression
from lorid_engine.solver.answers.quantities import read_quantity
from lorid_engine.solver.answers.words import parse_number_words

_HALF = r"(?P<half>[aApP])\.? ?[mM]\.?"
_CLOCK = re.compile(
    rf"(?P<hour>[0-2]?[0-9]):(?P<minute>[0-5][0-9])(?::(?P<second>[0-5][0-9]))?(?: ?\x01? ?{_HALF}\x02?)?"
)
_HOUR = re.compile(rf"(?P<hour>1[0-2]|0?[1-9]) ?\x01? ?{_HALF}\x02?")
_MONTH_NAMES = "january february march april may june july august september october november december"
_MONTHS = _MONTH_NAMES.split()
_MONTH = r"(?P<month>[A-Za-z]{3,9})\.?"
_DAY = r"(?P<day>[0-3]?[0-9])(?:st|nd|rd|th)?"
_YEAR = r"(?:,? ?(?P<year>[0-9]{4}))?"
_DATES = (
    re.compile(rf"{_MONTH} {_DAY}{_YEAR}"),
    re.compile(rf"(?:the )?{_DAY} (?:of )?{_MONTH}{_YEAR}"),
)
_NUMERIC_DATE = re.compile(r"[0-9]{4}[-/][0-9]{1,2}[-/][0-9]{1,2}|[0-9]{1,2}[-/][0-9]{1,2}[-/][0-9]{4}")
_PHONE = re.compile(r"[0-9]{3}-[0-9]{4}|[0-9]{3}-[0-9]{3}-[0-9]{4}")
_RATIO = re.compile(r"[^:=<>]{1,100}(?::[^:=<>]{1,100}){1,4}")
_SPOKEN_RATIO = re.compile(r"([0-9.]{1,20}) to ([0-9.]{1,20})")
_BASED = re.compile(r"([0-9A-Fa-f]{1,200}) ?_ ?(?:\{? ?\x01? ?([A-Za-z]{3,9}|[0-9]{1,2}) ?\x02? ?\}?)")
_COMPOUND = re.compile(r"[0-9][0-9./]{0,20} ?[A-Za-z]{1,12}\.?(?: [0-9][0-9./]{0,20} ?[A-Za-z]{1,12}\.?){1,3}")
_COMPOUND_PART = re.compile(r"[0-9][0-9./]* ?[A-Za-z]+\.?")


def read_special(text: str, budget: Budget) -> Form | None:
    """The form of a text that has a notation of its own; None for all others."""
    if not text[:1].isalnum() and text[:1] not in "\\-.":
        return None
    return (
        _read_clock(text)
        or _read_date(text)
        or _read_based(text)
        or _read_ratio(text, budget)
        or _read_compound(text, budget)
    )


def _read_clock(text: str) -> Form | None:
    match = _CLOCK.fullmatch(text) or _HOUR.fullmatch(text)
    if match is None:
        return None
    found = match.groupdict()
    if not found["half"]:
        return None if len(found["minute"]) != 2 else _plain_time(found)
    second = found.get("second")
    minute = found.get("minute")
    half = found["half"].lower() + "m"
    return Clock(int(found["hour"]), int(minute) if minute else None, int(second) if second else None, half)


def _plain_time(found: dict[str, str | None]) -> Form:
    """10:30 without am or pm, which may also be a ratio."""
    second = found.get("second")
    return Clock(int(found["hour"] or 0), int(found["minute"] or 0), int(second) if second else None, "")


def _read_date(text: str) -> Form | None:
    for pattern in _DATES:
        match = pattern.fullmatch(text)
        if match:
            name = match["month"].lower()
            months = [
                i for i, month in enumerate(_MONTHS, 1) if month == name or name in (month[:3], "sept"[: 4 * (i == 9)])
            ]
            if months and 1 <= int(match["day"]) <= 31:
                return Date(months[0], int(match["day"]), int(match["year"]) if match["year"] else None)
    if _NUMERIC_DATE.fullmatch(text) or _PHONE.fullmatch(text):
        return Text(text)  # not a division or subtraction
    return None


def _read_based(text: str) -> Form | None:
    """4210_7: compared digit by digit, in the same base only."""
    match = _BASED.fullmatch(text)
    if match is None or not match[1][0].isdigit():
        return None
    base = match[2]
    if base.isalpha():
        words = parse_number_words(base)
        if words is None or words[2] or words[0].denominator != 1 or words[0] > 36:
            return None
        base = str(words[0].numerator)
    return Text(f"{match[1].lstrip('0').lower() or '0'}_{int(base)}")


def _read_ratio(text: str, budget: Budget) -> Form | None:
    spoken = _SPOKEN_RATIO.fullmatch(text)
    if spoken:
        text = f"{spoken[1]}:{spoken[2]}"
    if ":" not in text or not _RATIO.fullmatch(text):
        return None
    try:
        return Proportion(tuple(parse_expression(part.strip(), budget) for part in text.split(":")))
    except Refused:
        return None


def _read_compound(text: str, budget: Budget) -> Form | None:
    """2 hours 30 minutes: the same as with "and" between."""
    if not _COMPOUND.fullmatch(text):
        return None
    parts = [read_quantity(part, budget) for part in _COMPOUND_PART.findall(text)]
    if any(part is None or getattr(part, "unit", None) is None for part in parts):
        return None
    return Group("list", tuple(part for part in parts if part is not None))
