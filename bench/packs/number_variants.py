"""Training questions with other numbers: GSM8K's calculator marks make a rationale a program, which is run again on numbers drawn anew.

    python bench/packs/number_variants.py --data DATA/gsm8k/train.jsonl --each 4 --seed 0 --out variants.jsonl

A variant keeps its question's id, and so its rules: the reasoning is the same. Numbers are told apart by their values, so a question is
left as it is where that is not sure: a mark that is wrong or rounded, a number in the rationale that no mark explains, a number that
is also a word, a date, an ordinal or a constant such as the 7 of a week. What was larger stays larger, and what was whole stays whole.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import random
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from marks import MARK, NUMBER, UnfitError, decimal, evaluate, parse, value_of

from lorid_engine.errors import LoridError
from lorid_engine.train.examples import read_questions
from lorid_engine.train.files import write_whole

# What a rationale may use without the question's having said so: of calendars, clocks, money and measures, and what is so common
# that it may mean anything.
_CONSTANTS = {Fraction(n) for n in (0, 1, 2, 7, 10, 12, 16, 24, 25, 30, 31, 50, 52, 60, 90, 100, 180, 360, 365, 1000)}
_WORDS = {
    3: ("three", "third", "triple", "thrice", "yard", "feet", "foot", "triangle"),
    4: ("four", "quarter", "month", "square", "wheel", "leg", "season", "car", "dog", "cat", "rectang"),
    5: ("five", "fifth", "nickel", "week", "finger"),
    6: ("six", "dozen", "insect", "hexagon"),
    8: ("eight", "pint", "gallon", "octopus", "spider"),
    9: ("nine", "ninth"),
    11: ("eleven",),
    13: ("thirteen",),
    14: ("fourteen", "week", "fortnight"),
    15: ("fifteen", "quarter"),
    18: ("eighteen",),
    20: ("twenty", "twentieth", "score"),
    28: ("week", "february"),
    36: ("dozen", "yard", "inch"),
    40: ("forty",),
    48: ("dozen", "day", "hour"),
    120: ("hour", "minute"),
}
_SHARES = {Fraction(n, 100) for n in (1, 5, 10, 20, 25, 50, 75)} | {Fraction(3, 2)}
_UNMARKED = re.compile(rf"=\s*[^\w\s~]?\s*(?:{NUMBER.pattern})")  # "= 24" and "= $24", but not "= $~24"
_CAPS = tuple(  # of what a number may count
    (re.compile(rf"({NUMBER.pattern}){what}"), cap)
    for what, cap in (
        (r" days? (?:a|per|each|every) week", 7),
        (r" hours? (?:a|per|each|every) day", 24),
        (r"\s?(?:%|percent)", 100),
    )
)
_TRIES = 200  # draws of all numbers, until they fit


def _like(value: Fraction, text: str) -> str:
    """A number written as another was: with as many decimals where there were two, and commas where there were some."""
    decimals = len(text.partition(".")[2])
    whole, _, rest = decimal(value).partition(".")
    if rest and not decimals:
        raise UnfitError
    whole = f"{int(whole):,}" if "," in text else whole
    rest = rest.ljust(2, "0") if decimals == 2 else rest
    return f"{whole}.{rest}" if rest else whole


@dataclass(frozen=True)
class _Program:
    """A question whose numbers can be changed.

    Attributes:
        free: values that may be drawn anew, in order.
        kept: all other values that are no result.
        marks: parsed expressions and the values that they had.
    """

    row: dict[str, Any]
    free: tuple[Fraction, ...]
    kept: frozenset[Fraction]
    marks: tuple[tuple[ast.AST, Fraction], ...]

    @classmethod
    def of(cls, row: dict[str, Any]) -> _Program:
        """Reads a row.

        Raises:
            UnfitError: its numbers cannot be told apart.
        """
        question, answer = row["question"], row["answer"]
        asked = {value_of(match[0]) for match in NUMBER.finditer(question)}
        marks: list[tuple[ast.AST, Fraction]] = []
        used: set[Fraction] = set()
        constants: set[Fraction] = set()

        def see(value: Fraction) -> Fraction:
            used.add(value)
            if value not in asked and all(value != result for _, result in marks):
                constants.add(value)
            return value

        for match in MARK.finditer(answer):
            expression, result = parse(match[1]), value_of(match[2])
            if evaluate(expression, see) != result:
                raise UnfitError
            marks.append((expression, result))
        results = {value for _, value in marks}
        said = {value_of(match[0]) for match in NUMBER.finditer(MARK.sub("", answer))}
        if not marks or said - asked - results - used or (asked | constants) & results:
            raise UnfitError
        if constants - _known_constants(asked, f"{question} {answer}") or _has_unmarked_result(answer, results):
            raise UnfitError
        free = {value for value in asked & used if _may_change(value, question, answer)}
        if not free:
            raise UnfitError
        return cls(row, tuple(sorted(free)), frozenset((asked | used | said) - free - results), tuple(marks))

    def variant(self, draw: random.Random) -> dict[str, Any]:
        """The row with other numbers.

        Raises:
            UnfitError: these do not fit.
        """
        table = {value: value for value in self.kept}
        table |= {value: Fraction(_drawn(int(value), draw)) for value in self.free}
        for expression, old in self.marks:
            new = evaluate(expression, table.__getitem__)
            if table.setdefault(old, new) != new:
                raise UnfitError
        before = sorted(table)
        after = [table[value] for value in before]
        if after[0] < 0 or any(a >= b for a, b in itertools.pairwise(after)):
            raise UnfitError

        def other(match: re.Match[str]) -> str:
            return _like(table[value_of(match[0])], match[0])

        row = {name: NUMBER.sub(other, self.row[name]) for name in ("question", "answer")}
        if _goes_beyond(row["question"]) and not _goes_beyond(self.row["question"]):
            raise UnfitError
        return {**self.row, **row}


def _known_constants(asked: set[Fraction], text: str) -> set[Fraction]:
    """What may stand in a rationale though the question has no such figure: else it is a result that has no mark."""
    words = {Fraction(value) for value, words in _WORDS.items() if _has_word(text, words)}
    percents = {share for p in asked for share in (p / 100, 1 - p / 100, 1 + p / 100, 100 - p, 100 + p)}
    return _CONSTANTS | _SHARES | words | percents


def _has_unmarked_result(answer: str, results: set[Fraction]) -> bool:
    """Whether an equation ends in a number that no mark stands before, or the answer is no mark's result."""
    last = NUMBER.findall(answer.rpartition("####")[2])
    return len(last) != 1 or value_of(last[0]) not in results or bool(_UNMARKED.search(MARK.sub("~", answer)))


