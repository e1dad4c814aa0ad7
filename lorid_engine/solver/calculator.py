"""Calculator: after `=` a rationale gets what its arithmetic comes to, in place of the digits that were drawn.

As in Cobbe et al., "Training Verifiers to Solve Math Word Problems" (arXiv 2110.14168), whose calculator fills in the results
of the marks <<3+4=7>>; here all arithmetic of a rationale counts, in marks or not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lorid_engine.engine.tokenizer import Tokenizer
from lorid_engine.solver.arithmetic import as_decimal, last_value

_RESULT = re.compile(r" ?\$? ?(\d*\.?\d*)")  # how far a result is written


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
        result is whole; digits that would make it another number are replaced, too.
        """
        at = text.rfind("=")
        written = _RESULT.fullmatch(text, at + 1) if at >= 0 else None
        if written is None:
            return token
        drawn = self.tokenizer.token(token)
        if not written[1] and not drawn.lstrip(" $")[:1].isdecimal() and drawn.lstrip(" $")[:1] != ".":
            return token  # a word, a bracket: the result does not begin yet
        begin = max(text.rfind("=", 0, at), text.rfind("\n", 0, at)) + 1
        value = last_value(text[begin:at])
        result = None if value is None else as_decimal(value)
        if result is None:
            return token
        missing = _missing(result, written[1], drawn)
        return token if missing is None else self._first_token(missing, token)

    def _first_token(self, text: str, default: int) -> int:
        """The first token of a text that goes on another, after one with which it shares none."""
        for before in ("=", "0"):
            context, ids = (self.tokenizer.encode_plain(each) for each in (before, before + text))
            if ids[: len(context)] == context:
                return ids[len(context)]
        return default


def _missing(result: str, written: str, drawn: str) -> str | None:
    """The text that must come instead of what was drawn, after so much of the result; None if that may stay."""
    if result.startswith(written) and result != written:
        digits = drawn if written else drawn.lstrip(" $")
        left = result[len(written) :]
        return None if digits and left.startswith(digits) else drawn[: len(drawn) - len(digits)] + left
    if not drawn[:1].isdecimal() or (written.rstrip("0").rstrip(".") if "." in written else written) != result:
        return None
    if "." in written:
        return None if not drawn.strip("0") else "0"
    return " "  # another digit would change it: the number ends here
