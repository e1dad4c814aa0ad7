"""Unicode forms of mathematical text, written as the ASCII or LaTeX that the rest of this package reads."""

from __future__ import annotations

import re
import unicodedata

_MINUS = "−–—‒―﹣－⁻‐‑"
_SPACES_WITHIN_NUMBERS = "\u00a0\u2009\u202f\u2007\u2008"
_REPLACEMENTS = {
    **dict.fromkeys(_MINUS, "-"),
    **dict.fromkeys(_SPACES_WITHIN_NUMBERS, " "),
    **dict.fromkeys("×·∙⋅∗✕✖", "*"),
    **dict.fromkeys("÷∕⁄", "/"),
    **dict.fromkeys("’‘ʼ′", "'"),
    **dict.fromkeys("“”″", '"'),
    **dict.fromkeys("º˚", "°"),
    "℃": "° C",
    "℉": "° F",
    "€": " € ",
    "±": "\\pm ",
    "∓": "\\mp ",
    "∞": "\\infty ",
    "≤": "<=",
    "≦": "<=",
    "⩽": "<=",
    "≥": ">=",
    "≧": ">=",
    "⩾": ">=",
    "≠": "\\ne ",
    "≈": "\\approx ",
    "∪": "\\cup ",
    "∩": "\\cap ",
    "∈": "\\in ",
    "∅": "\\emptyset ",
    "ℝ": "\\mathbb{R}",
    "√": "sqrt",
    "∛": "cbrt",
    "⟨": "\\langle ",
    "⟩": "\\rangle ",
    "µ": "u",
    "μ": "\\mu ",
    "…": "...",
}
_GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho x sigma tau upsilon phi chi psi omega"
_REPLACEMENTS.update(
    {chr(ord("α") + i): f"\\{name} " for i, name in enumerate(_GREEK.split()) if name not in ("x", "omicron", "mu")}
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SUPERSCRIPT_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ]+")
_SUBSCRIPT_RUN = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")


def to_ascii(text: str) -> str:
    """Rewrite Unicode mathematics; letters of other scripts and lone surrogates stay as they are."""
    if text.isascii():
        return text
    text = _SUPERSCRIPT_RUN.sub(lambda run: "^{" + run[0].translate(_SUPERSCRIPTS) + "}", text)
    text = _SUBSCRIPT_RUN.sub(lambda run: "_{" + run[0].translate(_SUBSCRIPTS) + "}", text)
    text = "".join(_REPLACEMENTS[c] if c in _REPLACEMENTS else _plain(c) for c in text)
    return unicodedata.normalize("NFKC", text).replace("⁄", "/")


def _plain(character: str) -> str:
    """A vulgar fraction as \\frac, a digit of any script as an ASCII digit, an invisible character as nothing."""
    if character.isascii():
        return character
    if unicodedata.decomposition(character).startswith("<fraction>"):
        numerator, _, denominator = unicodedata.normalize("NFKC", character).partition("⁄")
        return f"\\frac{{{numerator}}}{{{denominator}}}"
    if unicodedata.category(character) == "Cf":
        return ""
    digit = unicodedata.decimal(character, None)
    return character if digit is None else str(digit)
