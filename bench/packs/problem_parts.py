"""What generated word problems are made of: names and things, steps of a rationale with their rules, numbers as they are written."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from fractions import Fraction

NAMES = [
    "Ada",
    "Amir",
    "Anya",
    "Ben",
    "Bianca",
    "Bruno",
    "Carla",
    "Chen",
    "Clara",
    "Dario",
    "Dina",
    "Elif",
    "Emil",
    "Esra",
    "Farid",
    "Fiona",
    "Freya",
    "Gita",
    "Goran",
    "Hana",
    "Hugo",
    "Ida",
    "Ilya",
    "Ines",
    "Ivan",
    "Jana",
    "Jonas",
    "Kaya",
    "Kofi",
    "Lara",
    "Leo",
    "Lin",
    "Luca",
    "Maja",
    "Marek",
    "Mina",
    "Mira",
    "Nadia",
    "Nils",
    "Nora",
    "Omar",
    "Oona",
    "Otto",
    "Pablo",
    "Petra",
    "Priya",
    "Rafael",
    "Rania",
    "Rosa",
    "Sami",
    "Selma",
    "Sven",
    "Tara",
    "Theo",
    "Tomas",
    "Uma",
    "Vera",
    "Viktor",
    "Wanda",
    "Yara",
    "Yusuf",
    "Zoe",
]
THINGS = [
    "apples",
    "marbles",
    "stickers",
    "pencils",
    "stamps",
    "shells",
    "cookies",
    "buttons",
    "beads",
    "coins",
    "books",
    "cards",
    "balloons",
    "crayons",
    "oranges",
    "muffins",
    "ribbons",
    "flowers",
    "seeds",
    "bottles",
    "candles",
    "eggs",
    "peaches",
    "plums",
    "badges",
    "stones",
    "tickets",
    "bricks",
    "tiles",
    "pears",
]


@dataclass
class Solution:
    """A rationale that grows step by step, and the rules that its steps follow."""

    lines: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)

    def step(self, text: str, left: Fraction | int, sign: str, right: Fraction | int, rule: str) -> Fraction:
        """Adds a line, in whose text {} is the calculation, and a rule; returns the result."""
        value = _apply(Fraction(left), sign, Fraction(right))
        a, b, c = number(left), number(right), number(value)
        self.lines.append(text.format(f"{a} {sign} {b} = <<{a}{sign}{b}={c}>>{c}"))
        if rule not in self.rules:
            self.rules.append(rule)
        return value


@dataclass(frozen=True)
class Problem:
    """A question, its rationale without the last line, its rules and its answer."""

    question: str
    rationale: str
    knowledge: tuple[str, ...]
    answer: str

    @property
    def target(self) -> str:
        """As GSM8K has it: the rationale, then #### and the answer."""
        return f"{self.rationale}\n#### {self.answer}"


class UnfitError(Exception):
    """Numbers that give no sensible problem; others are drawn."""


def _apply(left: Fraction, sign: str, right: Fraction) -> Fraction:
    if sign == "/":
        return left / right
    return left + right if sign == "+" else left - right if sign == "-" else left * right


def number(value: Fraction | int) -> str:
    """A number as it is written: whole, or with at most two decimals."""
    hundredths = Fraction(value) * 100
    if hundredths.denominator != 1 or value < 0:
        raise UnfitError
    whole, rest = divmod(int(hundredths), 100)
    return str(whole) if not rest else f"{whole}.{rest:02d}".rstrip("0")


def whole(value: Fraction, least: int = 1) -> Fraction:
    if value.denominator != 1 or value < least:
        raise UnfitError
    return value


def people(draw: random.Random) -> list[str]:
    return draw.sample(NAMES, 3)


def amount(draw: random.Random) -> int:
    """Small numbers most of the time, larger ones now and then."""
    return draw.randint(2, draw.choice((12, 30, 60, 100, 100, 400)))
