"""Bring an answer's text into one notation: no wrappers, no layout commands, one spelling for each sign.

Marks used in normalised text, where they cannot be confused with what was written (control characters are removed first):
QUOTE_OPEN ... QUOTE_CLOSE around words that were in \\text{...}, SET_OPEN ... SET_CLOSE for \\{ ... \\}, DOLLAR for the
currency and NEW_ROW for the \\\\ that ends a row of a matrix.
"""

from __future__ import annotations

import re

from lorid_engine.solver.answers.bounds import MAX_STRUCTURED_CHARS
from lorid_engine.solver.answers.unicode import to_ascii

QUOTE_OPEN, QUOTE_CLOSE = "\x01", "\x02"
SET_OPEN, SET_CLOSE = "\x03", "\x04"
DOLLAR = "\x05"
NEW_ROW = "\x06"

_CONTROL = {code: " " for code in (*range(32), 127)}
_COMMANDS = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])\s*\.?"), ""),
    (re.compile(r"\\(?:displaystyle|textstyle|limits|nolimits|phantom\{[^{}]*\})(?![A-Za-z])"), ""),
    (re.compile(r"\\!\s*|\\(?:allowbreak|nobreak)(?![A-Za-z])"), ""),
    (re.compile(r"\\(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge|bf|it)(?![A-Za-z])"), " "),
    (re.compile(r"\\(?:text)?color\s*\{[^{}]*\}"), ""),
    (re.compile(r"\\(?:boxed|fbox)(?=\s*\{)"), ""),  # around a part of the answer
    (re.compile(NEW_ROW + r"\s*\[[0-9. ]+[a-z]{2}\]"), NEW_ROW),  # a row's distance to the next
    (re.compile(r"\\(?:quad|qquad|space|hspace\{[^{}]*\})(?![A-Za-z])|\\(?:[;: ]|$)|~(?=\s|$|\\|\w)"), " "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"(?<=[0-9])\\,(?=[0-9]{3}(?![0-9]))"), ","),
    (re.compile(r"\\,"), " "),
    (re.compile(r"\\(?:cdot|times|ast)(?![A-Za-z])"), "*"),
    (re.compile(r"\\div(?![A-Za-z])"), "/"),
    (re.compile(r"\\(?:le|leq|leqslant)(?![A-Za-z])"), "<="),
    (re.compile(r"\\(?:ge|geq|geqslant)(?![A-Za-z])"), ">="),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\neq(?![A-Za-z])|!="), r"\\ne "),
    (re.compile(r"=<"), "<="),
    (re.compile(r"=>"), ">="),
    (re.compile(r"\+ ?/ ?-"), r"\\pm "),
    (re.compile(r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\}|°)|\\degrees?(?![A-Za-z])"), "°"),
    (re.compile(r"\\(?:varnothing|O)(?![A-Za-z])"), r"\\emptyset "),
    (re.compile(r"(?<![A-Za-z\\])(?:infty|oo|Infinity)(?![A-Za-z])"), r"\\infty "),
    (re.compile(r"\\l?vert(?![A-Za-z])|\\rvert(?![A-Za-z])|\\mid(?![A-Za-z])"), "|"),
    (re.compile(r"\\langle(?![A-Za-z])"), "⟨"),
    (re.compile(r"\\rangle(?![A-Za-z])"), "⟩"),
    (re.compile(r"\\(?:lbrace(?![A-Za-z])|\{)"), SET_OPEN),
    (re.compile(r"\\(?:rbrace(?![A-Za-z])|\})"), SET_CLOSE),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\\#"), "#"),
    (re.compile(r"\\(?:text)?dollar(?![A-Za-z])|\\\$"), DOLLAR),
    (re.compile(r"\\cent(?:s)?(?![A-Za-z])"), "¢"),
    (re.compile(r"\\(?:pounds|textsterling)(?![A-Za-z])"), "£"),
    (re.compile(r"\\(?:euro|texteuro)(?![A-Za-z])"), "€"),
)
_FONT = re.compile(r"\\(?:mathbf|boldsymbol|bold|mathit|bm|vec|overrightarrow|hat)\s*\{([^{}]*)\}")
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|textnormal|mathrm|mathsf|mbox|hbox|operatorname|rm|emph)\s*\{([^{}]*)\}"
)
_CONNECTIVE = re.compile(r"\s*(and|or)\s*")
_MATH_DELIMITERS = re.compile(r"\\[()\[\]]|\$\$")
_INLINE_MATH = re.compile(r"\$([^$]*)\$(?!\s*[0-9.])")
_PREFIX = re.compile(
    r"(?:#{2,4}|(?:(?:so|thus|therefore|hence)\b,? ?)?(?:the )?(?:final |correct )?(?:answer|result)(?: is)? ?[:=]?"
    r"|(?:option|choice)|\\approx|approximately|about|exactly|roughly|=)(?=[ \x01-\x05$0-9(\[{\\-])\s*",
    re.IGNORECASE,
)
_WRAPPERS = (("**", "**"), ("*", "*"), ("`", "`"), ('"', '"'), ("'", "'"), ("__", "__"), (QUOTE_OPEN, QUOTE_CLOSE))
_KEPT_ENDINGS = ("..", "p.m.", "a.m.", "P.M.", "A.M.", "\\,", "\\;", "\\:")  # the last three are spaces in LaTeX
_BOXED = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{")
_ORDINAL = re.compile(r"(?<=[0-9])\s?\^\{?\s*\x01?(st|nd|rd|th)\x02?\s*\}?")
_ELLIPSIS = re.compile(r"(?<![0-9.])([0-9]*\.[0-9]{0,40}?)([0-9])\2{2,40}\s?(?:\.\.\.|\\l?dots)")
_OVERLINED = re.compile(r"(?<=[0-9.])\s?\\(?:bar|overline|dot)\s?(?:\{\s?([0-9]{1,40})\s?\}|([0-9]))")
_DOTTED = re.compile(r"(?<=[0-9.])\s?\\dot\s?\{?([0-9])\}?([0-9]{0,40})\s?\\dot\s?\{?([0-9])\}?")
_BRACKETED_PERIOD = re.compile(r"(?<![0-9.])([0-9]*\.[0-9]{0,40})\(([0-9]{1,40})\)")
_TIMES_TEN = re.compile(r"(?<=[0-9]) ?[xX] ?(?=10 ?(?:\^|\*\*))")
_SPACES = re.compile(r"\s+")
_ENGLISH = "is it no on of to in am an as at be by do go he if me my or so up us we pm ok"
SHORT_WORDS = frozenset(_ENGLISH.split())
_ARTICLE = re.compile(r"(?:the|an?) (?=[^\W\d_]{3})", re.IGNORECASE)


def clean(text: str) -> str:
    """Normalise text; "" where nothing is left. Takes time linear in its length, except for a few layers of wrappers."""
    text = to_ascii(text).translate(_CONTROL).strip()
    if len(text) > MAX_STRUCTURED_CHARS:
        return text  # some characters stand for many
    text = text.replace("\\\\", NEW_ROW if "\\begin" in text else "\\")  # elsewhere a backslash was escaped twice
    text = _MATH_DELIMITERS.sub(" ", text)
    text = unwrap(text)
    for pattern, replacement in _COMMANDS:
        text = pattern.sub(replacement, text)
    text = _unquote(text)
    text = _INLINE_MATH.sub(lambda match: match[1] or " ", text).replace("$", DOLLAR)
    text = _ORDINAL.sub(r"\1", text)
    text = _ELLIPSIS.sub(r"\1\\overline{\2}", text)
    text = _DOTTED.sub(r"\\overline{\1\2\3}", text)
    text = _OVERLINED.sub(lambda match: f"\\overline{{{match[1] or match[2]}}}", text)
    text = _BRACKETED_PERIOD.sub(r"\1\\overline{\2}", text)
    text = _TIMES_TEN.sub("*", text)
    return unwrap(_SPACES.sub(" ", text))


def unwrap(text: str) -> str:
    """Remove what encloses or introduces a whole answer, and the period at its end."""
    for _ in range(8):
        before = text
        text = text.strip()
        while text.endswith((".", ",", ";", ":")) and not text.endswith(_KEPT_ENDINGS):
            text = text[:-1].rstrip()
        prefix = _PREFIX.match(text)
        if prefix:
            text = text[prefix.end() :]
        text = _unwrap_boxed(text)
        for opener, closer in _WRAPPERS:
            inner = text[len(opener) : -len(closer)]
            if (
                text.startswith(opener)
                and text.endswith(closer)
                and inner
                and opener not in inner
                and closer not in inner
            ):
                text = inner
        if text == before:
            break
    return text


def _unwrap_boxed(text: str) -> str:
    opener = _BOXED.match(text)
    if opener is None or not text.endswith("}"):
        return text
    depth = 0
    for position in range(opener.end() - 1, len(text)):
        if text[position] in "{}" and text[position - 1] != "\\":
            depth += 1 if text[position] == "{" else -1
            if depth == 0:
                return text[opener.end() : -1] if position == len(text) - 1 else text
    return text


def _unquote(text: str) -> str:
    """Turn font commands into what they contain, and text commands into marked words."""
    for _ in range(4):
        changed = _TEXT.sub(_quoted, _FONT.sub(r"\1", text))
        if changed == text:
            break
        text = changed
    return text


def _quoted(match: re.Match[str]) -> str:
    words = match[1]
    connective = _CONNECTIVE.fullmatch(words)
    if connective:
        return f" {connective[1]} "
    if not any(c.isalpha() for c in words) or words.strip() in ("e", "i", "d") or QUOTE_OPEN in words:
        return words
    return f"{QUOTE_OPEN}{words}{QUOTE_CLOSE}"


def text_key(text: str) -> str:
    """The form in which two answers are the same text: letter case counts only in formulas."""
    for mark, plain in (
        (QUOTE_OPEN, " "),
        (QUOTE_CLOSE, " "),
        (SET_OPEN, "{"),
        (SET_CLOSE, "}"),
        (DOLLAR, "$"),
        (NEW_ROW, ";"),
    ):
        text = text.replace(mark, plain)
    text = re.sub(r"(?<![\w.,]) | (?!\w)", "", _SPACES.sub(" ", text).strip())
    if "\\" in text or not (re.search(r"[^\W\d_]{3}", text) or text.lower() in SHORT_WORDS):
        return text
    return _ARTICLE.sub("", text.casefold(), count=1) if _ARTICLE.match(text) else text.casefold()
