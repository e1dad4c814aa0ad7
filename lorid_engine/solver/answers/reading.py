"""Read normalised text into a form."""

from __future__ import annotations

import re

from lorid_engine.solver.answers.algebra import Algebra, Quotient
from lorid_engine.solver.answers.bounds import MAX_DEPTH, MAX_STRUCTURED_CHARS, Budget, Refused
from lorid_engine.solver.answers.forms import Choice, Equation, Form, Group, Inequality, Quantity, Text
from lorid_engine.solver.answers.normalise import NEW_ROW, SET_CLOSE, SET_OPEN, text_key, unwrap
from lorid_engine.solver.answers.parser import is_word, parse_expression
from lorid_engine.solver.answers.quantities import read_quantity, read_words
from lorid_engine.solver.answers.special import read_special
from lorid_engine.solver.answers.split import (
    CLOSERS,
    OPENERS,
    pieces,
    split_items,
    split_list,
    split_outside,
    split_relations,
)

_MEMBER = re.compile(r"([A-Za-z](?:_\w)?|\\[a-z]+|\([a-z](?:, ?[a-z])+\)) ?\\in(?![A-Za-z]) ?")
_CELL_END = re.compile("&")
_CUP = re.compile(r"\\cup(?![A-Za-z])|(?<=[)\]}\x04]) ?U ?(?=[(\[{\x03])")
_MATRIX = re.compile(r"\\begin ?\{([pb]?matrix|array)\}(?:\{[clr|]*\})?(.*)\\end ?\{\1\}")
_CHOICE = re.compile(r"\(([A-Za-z])\) (?=\S)|([A-H])[.):] (?=\S)")
_LETTER = re.compile(r"\(? ?([A-Z]) ?\)|\[([A-Z])\]|\(?([a-z])\)|([A-Z])[.:]")
_OPTIONS = frozenset("ABCDEFGH")
_BUILDER = re.compile(r"[{\x03] ?[A-Za-z] ?(?:\\in ?\\mathbb ?\{R\} ?)?[|:] ?(.+)[}\x04]")
_LABELLED = re.compile(r"([A-Z][a-z]{2,20}(?: [A-Za-z]{1,20}){0,4}): (\S.*)")
_SPOKEN_MIXED = re.compile(r"[0-9]+ and [0-9]+/[0-9]+ ?[A-Za-z]")
_LABEL_CALL = re.compile(r"[A-Za-z](?:\^\{?-1\}?)?'?\([^()]{1,20}\)|m? ?\\angle ?[A-Za-z]{1,3}|[A-Z]{2,3}")
EMPTY_SETS = ("\\emptyset", SET_OPEN + SET_CLOSE, SET_OPEN + " " + SET_CLOSE, "{}", "{ }")
_PLUS_MINUS = re.compile(r"\\(?:pm|mp)(?![A-Za-z])")
_WORDS_ONLY = re.compile(r"[^\W\d_]+(?:[ '\-][^\W\d_]+)*")
_SYMBOL_WORDS = re.compile(r"[xyz]+|[abc]{3}|[A-Za-z]|pi|sqrt|inf|infinity|sin|cos|tan|ln|log|exp")


