"""Units and counted things: which words after a number name the same one."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ALIASES = """
dollar: dollars usd us$ $ buck bucks | cad: c$ | aud: a$ | cent: cents ¢ c | euro: euros eur € | pound: £ gbp quid lb lbs pounds
yen: ¥ jpy | rupee: rupees rs inr ₹ | penny: pennies pence | yuan: rmb cny
meter: m meters metre metres | kilometer: km kms kilometers kilometre kilometres | centimeter: cm cms centimeters centimetre centimetres
millimeter: mm millimeters millimetre millimetres | inch: in inches | foot: ft feet | yard: yd yds yards | mile: mi miles
gram: g gm grams gramme grammes | kilogram: kg kgs kilograms kilo kilos | milligram: mg milligrams | ounce: oz ounces
ton: tons | tonne: tonnes | liter: l L liters litre litres | milliliter: ml mL milliliters millilitre millilitres
gallon: gal gals gallons | quart: qt qts quarts | pint: pt pts pints | cup: cups | teaspoon: tsp teaspoons | tablespoon: tbsp tablespoons
second: s sec secs seconds | minute: min mins minutes | hour: h hr hrs hours | day: days | week: wk wks weeks | month: mo months
year: yr yrs years | decade: decades | century: centuries | millisecond: ms milliseconds
degree: ° degrees deg degs | radian: rad rads radians | percent: % percents pct | unit: units | th: st nd rd
am: a.m. a.m | pm: p.m. p.m | newton: N newtons | joule: J joules | watt: W watts | kilowatt: kW kilowatts | volt: V volts | hertz: Hz
celsius: C centigrade | fahrenheit: F | foot: foots | person: people persons | child: children kid kids | man: men | woman: women
mouse: mice | goose: geese | tooth: teeth | loaf: loaves | knife: knives | leaf: leaves | half: halves | shelf: shelves | wolf: wolves
calf: calves | life: lives | wife: wives | scarf: scarves | ox: oxen | die: dice | point: points pts. | cookie: cookies | movie: movies
pie: pies | tie: ties | acre: acres | dozen: dozens | pair: pairs | calorie: calories cal cals | kilocalorie: kcal | byte: bytes
mile/hour: mph | kilometer/hour: kph kmh kmph | meter/second: mps | gigabyte: gb GB | megabyte: mb MB | kilobyte: kb KB
"""
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_POWER_SUFFIXES = {"squared": 2, "cubed": 3}
_FILLER_WORDS = (
    "total altogether left remaining more now overall the each approximately full whole extra additional only"
)
_FILLERS = frozenset(_FILLER_WORDS.split())
_FOLLOWING_WORDS = (
    "old tall long wide high deep thick away ago apart ahead behind early late later earlier older younger taller shorter "
    "longer wider higher deeper"
)
_FOLLOWING = frozenset(_FOLLOWING_WORDS.split())  # 5 years old: what is counted is years
_REJECTED_WORDS = (
    "than minus plus less fewer greater over divided by not to mod base and or if is are was were when import print "
    "negative equals from between until out at"
)
_REJECTED = frozenset(_REJECTED_WORDS.split())
_COUNTRIES = {"us": "dollar", "american": "dollar", "canadian": "cad", "australian": "aud"}
_NOT_PLURAL = ("ss", "us", "is", "as", "os")
_TOKEN = re.compile(r"[^\W\d_][^\W\d_.'\-]*(?:[.'\-][^\W\d_]+)*\.?|[°$€£¥₹¢%]|[/*]|\^ ?\{? ?-?[0-9] ?\}?")


def _alias_table() -> dict[str, str]:
    table = {}
    for entry in re.split(r"[|\n]", _ALIASES):
        name, _, others = entry.strip().partition(":")
        if name:
            table.update(dict.fromkeys([name, *others.split()], name))
    return table


_NAMES = _alias_table()


@dataclass(frozen=True)
class Unit:
    """Named factors with their powers, and the words that describe what is counted."""

    factors: tuple[tuple[str, int], ...]
    modifiers: frozenset[str] = frozenset()

    @property
    def is_percent(self) -> bool:
        """Whether it is a percent sign."""
        return self.factors == (("percent", 1),)

    def agrees(self, other: Unit) -> bool:
        """Whether the two may be the same unit: "red apples" and "apples" do, "red apples" and "green apples" do not."""
        if self.factors != other.factors:
            return False
        return self.modifiers <= other.modifiers or other.modifiers <= self.modifiers


def known_name(word: str) -> str | None:
    """The unit that a word or sign names; None for other words."""
    return _NAMES.get(word) or (_NAMES.get(word.lower()) if len(word) > 1 else None)


def parse_unit(text: str) -> Unit | None:
    """Read "cm^2", "miles per hour", "red apples" or "cups of flour"; None where text is not a unit."""
    text = text.replace("in total", " ").replace("in all", " ")
    tokens = _TOKEN.findall(text)
    if sum(map(len, tokens)) != len(text.replace(" ", "")) or len(tokens) > 12:
        return None
    powers: dict[str, int] = {}
    modifiers: set[str] = set()
    for sign, part in _split_at_per(tokens):
        read = _parse_part(part)
        if read is None:
            return None
        for name, power in read[0].items():
            powers[name] = powers.get(name, 0) + sign * power
        modifiers |= read[1]
    return Unit(tuple(sorted(powers.items())), frozenset(modifiers)) if powers else None


def is_spoken(text: str) -> bool:
    """Whether every word of text is a known unit or goes with one, so that it cannot be taken for symbols."""
    return all(
        known_name(token.rstrip(".")) or known_name(token) or token.lower() in ("per", *_POWERS, *_POWER_SUFFIXES)
        for token in _TOKEN.findall(text)
        if token[0].isalpha()
    )


def _split_at_per(tokens: list[str]) -> list[tuple[int, list[str]]]:
    parts: list[tuple[int, list[str]]] = [(1, [])]
    for index, token in enumerate(tokens):
        between = 0 < index < len(tokens) - 1
        if token == "/" or token.lower() == "per" or (between and token.lower() in ("a", "an", "each", "every")):
            parts.append((-1, []))
        elif token != "*":
            parts[-1][1].append(token)
    return parts


def _parse_part(tokens: list[str]) -> tuple[dict[str, int], set[str]] | None:
    """Factors and modifiers of a product of units, or of a noun phrase."""
    words: list[list[str | int]] = []  # [word, power]
    power_ahead = 1
    for token in tokens:
        word = token if known_name(token) else token.rstrip(".")
        lower = word.lower()
        if lower in _REJECTED:
            return None
        if lower in _POWERS:
            power_ahead = _POWERS[lower]
        elif (lower in _POWER_SUFFIXES or token[0] == "^") and words:
            words[-1][1] = _POWER_SUFFIXES.get(lower) or int(re.sub(r"[^0-9-]", "", token))
        elif lower not in _FILLERS:
            words.append([word, power_ahead])
            power_ahead = 1
    if "of" in [word for word, _ in words[:1]] or not words:
        return None if words else ({}, set())
    return _name_words([(str(word), int(power)) for word, power in words])


def _name_words(words: list[tuple[str, int]]) -> tuple[dict[str, int], set[str]] | None:
    head_end = next((i for i, (word, _) in enumerate(words) if word.lower() == "of"), len(words))
    names = [known_name(word) or singular(word.lower()) for word, _ in words]
    modifiers = {name for name, (word, _) in zip(names, words, strict=True) if word.lower() != "of"}
    if any(not known_name(word) and len(word) < 3 and word.lower() != "of" for word, _ in words[:head_end]):
        country = _COUNTRIES.get(words[0][0].lower())
        if country is None:
            return None
    head = head_end - 1
    while head > 0 and words[head][0].lower() in _FOLLOWING:
        head -= 1
    if names[head] == "dollar" and head and words[head - 1][0].lower() in _COUNTRIES:
        return {_COUNTRIES[words[head - 1][0].lower()]: words[head][1]}, set()
    if all(known_name(word) for word, _ in words):
        return _multiplied(names, words)
    for index, name in enumerate(names):  # "$ 18 profit" and "50% discount": the sign is the unit
        if name in ("dollar", "percent", "euro", "pound", "cent", "th"):
            return {name: 1}, modifiers - {name}
    return {names[head]: words[head][1]}, modifiers - {names[head]}


def _multiplied(names: list[str], words: list[tuple[str, int]]) -> tuple[dict[str, int], set[str]]:
    factors: dict[str, int] = {}
    for name, (_, power) in zip(names, words, strict=True):
        top, _, bottom = name.partition("/")
        if factors.get(top) == power and top == "dollar":
            continue  # "$ 18 dollars"
        factors[top] = factors.get(top, 0) + power
        if bottom:
            factors[bottom] = factors.get(bottom, 0) - power
    return factors, set()


def singular(word: str) -> str:
    """A noun without the ending of its plural, well enough to tell that "boxes" and "box" are the same.

    >>> [singular(word) for word in ("boxes", "berries", "apples", "glass")]
    ['box', 'berry', 'apple', 'glass']
    """
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses", "zes", "toes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(_NOT_PLURAL) and len(word) > 3:
        return word[:-1]
    return word
