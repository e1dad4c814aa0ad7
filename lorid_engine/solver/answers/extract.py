"""Find the answer that a rationale gives."""

from __future__ import annotations

import re

_BOXED_WINDOW = 50_000  # characters on either side of the last \boxed in which it ends, or an earlier one stands
_MAX_SENTENCE = 400
_BRACE = re.compile(r"\\boxed\s{0,3}\{|\\fbox\s{0,3}\{|\\.|[{}]", re.DOTALL)
_BARE_BOXED = re.compile(r"\\boxed ?(-?[0-9]{1,100}(?:[.,][0-9]{1,100}){0,9}|[A-Za-z])")
_STATED = re.compile(r"answer(?:s?\s{1,3}(?:is|are)\b|\s{0,3}:|\*\*:|:\*\*)[ \t]{0,10}:?", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!](?=\s|$)|;\s|\n|<\||</s>|####|,?\s(?:because|since|which)\s")
_ABBREVIATION = re.compile(
    r"(?:\b[ap]\.m|\b(?:lbs?|oz|ft|hrs?|mins?|sec|approx|no|vs|etc|dr|mrs?|ms|st))$", re.IGNORECASE
)
_BOLD = re.compile(r"\*\*([^*\n]{1,400})\*\*")
_ADVERB = re.compile(r"(?:therefore|thus|simply|just|indeed|hence|then),? ", re.IGNORECASE)
_NUMBER_CHARACTERS = re.compile(r"[0-9.,/ $€£%+\-−–]+")
_NUMBER = re.compile(
    # A dash after a number, bracket or word is no sign, nor is one with a space behind it, except after "=" and "(".
    r"(?P<sign>(?:(?<![0-9)\]}A-Za-z%./ ])|(?<=[^0-9)\]}%] ))[-−–](?! )|(?:(?<=[=(])|(?<== ))[-−–] )?"
    r"(?:(?P<currency>[$€£] ?)(?P<minus>[-−–])?)?"
    r"(?P<number>[0-9]+ [0-9]+/[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?(?![0-9])"
    r"|[0-9]+\.[0-9]+|(?<![0-9])\.[0-9]+|[0-9]+(?:/[0-9]+(?![0-9./]))?)(?P<percent> ?%)?"
)
# Numbers that end in the last digits of a text, but are more than those: fractions, roots and powers of ten.
_NOTATION = re.compile(
    r"(?<![0-9A-Za-z.,\\])[-−–]?(?:"
    r"(?:[0-9]{1,50} ?)?\\[dtc]?frac ?(?:\{-?[0-9]{1,100}\}|[0-9]) ?(?:\{[0-9]{1,100}\}|[0-9])"
    r"|[0-9]{0,50} ?\\sqrt ?(?:\{[0-9]{1,100}\}|[0-9])"
    r"|[0-9]{1,100}(?:\.[0-9]{1,100})?"
    r"(?:[eE][-+]?[0-9]{1,18}|(?: ?(?:[×x*]|\\times|\\cdot) ?)10 ?\^ ?(?:\{-?[0-9]{1,18}\}|-?[0-9]{1,18}))"
    r")(?![0-9A-Za-z])"
)
_NOTATION_WINDOW = 400
_DIGITS = re.compile(r"[0-9]+")
_NUMBER_WINDOW = 2000  # characters in front of the last run of digits that can belong to the same number
_NOTHING = ("", "None")


def extract(text: str, pattern: str | None = None) -> str | None:
    """The answer in a rationale.

    Tried in turn: the last match of pattern, the last \\boxed{...} with balanced braces, the last "answer is ..." or
    "answer: ...", the last number.

    Args:
        text: what a model wrote; of any length.
        pattern: a pack's regular expression, such as "#### (.+)"; its first group that took part (or all of it) is the answer.

    Returns:
        The answer without spaces around it; None where there is none, or it is the word None.
    """
    found = _by_pattern(text, pattern)
    if found is None:
        found = _boxed(text)
    if found is None:
        found = _stated(text)
    if found is None:
        found = _last_number(text)
    found = (found or "").strip()
    return None if found in _NOTHING else found


def _by_pattern(text: str, pattern: str | None) -> str | None:
    last = None
    if pattern is not None:
        for match in re.finditer(pattern, text):
            last = match
    if last is None:
        return None
    if not last.re.groups:
        return last[0]
    return next((group for group in last.groups() if group is not None), "")  # one of several alternatives


def _boxed(text: str) -> str | None:
    last = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if last < 0:
        return None
    text = text[max(0, last - _BOXED_WINDOW) : last + _BOXED_WINDOW]
    opened: list[int] = []  # for each open brace, where the box's contents start, or -1
    start, end = -1, -1
    for token in _BRACE.finditer(text):
        if token[0] == "}":
            content = opened.pop() if opened else -1
            if content > start:
                start, end = content, token.start()
        elif token[0] == "{":
            opened.append(-1)
        elif token[0][-1] == "{" and len(token[0]) > 2:
            opened.append(token.end())
    bare = None
    for bare in _BARE_BOXED.finditer(text):
        pass
    if bare is not None and bare.start() > start:
        return bare[1]
    return text[start:end] if start >= 0 else None


def _stated(text: str) -> str | None:
    last = None
    for last in _STATED.finditer(text):
        pass
    if last is None:
        return None
    sentence = _BOLD.sub(r"\1", text[last.end() : last.end() + _MAX_SENTENCE]).lstrip(" \t*:\n")
    end = len(sentence)
    for stop in _SENTENCE_END.finditer(sentence):
        if stop[0] != "." or not _ABBREVIATION.search(sentence[max(0, stop.start() - 8) : stop.start()]):
            end = stop.start()
            break
    sentence = sentence[:end].strip().strip("*").strip()
    adverb = _ADVERB.match(sentence)
    return sentence[adverb.end() :] if adverb else sentence or None


def _last_number(text: str) -> str | None:
    backwards = text[::-1]
    digit = re.search(r"[0-9]", backwards)
    if digit is None:
        return None
    end = len(text) - digit.start()
    window = text[max(0, end - _NOTATION_WINDOW) : end + 1]
    for match in _NOTATION.finditer(window):
        if match.end() >= len(window) - (len(text) > end):  # it reaches the last digit
            return match[0].strip()
    around = _NUMBER_CHARACTERS.match(backwards, digit.start())
    start = len(text) - around.end() if around else end - 1
    digits = _DIGITS.match(backwards, digit.start())
    assert digits is not None
    start = max(start, len(text) - digits.end() - _NUMBER_WINDOW)
    before = text[max(0, start - 1) : start]
    region = before + text[start:end] + ("%" if text[end : end + 2].strip().startswith("%") else "")
    last = None
    for last in _NUMBER.finditer(region):
        pass
    if last is None:
        return region.strip()
    sign = last["sign"] or last["minus"] or ""
    currency = (last["currency"] or "").strip()
    if currency == "$" and text.startswith("$", end):
        currency = ""  # $42$ is mathematics
    return f"{sign.strip()}{currency}{last['number']}{(last['percent'] or '').strip()}"
