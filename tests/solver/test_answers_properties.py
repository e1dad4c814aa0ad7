"""Properties of equivalence on generated answers."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorid_engine.solver.answers import equivalent, extract

FRAGMENTS = st.sampled_from(
    [
        *"0123456789xyie+-*/^()[]{}|,.:;=<>$%! _&'\"",
        "\\frac",
        "\\sqrt",
        "{1}",
        "{2}",
        "\\text{",
        "\\pm",
        "\\cup",
        "\\in ",
    ]
    + [
        "\\pi",
        " and ",
        " or ",
        " apples",
        " cm",
        " dollars",
        "\\left",
        "\\right",
        "\\{",
        "\\}",
        "½",
        "²",
        "−",
        "°",
        "one ",
    ]
    + [
        "hundred ",
        "half ",
        "\x00",
        "\ud800",
        "\\boxed{",
        "\\infty",
        "10:30",
        " am",
        "(B) ",
        "May ",
        "_7",
        "_{half}",
        "\\\\",
    ]
    + [
        "\\begin{pmatrix}",
        "\\end{pmatrix}",
        "\\overline{3}",
        "...",
        "\\binom",
        "\\log",
        "\\sin ",
        "#### ",
        "percent",
        "th",
    ]
)
HOSTILE = st.lists(FRAGMENTS, max_size=14).map("".join)
WHOLE = st.integers(-(10**30), 10**30)
POSITIVE = st.integers(1, 10**6)


@settings(max_examples=1500, deadline=None)
@given(HOSTILE, HOSTILE)
def test_symmetric_and_never_raises(a: str, b: str) -> None:
    assert equivalent(a, b) == equivalent(b, a)
    assert extract(a) is None or isinstance(extract(a), str)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text(a: str, b: str) -> None:
    assert equivalent(a, b) == equivalent(b, a)
    extract(a + b)


@given(WHOLE)
def test_forms_of_a_whole_number(n: int) -> None:
    forms = [
        f"{n}",
        f"{n:,}",
        f"{n}.00",
        f"${n}$",
        f"\\boxed{{{n}}}",
        f"{n} apples",
        f"x = {n}",
        f"{n}%",
        f"${n}",
        f"{2 * n}/2",
    ]
    for form in forms:
        assert equivalent(form, str(n)), form
        assert equivalent(form, form)
        assert not equivalent(form, str(n + 1)), form


@given(st.integers(-(10**6), 10**6), POSITIVE)
def test_forms_of_a_fraction(p: int, q: int) -> None:
    value = Fraction(p, q)
    forms = [f"{p}/{q}", f"\\frac{{{p}}}{{{q}}}", f"\\dfrac{{{3 * p}}}{{{3 * q}}}", f"{value}", f"{p} \\div {q}"]
    for form in forms:
        assert equivalent(form, f"{value.numerator}/{value.denominator}"), form
        assert not equivalent(form, f"{p + 1}/{q}"), form


@given(POSITIVE, st.integers(2, 10**4), st.data())
def test_mixed_numbers(whole: int, q: int, data: st.DataObject) -> None:
    p = data.draw(st.integers(1, q - 1))
    improper = f"{whole * q + p}/{q}"
    assert equivalent(f"{whole} {p}/{q}", improper)
    assert equivalent(f"{whole}\\frac{{{p}}}{{{q}}}", improper)
    assert not equivalent(f"{whole}{p}/{q}", improper) or whole * 10 ** len(str(p)) == whole * q


@given(st.integers(1, 300), st.integers(1, 300))
def test_square_roots_simplify(factor: int, radicand: int) -> None:
    assert equivalent(f"{factor}\\sqrt{{{radicand}}}", f"\\sqrt{{{factor * factor * radicand}}}")
    assert equivalent(
        f"\\frac{{{factor}}}{{\\sqrt{{{radicand}}}}}", f"\\frac{{{factor}\\sqrt{{{radicand}}}}}{{{radicand}}}"
    )
    assert not equivalent(f"\\sqrt{{{radicand}}}", f"\\sqrt{{{radicand + 1}}}")


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=4), st.integers(-9, 9))
def test_expanded_polynomials(roots: list[int], factor: int) -> None:
    coefficients = [factor]
    for root in roots:
        shifted = [*coefficients, 0]
        coefficients = [a - root * b for a, b in zip(shifted, [0, *coefficients], strict=True)]
    degree = len(coefficients) - 1
    expanded = "+".join(f"({c})x^{{{degree - i}}}" for i, c in enumerate(coefficients))
    factored = f"{factor}" + "".join(f"(x-({root}))" for root in roots)
    assert equivalent(expanded, factored)
    assert not equivalent(expanded + "+1", factored)


@pytest.mark.parametrize(
    ("n", "words"), [(0, "zero"), (13, "thirteen"), (40, "forty"), (99, "ninety-nine"), (700, "seven hundred")]
)
def test_number_words(n: int, words: str) -> None:
    assert equivalent(str(n), words)
    assert equivalent(f"{n} cats", words + " cats")
    assert not equivalent(str(n + 1), words)


@given(st.lists(WHOLE, min_size=2, max_size=6, unique=True))
def test_order_counts_in_lists_only(items: list[int]) -> None:
    forwards, backwards = ", ".join(map(str, items)), ", ".join(map(str, reversed(items)))
    assert equivalent(f"\\{{{forwards}\\}}", f"\\{{{backwards}\\}}")
    assert not equivalent(forwards, backwards)
    assert not equivalent(f"({forwards})", f"({backwards})")
