"""Numbers written in words."""

from __future__ import annotations

import itertools
import re
from fractions import Fraction

_ONES_NAMES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS_NAMES = "twenty thirty forty fifty sixty seventy eighty ninety"
_ORDINAL_NAMES = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
_ONES = {word: value for value, word in enumerate(_ONES_NAMES.split())}
_TENS = {word: 10 * value for value, word in enumerate(_TENS_NAMES.split(), start=2)}
SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_ORDINALS = {
    **{word: value for value, word in enumerate(_ORDINAL_NAMES.split(), start=1)},
    "twentieth": 20,
    "hundredth": 100,
    "thousandth": 1000,
}
_PARTS = {"half": 2, "halves": 2, "quarter": 4, "quarters": 4}
_PARTS.update({name: value for name, value in _ORDINALS.items() if value > 2})
_PARTS.update({name + "s": value for name, value in _ORDINALS.items() if value > 2})
_FIRST_WORDS = frozenset([*_ONES, *_TENS, *_ORDINALS, "half", "a", "an", "negative", "minus"])
_NUMBER_WORDS = frozenset([*_ONES, *_TENS, *SCALES])
_WORD = re.compile(r"[A-Za-z]+")


def denominator(word: str) -> int | None:
    """3 for "third" and "thirds", 2 for "half" and so on."""
    return _PARTS.get(word.lower())


def parse_number_words(text: str) -> tuple[Fraction, bool, str] | None:
    """Read the number words at the start of text.

    Returns:
        The value, whether it is an ordinal ("fifth"), and the text after it; None where text starts with no number.
    """
    first = _WORD.match(text)
    if first is None or first[0].lower() not in _FIRST_WORDS:
        return None
    spans = list(re.finditer(r"[A-Za-z]+", text[:400]))
    words = [span[0].lower() for span in spans]
    for before, after in itertools.pairwise(spans):  # words of one number are joined by spaces or hyphens
        if text[before.end() : after.start()] not in (" ", "-", ", "):
            words = words[: spans.index(after)]
            break
    negative = words[0] in ("negative", "minus")
    reader = _Reader(words, int(negative))
    value, ordinal = reader.number()
    if value is None or reader.position <= int(negative):
        return None
    rest = text[spans[reader.position - 1].end() :]
    if reader.position < len(words) and words[reader.position] in _NUMBER_WORDS:
        return None  # "five six" is no number
    return (-value if negative else value), ordinal, rest


class _Reader:
    def __init__(self, words: list[str], position: int) -> None:
        self.words = words
        self.position = position

    def peek(self, ahead: int = 0) -> str:
        index = self.position + ahead
        return self.words[index] if index < len(self.words) else ""

    def number(self) -> tuple[Fraction | None, bool]:
        if self.peek() == "half":
            self.position += 1
            if self.peek() in ("a", "an"):
                self.position += 1
            return Fraction(1, 2), False
        if self.peek() in ("a", "an"):
            return self.after_article()
        whole = self.cardinal()
        following = self.peek()
        after_tens = whole is not None and whole >= 20 and whole % 10 == 0 and _ORDINALS.get(following, 10) < 10
        if following in _ORDINALS and (whole is None or after_tens):
            self.position += 1
            return Fraction((whole or 0) + _ORDINALS[following]), True
        if whole is None:
            return None, False
        if following in _PARTS and (whole == 1) != following.endswith("s"):
            self.position += 1
            return Fraction(whole, _PARTS[following]), False
        if following == "point" and self.peek(1) in _ONES:
            return self.decimals(whole), False
        return whole + self.and_part(), False

    def after_article(self) -> tuple[Fraction | None, bool]:
        """ "a half", "a hundred and five"; not "a dog"."""
        if self.peek(1) in SCALES:
            self.words[self.position] = "one"
            return self.number()
        part = _PARTS.get(self.peek(1))
        if part is None or self.peek(1).endswith("s"):
            return None, False
        self.position += 2
        return Fraction(1, part), False

    def cardinal(self) -> Fraction | None:
        total, group, smallest = 0, 0, 10**15  # smallest: of the scales so far; scales fall from left to right
        room = 1000  # what the next word of the group has to stay below
        start = self.position
        while True:
            word = self.peek()
            if word == "and" and self.position > start and self.peek(-1) in SCALES and self.is_small(self.peek(1)):
                self.position += 1
                word = self.peek()
            value = _ONES.get(word, _TENS.get(word))
            if value is not None and value < room and (value or self.position == start):
                group, room = group + value, 10 if value >= 20 else 0
            elif word == "hundred" and 0 < group < 100 and room < 1000:
                group, room = group * 100, 100
            elif word in SCALES and word != "hundred" and group and SCALES[word] < smallest:
                total, group, smallest, room = total + group * SCALES[word], 0, SCALES[word], 1000
            else:
                break
            self.position += 1
        return Fraction(total + group) if self.position > start else None

    def is_small(self, word: str) -> bool:
        return word in _ONES or word in _TENS

    def decimals(self, whole: Fraction) -> Fraction:
        self.position += 1
        scale = Fraction(1, 10)
        while _ONES.get(self.peek(), 10) < 10:
            whole += scale * _ONES[self.peek()]
            scale /= 10
            self.position += 1
        return whole

    def and_part(self) -> Fraction:
        """The fraction in "two and a half" and "one and three quarters"."""
        if self.peek() != "and":
            return Fraction(0)
        count = 1 if self.peek(1) in ("a", "an") else _ONES.get(self.peek(1), 0)
        part = _PARTS.get(self.peek(2))
        if not part or not 0 < count < part or (count == 1) == self.peek(2).endswith("s"):
            return Fraction(0)
        self.position += 3
        return Fraction(count, part)
