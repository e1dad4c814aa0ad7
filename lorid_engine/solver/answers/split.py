"""Split normalised text at separators that are outside all brackets."""

from __future__ import annotations

import re

from lorid_engine.solver.answers.bounds import MAX_ITEMS, Refused
from lorid_engine.solver.answers.normalise import QUOTE_CLOSE, QUOTE_OPEN, SET_CLOSE, SET_OPEN

OPENERS = "([{⟨" + SET_OPEN
CLOSERS = ")]}⟩" + SET_CLOSE
_ALL_OPENERS = OPENERS + QUOTE_OPEN
_BRACKET = re.compile("[" + re.escape(_ALL_OPENERS + CLOSERS + QUOTE_CLOSE) + "]")
_LIST_COMMA = re.compile("[,;]")
_ITEM_COMMA = re.compile(",")
_THOUSANDS = re.compile(r"(?<![0-9.,\w])([1-9][0-9]{0,2}(?:,[0-9]{3})+)(?![0-9]|,[0-9])")
_SPACED_THOUSANDS = re.compile(r"(?<![0-9.,/\w^])([1-9][0-9]{0,2}(?: [0-9]{3})+)(?![0-9/]| [0-9]| ?/)")
_MARKED_THOUSANDS = re.compile(r"(?<![0-9.,'\w])[1-9][0-9]{0,2}(?:(?:'[0-9]{3})+|(?:_[0-9]{3})+)(?!['_]?[0-9])")
_CONNECTIVE = re.compile(r",? (and|or) | ?(\\vee|\\lor|\\wedge)(?![A-Za-z]) ?")
_RELATION = re.compile(r"<=|>=|[<>=:]|\\ne(?![A-Za-z])|\\approx(?![A-Za-z])")


def split_outside(text: str, separator: re.Pattern[str]) -> list[tuple[int, int]]:
    """Spans of separators outside brackets and quotes.

    Args:
        text: normalised text.
        separator: matches one separator, which contains no bracket.

    Raises:
        Refused: there are separators, and the brackets do not match.
    """
    ends = {match.start(): match.end() for match in separator.finditer(text)}
    if not ends:
        return []
    spans = []
    depth = 0
    steps = {match.start(): 1 if match[0] in _ALL_OPENERS else -1 for match in _BRACKET.finditer(text)}
    for position in sorted(steps.keys() | ends.keys()):
        step = steps.get(position)
        if step is not None:
            depth += step
            if depth < 0:
                raise Refused("closing bracket without an opening one")
        elif depth == 0:
            spans.append((position, ends[position]))
    if depth:
        raise Refused("bracket not closed")
    return spans


def pieces(text: str, spans: list[tuple[int, int]]) -> list[str]:
    """What lies between the spans.

    Raises:
        Refused: a piece is empty, or there are too many.
    """
    ends = [0, *(end for _, end in spans)]
    starts = [*(start for start, _ in spans), len(text)]
    parts = [text[end:start].strip() for end, start in zip(ends, starts, strict=True)]
    if not all(parts) or len(parts) > MAX_ITEMS:
        raise Refused("empty item, or too many")
    return parts


def split_list(text: str) -> tuple[str, list[str]] | None:
    """The kind ("list" or "set") and items of "1, 2", "1; 2", "1 and 2" or "1 or 2"; None where there is only one item."""
    connectives = split_outside(text, _CONNECTIVE)
    commas = split_outside(text, _LIST_COMMA)
    inside = [(start, end) for start, end in commas if not any(first <= start < last for first, last in connectives)]
    spans = sorted(connectives + inside)
    if not spans:
        return None
    is_set = any("or" in text[start:end] or "vee" in text[start:end] for start, end in connectives)
    return "set" if is_set else "list", pieces(text, spans)


def split_items(text: str) -> list[str]:
    """Items between commas; one item where there is no comma."""
    return pieces(text, split_outside(text, _ITEM_COMMA))


def split_relations(text: str) -> tuple[list[str], list[str]]:
    """The sides of "a < x <= b" and the signs between them."""
    spans = split_outside(text, _RELATION)
    signs = ["=" if text[start:end] == "\\approx" else text[start:end] for start, end in spans]
    return pieces(text, spans), signs


def join_thousands(text: str) -> str:
    """Remove the commas of 1,234, the spaces of 1 234 and the marks of 1'234 and 1_234.

    Within brackets a comma separates items, unless the items are separated by ", " or a group starts with 0, as in (1,000).
    """
    if not any(separator in text for separator in ", '_"):
        return text
    bracketed = text[:1] in OPENERS or any(opener in text for opener in OPENERS)

    def join(match: re.Match[str]) -> str:
        groups = match[1].split(",")
        if bracketed and ", " not in text and not any(group[0] == "0" for group in groups):
            depth = sum(text.count(c, 0, match.start()) for c in OPENERS)
            depth -= sum(text.count(c, 0, match.start()) for c in CLOSERS)
            if depth > 0:
                return match[1]
        return "".join(groups)

    text = _MARKED_THOUSANDS.sub(lambda match: re.sub("['_]", "", match[0]), text)
    text = _THOUSANDS.sub(join, text)
    return _SPACED_THOUSANDS.sub(lambda match: match[1].replace(" ", ""), text)
