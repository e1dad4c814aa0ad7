"""What the arithmetic at the end of a line comes to, and when that is not sure."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorid_engine.solver.arithmetic import LONGEST, as_decimal, last_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3 + 4", 7),
        ("16-5-2*3", 5),
        ("2*3/4*2", 3),
        ("£20 - £5 * 3", 5),
        ("100% - 40%", 60),
        ("20% + 20% + 25%", 65),
        ("60 km/h * 3 h", 180),
        ("5g + 3 g", 8),
        ("5 + 2 more hot dogs", 7),
        ("2 - 1 - 1", 0),
        ("(3+4)*2", 14),
        ("a total of 3 * (4 + 5) ", 27),
        ("1,200 - 200", 1000),
        ("$ 3 + $ 4.50", Fraction("7.5")),
        (".5 * 3", Fraction("1.5")),
        ("5 \N{MULTIPLICATION SIGN} 3 \N{EN DASH} 2", 13),
        ("80 \N{DIVISION SIGN} 4 \N{MINUS SIGN} 1", 19),
        ("3 x 5", 15),
        ("10 / 3", Fraction(10, 3)),
        ("5 - 8", -3),
        # Units
        ("3 boxes * $12.50/box", Fraction("37.5")),
        ("2 hours x 60 minutes/hour", 120),
        ("6 five-pound bags + 2 bags", 8),
        ("20% of $50", 10),
        ("1/2 of 10", 5),
        ("200 * 15%", 30),
        # What comes before is prose, a list's number, a mark, or an earlier result
        ("He has 5 apples and 3 + 4", 7),
        ("1. 3 + 4", 7),
        ("a) 3 + 4", 7),
        ("1) 3 + 4", 7),
        ("On day 2, 3 + 4", 7),
        ("48 / 2 <<48 / 2", 24),
        ("He drives 3 times a week for 3*14", 42),
        ("The x-ray cost $250 * 2", 500),
        ("The third row has 62 + 18", 80),
    ],
)
def test_values(text: str, value: Fraction | int) -> None:
    assert last_value(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "5 apples",
        "x + 3",
        "2x + 3",
        "y^2 + 3",
        "cost2 + 3",
        "half of 30 + 5",
        "5 of them and half of 30 + 5",
        "an eighth of 64 + 2",
        "4 + 25%",
        "30% * 50%",
        "15+2a",
        "$50 - 20%",
        "50/200 * 100%",
        "2X + 3",
        "150-75-X",
        "6+2b",
        "12/x * 2",
        "5 X + 3",
        "5² + 3",
        "2½ + 3",
        "3 * 10⁴ + 1",
        "10 + √9 * 2",
        "20 - Ann's 5 * 2",
        "2 * [3 + 4",
        "3 dozen + 4",
        "2 million + 500,000",
        "20 percent * 50",
        "12 divided by 3 + 1",
        "5 more than 3 * 4",
        "sqrt(16) + 3",
        "4 of 10 apples - 2",
        "60 / 3/4",
        "14, 400 / 80",
        "16,0000/10",
        "0900 - 0130",
        "twice 30 + 5",
        "3 times 4 + 5",
        "Ann's 5 + Tom's 3",
        "5 apples - eaten apples",
        "3 1/2 + 2",  # a mixed number
        "12:30 + 2",
        "5 + 3 apples and 2 oranges",
        "5 (of them) + 3",
        "5(3 + 4)",
        "3 + 4 (for Ann)",
        "- 3 + 4",
        "+ 4",
        "3 +",
        "3 + * 4",
        "2**3",
        "((3 + 4)",
        "10 / 0",
        "1 / (2 - 2)",
        "9" * 16 + " + 1",
        "3 + 4 >",
        "(" * 17 + "3 + 4" + ")" * 17,
        "1 + " * LONGEST + "1",  # it begins before what is looked at
    ],
)
def test_what_is_not_sure_has_no_value(text: str) -> None:
    assert last_value(text) is None


def test_a_long_line_has_the_value_of_its_end() -> None:
    assert last_value("word " * LONGEST + ". 3 + 4") == 7


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> tuple[str, Fraction]:
    """A text and its value, by Python's own arithmetic."""
    if depth == 0 or draw(st.booleans()):
        number = draw(st.integers(0, 999))
        return str(number), Fraction(number)
    (left, a), (right, b) = draw(expressions(depth=depth - 1)), draw(expressions(depth=depth - 1))
    sign = draw(st.sampled_from("+-*/" if b else "+-*"))
    space = draw(st.sampled_from(["", " "]))
    value = {"+": a.__add__, "-": a.__sub__, "*": a.__mul__, "/": a.__truediv__}[sign](b)
    return f"({left}){space}{sign}{space}({right})", value


@given(expressions())
def test_brackets_and_operators(expression: tuple[str, Fraction]) -> None:
    text, value = expression
    if text.startswith("(") and len(text) <= LONGEST:
        assert last_value(f"So it is {text}") == value


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    assert last_value(text) is None or isinstance(last_value(text), Fraction)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Fraction(7), "7"),
        (Fraction(0), "0"),
        (Fraction(75, 2), "37.5"),
        (Fraction(1, 10000), "0.0001"),
        (Fraction(1, 100000), None),
        (Fraction(10, 3), None),
        (Fraction(-3), None),
        (Fraction(10**15), None),
        (Fraction(10**15 - 1), "9" * 15),
    ],
)
def test_decimals(value: Fraction, text: str | None) -> None:
    assert as_decimal(value) == text
