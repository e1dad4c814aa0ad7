"""Calculator: after `=` a rationale gets what its arithmetic comes to, in place of the digits that were drawn.

As in Cobbe et al., "Training Verifiers to Solve Math Word Problems" (arXiv 2110.14168), whose calculator fills in the results
of the marks <<3+4=7>>; here all arithmetic of a rationale counts, in marks or not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

from lorid_engine.engine.tokenizer import Tokenizer
from lorid_engine.solver.arithmetic import CURRENCIES, as_decimal, last_value

_BEFORE = CURRENCIES + " "
_RESULT = re.compile(rf" ?[{CURRENCIES}]? ?(?P<number>\d*(?:\.\d*)?)(?P<after>,| )?")  # what is written of a result
_LONGEST_RESULT = 40  # characters after `=` that are looked at
_END = "\n"


@lru_cache(4096)  # asked once for each token of a result
def _result(arithmetic: str) -> str | None:
    value = last_value(arithmetic)
    return None if value is None else as_decimal(value)


@dataclass(frozen=True)
class Calculator:
    """Decides about drawn tokens (`Request.replace_token`) by the text before them alone.

    Attributes:
        tokenizer: of the base.
    """

    tokenizer: Tokenizer

    def __call__(self, text: str, token: int) -> int:
        """The token that goes on a rationale's text for which this one was drawn.

        The first digit drawn after `=` and arithmetic is replaced by the result's, and so are the tokens after it until the
        result is whole. Digits that would make it another number are replaced by zeros after a point, or by the line's end.
        """
        at = text.rfind("=")
        if at < 0 or len(text) - at > _LONGEST_RESULT:
            return token
        written = _RESULT.fullmatch(text, at + 1)
        if written is None:
            return token
        drawn = self._text(token)
        begins = drawn.lstrip(_BEFORE)[:1]
        if not written["number"] and not (begins.isdecimal() or begins == "."):
            return token  # a word, a bracket: the result does not begin yet
        result = _result(text[max(text.rfind("=", 0, at), text.rfind("\n", 0, at)) + 1 : at])
        if result is None:
            return token
        instead = _instead(result, written["number"], written["after"] or "", drawn)
        return token if instead is None else self._first_token(instead, token)

    @cached_property
    def _equals(self) -> list[int]:
        return self.tokenizer.encode_plain("=")

    def _text(self, token: int) -> str:
        """A token's text after others: with its leading space, which some tokenizers leave out where a text begins."""
        return self.tokenizer.decode([*self._equals, token]).removeprefix("=")

    def _first_token(self, text: str, default: int) -> int:
        """The first token of a text that goes on another, after one with which it shares none."""
        for before in ("=", "0"):
            context, ids = (self.tokenizer.encode_plain(each) for each in (before, before + text))
            if ids[: len(context)] == context:
                return ids[len(context)]
        return default


def _instead(result: str, number: str, after: str, drawn: str) -> str | None:
    """The text that must come instead of what was drawn, after so much of the result; None if that may stay."""
    if result.startswith(number) and result != number and not after:
        digits = drawn if number else drawn.lstrip(_BEFORE)
        left = result[len(number) :]
        return None if digits and left.startswith(digits) else drawn[: len(drawn) - len(digits)] + left
    whole, point, decimals = number.partition(".")
    if (f"{whole}.{decimals}".rstrip("0").rstrip(".") if point else whole) != result:
        return None
    if not point and not after and re.match(r"\.\d", drawn):
        return "."
    if not drawn[:1].isdecimal():
        return None
    if after == ",":
        return " "  # a clause, not a thousand
    if after or not point or len(decimals) > 1:
        return _END
    return None if not drawn.strip("0") else "0"