def _has_word(text: str, words: Sequence[str]) -> bool:
    return any(re.search(rf"\b{word}", text.lower()) for word in words)


def _goes_beyond(question: str) -> bool:
    return any(value_of(match[1]) > cap for pattern, cap in _CAPS for match in pattern.finditer(question))


def _may_change(value: Fraction, question: str, answer: str) -> bool:
    """Whether this number is the question's own, wherever it stands."""
    if value.denominator != 1 or value in _CONSTANTS or 1900 <= value <= 2100:
        return False
    if _has_word(f"{question} {answer}", _WORDS.get(int(value), ())):
        return False
    for match in NUMBER.finditer(question):
        if value_of(match[0]) == value:
            after, before = question[match.end() : match.end() + 3], question[: match.start()][-1:]
            if re.match(r"[A-Za-z:°]|-?(st|nd|rd|th)\b|\s?[ap]\.?m", after) or before in (":", "#", "-"):
                return False
            if after.startswith("%") and f"{float(value / 100):g}".lstrip("0") in answer:
                return False
    return True


def _drawn(value: int, draw: random.Random) -> int:
    """A number of about that size, as round as that."""
    step = next((step for step in (1000, 500, 100, 50, 10, 5) if value % step == 0 and value > step), 1)
    if step > 1 and draw.random() < 0.3:
        step = 1 if value < 100 else 5 if value < 1000 else step
    low, high = max(3, value // 2), 2 * value + 3
    return draw.randint(-(-low // step), high // step) * step


def variants(questions: Sequence[dict[str, Any]], each: int, seed: int) -> Iterator[dict[str, Any]]:
    """At most so many variants of every question that can be changed; the same for the same seed.

    Args:
        questions: {id, question, answer}.
    """
    for row in questions:
        draw, seen = random.Random(f"{seed}:{row['id']}"), {row["question"]}
        try:
            program = _Program.of(row)
        except UnfitError:
            continue
        for _ in range(_TRIES):
            if len(seen) > each:
                break
            try:
                found = program.variant(draw)
            except UnfitError:
                continue
            if found["question"] not in seen:
                seen.add(found["question"])
                yield found


def main() -> int:
    """Writes the variants; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="GSM8K's training questions")
    parser.add_argument("--each", type=int, default=4, help="variants of a question; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    try:
        found = read_questions(options.data)
        questions = [{"id": each.id, "question": each.question, "answer": each.answer} for each in found]
        rows = variants(questions, options.each, options.seed)
        write_whole(options.out, "".join(json.dumps(row) + "\n" for row in rows))
    except (LoridError, OSError) as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
