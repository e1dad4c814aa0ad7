"""What generated word problems are made of: names and things, steps of a rationale with their rules, numbers as they are written."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from fractions import Fraction

from marks import UnfitError, calculate, decimal

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
        value = calculate(sign, Fraction(left), Fraction(right))
        a, b, c = decimal(left), decimal(right), decimal(value)
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


def whole(value: Fraction, least: int = 1) -> Fraction:
    if value.denominator != 1 or value < least:
        raise UnfitError
    return value


def people(draw: random.Random) -> list[str]:
    return draw.sample(NAMES, 3)


def amount(draw: random.Random) -> int:
    """Small numbers most of the time, larger ones now and then."""
    return draw.randint(2, draw.choice((12, 30, 60, 100, 100, 400)))