def read(text: str, budget: Budget, depth: int = 0) -> Form:
    """The form of one answer.

    Args:
        text: normalised text (see normalise.clean), not empty, thousands joined.
        budget: the work that may be spent.
        depth: of brackets around it.

    Raises:
        Refused: a limit was reached; the whole answer is then text.
    """
    budget.spend(5 + len(text) // 8)  # several readers look at every character
    if depth > MAX_DEPTH:
        raise Refused("nested too deeply")
    text = text.strip()
    if not text or len(text) > MAX_STRUCTURED_CHARS:
        raise Refused("empty or too long")
    letter = _LETTER.fullmatch(text)
    if letter:
        text = next(group for group in letter.groups() if group)
        if text.upper() in _OPTIONS:
            return Choice(text.upper(), None)
    for reader in (_read_sure, _read_list, _read_union, _read_relation, _read_bracketed):
        try:
            form = reader(text, budget, depth)
        except Refused:
            if budget.units < 0:
                raise
            form = None
        if form is not None:
            return form
    return _read_value(text, budget) or Text(text_key(text))


def _read_sure(text: str, budget: Budget, depth: int) -> Form | None:
    """Forms that a pattern recognises as a whole."""
    if text in EMPTY_SETS or text.lower() == "empty set":
        return Group("set", ())
    if text.lower() in ("\\mathbb{r}", "all real numbers", "all reals", "(-\\infty,\\infty)"):
        ends = [parse_expression(end, budget) for end in ("-\\infty", "\\infty")]
        return Group("bracketed", tuple(map(Quantity, ends)), "()")
    member = _MEMBER.match(text)
    if member:
        return read(text[member.end() :], budget, depth + 1)
    choice = _CHOICE.match(text)
    if choice:
        return Choice((choice[1] or choice[2]).upper(), read(unwrap(text[choice.end() :]), budget, depth + 1))
    matrix = _MATRIX.fullmatch(text)
    if matrix:
        return _read_matrix(matrix[2], budget, depth)
    builder = _BUILDER.fullmatch(text)
    if builder:
        form = read(builder[1], budget, depth + 1)
        return form if isinstance(form, Group) and form.kind in ("bracketed", "union", "set") else None
    labelled = _LABELLED.fullmatch(text)
    if labelled:
        return Equation(Text(text_key(labelled[1])), read(labelled[2], budget, depth + 1))
    return read_special(text, budget)


def _read_matrix(body: str, budget: Budget, depth: int) -> Form | None:
    rows = []
    for row in filter(str.strip, body.split(NEW_ROW)):
        cells = pieces(row, split_outside(row, _CELL_END))
        rows.append(Group("list", tuple(read(cell, budget, depth + 1) for cell in cells)))
    return Group("matrix", tuple(rows)) if rows else None


def _read_list(text: str, budget: Budget, depth: int) -> Form | None:
    spoken = text.replace(" and ", " ", 1) if _SPOKEN_MIXED.match(text) else text
    quantity = read_quantity(spoken, budget) if " and " in text else None
    if quantity is not None:
        return quantity  # one hundred and five, 2 and 1/2 cups
    split = split_list(text)
    if split is None:
        return None
    kind, parts = split
    items, both_signs = _read_items([unwrap(part) for part in parts], budget, depth)
    if both_signs:
        kind = "set"
    if len(items) > 1 and all(isinstance(item, Equation) for item in items):
        kind = "set"  # x = 1, y = 2
    return Group(kind, items)


def _read_items(parts: list[str], budget: Budget, depth: int) -> tuple[tuple[Form, ...], bool]:
    """The items, and whether one of them had a plus-minus sign and so is two."""
    items: list[Form] = []
    both_signs = False
    for part in parts:
        item = read(part, budget, depth + 1)
        if isinstance(item, Group) and item.kind == "set" and _PLUS_MINUS.search(part) and part[0] not in OPENERS:
            items.extend(item.items)
            both_signs = True
        else:
            items.append(item)
    return tuple(items), both_signs


def _read_union(text: str, budget: Budget, depth: int) -> Form | None:
    spans = split_outside(text, _CUP)
    if not spans:
        return None
    return Group("union", tuple(read(part, budget, depth + 1) for part in pieces(text, spans)))


def _read_bracketed(text: str, budget: Budget, depth: int) -> Form | None:
    """A point, interval, vector or set: brackets around items."""
    if text[:1] not in OPENERS or text[-1:] not in CLOSERS or text[:1] == "" or len(text) < 2:
        return None
    inner = text[1:-1].strip()
    brackets = text[0] + text[-1]
    parts = split_items(inner)
    is_set = brackets == SET_OPEN + SET_CLOSE or (brackets == "{}" and len(parts) > 1)
    if len(parts) == 1 and not is_set:
        if brackets in ("()", "{}") and parts[0][:1] in OPENERS:
            return read(inner, budget, depth + 1)
        if brackets in ("()", "[]") and _MATRIX.fullmatch(inner):
            return read(inner, budget, depth + 1)
        return None
    if is_set:
        return Group("set", _read_items(parts, budget, depth)[0])
    items = tuple(read(part, budget, depth + 1) for part in parts)
    if brackets == "[]" and all(isinstance(item, Group) and item.brackets == "[]" for item in items):
        return Group("matrix", tuple(Group("list", item.items) for item in items if isinstance(item, Group)))
    return Group("bracketed", items, brackets)


def _read_relation(text: str, budget: Budget, depth: int) -> Form | None:
    sides, signs = split_relations(text)
    if not signs:
        return None
    if "=" in signs or "\\ne" in signs:
        return _read_equation(sides, signs, budget, depth)
    if ":" in signs:
        return None
    values = [parse_expression(side, budget) for side in sides]
    algebra = Algebra(budget)
    if len(signs) == 1:
        greater, smaller = values if signs[0][0] == ">" else reversed(values)
        value = algebra.add([greater, algebra.negate(smaller)])
        if not value.atoms():
            return None
        return _as_interval(algebra, value, len(signs[0]) == 1) or Inequality(value, len(signs[0]) == 1)
    if len(signs) != 2 or signs[0][0] != signs[1][0]:
        return None
    if signs[0][0] == ">":
        values, signs = values[::-1], signs[::-1]
    variable = _variable(values[1])
    if not variable or variable in values[0].atoms() | values[2].atoms():
        return None
    brackets = ("[" if signs[0][1:] else "(") + ("]" if signs[1][1:] else ")")
    return Group("bracketed", (Quantity(values[0]), Quantity(values[2])), brackets, variable)


def _as_interval(algebra: Algebra, value: Quotient, strict: bool) -> Form | None:
    """The interval in which value, when it is c (x - k), is positive."""
    atoms = value.atoms()
    if len(atoms) != 1 or value.rational() is not None:
        return None
    name = next(iter(atoms))
    slope = next((c for m, c in value.numerator.terms.items() if m and m[0][0].name == name and m[0][1] == 1), None)
    if slope is None or len(value.numerator.terms) > 2 or any(len(m) > 1 for m in value.numerator.terms):
        return None
    bound = Quotient.of(-value.numerator.terms.get((), 0) / slope)
    linear = algebra.add([parse_expression(name, algebra.budget), algebra.negate(bound)])
    if not algebra.equal(algebra.multiply(linear, Quotient.of(slope)), value):
        return None
    infinity = parse_expression("\\infty", algebra.budget)
    if slope > 0:
        return Group("bracketed", (Quantity(bound), Quantity(infinity)), "()" if strict else "[)", name)
    return Group("bracketed", (Quantity(algebra.negate(infinity)), Quantity(bound)), "()" if strict else "(]", name)


def _variable(value: Quotient) -> str:
    """The symbol that value is, "" where it is something else."""
    atoms = value.atoms()
    if len(atoms) != 1:
        return ""
    name = next(iter(atoms))
    return name if value.key() == _symbol_key(name) else ""


def _symbol_key(name: str) -> str:
    """The key of a lone symbol."""
    return f"(1/1*{name}^1)/(1/1*)"


def _read_equation(sides: list[str], signs: list[str], budget: Budget, depth: int) -> Form | None:
    if len(set(signs)) != 1:
        return None
    left, right = _read_side(sides[0], budget, depth), _read_side(sides[-1], budget, depth)
    for middle in sides[1:-1]:  # x = 2 + 3 = 5
        between = _read_side(middle, budget, depth)
        if not isinstance(between, Quantity) or not isinstance(right, Quantity) or right.value.atoms():
            return None
        if not Algebra(budget).equal(between.value, right.value):
            return None
    return Equation(left, right, signs[0] == "\\ne")


def _read_side(text: str, budget: Budget, depth: int) -> Form:
    """One side of an equation; "f(x)", "AB" and "Total cost" are labels."""
    if _LABEL_CALL.fullmatch(text):
        return Text(text_key(text))
    return read(text, budget, depth + 1)


def _read_value(text: str, budget: Budget) -> Form | None:
    """A quantity or an expression; two of them for a plus-minus sign."""
    try:
        if _WORDS_ONLY.fullmatch(text) and not all(map(_is_symbols, re.split(r"[ '\-]", text))):
            return read_words(text)  # words, not products of symbols
        if _PLUS_MINUS.search(text):
            both = [read_quantity(text, budget, sign) for sign in (1, -1)]
            return Group("set", tuple(value for value in both if value)) if all(both) else None
        return read_quantity(text, budget)
    except Refused:
        if budget.units < 0:
            raise
        return None


def _is_symbols(word: str) -> bool:
    """Whether word is a product of symbols, such as ab, or the name of a constant or function."""
    return bool(_SYMBOL_WORDS.fullmatch(word)) or (len(word) == 2 and word.islower() and not is_word(word))
