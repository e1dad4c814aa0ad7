"""Finding the answer in a rationale."""

from __future__ import annotations

import time

import pytest

from lorid_engine.solver.answers import extract

GSM8K = "#### (.+)"


@pytest.mark.parametrize(
    ("text", "pattern", "expected"),
    [
        ("6 * 7 = 42\n#### 42", GSM8K, "42"),
        ("#### 1\nNo, wait.\n####  $1,234 \nthe end", GSM8K, "$1,234"),
        ("#### 5 and so \\boxed{6}", GSM8K, "5 and so \\boxed{6}"),
        ("no marker, \\boxed{6}", GSM8K, "6"),
        ("ends 17", r"ends \d+", "ends 17"),
        ("A=3 B=4", r"A=(\d)|B=(\d)", "4"),
        ("#### None", GSM8K, None),
        ("####  ", GSM8K, None),
        (r"so \boxed{\frac{1}{2}}.", None, r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{\sqrt{\frac{3}{4}}}", None, r"\sqrt{\frac{3}{4}}"),
        (r"\boxed{1} then \boxed{\sqrt{2}", None, "1"),
        (r"\boxed{\{1,2\}}", None, r"\{1,2\}"),
        (r"\fbox{7}", None, "7"),
        (r"\boxed 7", None, "7"),
        (r"\boxed 12$.", None, "12"),
        (r"\boxed{7} " + "x" * 100_000, None, "7"),
        (r"\boxed{}", None, None),
        (r"\boxed{None}", None, None),
        (r"The answer is 3. So \boxed{4}. Its 5.", None, "4"),
        ("The answer is 42.", None, "42"),
        ("The answer is 12.5 dollars. It took 3 steps.", None, "12.5 dollars"),
        ("Final Answer: 7 apples\nDone in 2.", None, "7 apples"),
        ("**Answer:** 7", None, "7"),
        ("The answer is: $18.00!", None, "$18.00"),
        ("The answer is therefore 9.", None, "9"),
        ("The answer is **5** apples.", None, "5 apples"),
        ("The answer is 5, which is 2+3.", None, "5"),
        ("The answer is 5 because 2+3 = 5.", None, "5"),
        ("The answers are 1 and 2.", None, "1 and 2"),
        ("The answer is Dr. Smith.", None, "Dr. Smith"),
        ("The answer is $\\frac{1}{2}$.", None, "$\\frac{1}{2}$"),
        ("the answer is 10:30 a.m. on a day with 3 trains", None, "10:30 a.m. on a day with 3 trains"),
        ("She has 5 apples and 3 pears, 8 in all.", None, "8"),
        ("He pays $1,234.50.", None, "$1,234.50"),
        ("so 3+4=7", None, "7"),
        ("10-5", None, "5"),
        ("x = -5", None, "-5"),
        ("that is 50%.", None, "50%"),
        ("so he ate 2 1/2 pies", None, "2 1/2"),
        ("so he ate 3/4 of it", None, "3/4"),
        ("It is .5 of it", None, ".5"),
        ("pages 3 - 5", None, "5"),
        ("total - 5", None, "5"),
        ("x = – 5", None, "–5"),
        ("(−5)", None, "−5"),
        ("covid-19", None, "19"),
        ("it is $42$.", None, "42"),
        ("it costs \\$42.", None, "$42"),
        (r"it is $\frac{3}{4}$ of them", None, r"\frac{3}{4}"),
        (r"so 1 - \frac14", None, r"\frac14"),
        (r"x = -2\frac{1}{2}", None, r"-2\frac{1}{2}"),
        (r"the side is 2\sqrt{3}.", None, r"2\sqrt{3}"),
        ("it is 1.5e3", None, "1.5e3"),
        (r"it is 6.02 \times 10^{23}.", None, r"6.02 \times 10^{23}"),
        ("5 x 10^2 = 500", None, "500"),
        ("no numbers here", None, None),
        ("", None, None),
        ("   ", GSM8K, None),
    ],
)
def test_extract(text: str, pattern: str | None, expected: str | None) -> None:
    assert extract(text, pattern) == expected


@pytest.mark.parametrize(
    "unit",
    [
        "1",
        "a",
        " ",
        "(",
        "1,",
        "\\boxed{",
        "}",
        "answer is ",
        "answer: ",
        "#",
        "#### ",
        "-",
        "$",
        "1/",
        "1 ",
        "\ud800",
        "\n",
        "\x00",
        "\\frac{1}{",
        "\\sqrt{2}",
        "1e5 ",
        "answer is **a",
    ],
)
def test_huge_text_takes_bounded_time(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    started = time.perf_counter()
    extract(text)
    extract(text, GSM8K)
    assert time.perf_counter() - started < 3


def test_long_number_is_found_whole() -> None:
    assert extract("it is " + "7" * 100_000 + ".") == "7" * 100_000
