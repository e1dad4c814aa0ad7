"""Tokens that a request's own function puts in the place of drawn ones."""

from __future__ import annotations

import operator
import traceback
from collections.abc import Callable

from lorid_engine.errors import RequestError


def replaced_token(replace: Callable[[str, int], int], text: str, token: int, vocab_size: int) -> int | RequestError:
    """What a request's `replace_token` makes of a drawn token, or why that cannot be used."""
    try:
        found = operator.index(replace(text, token))
    except Exception as error:  # the caller's code: whatever it raises, the other requests go on
        raised = "".join(traceback.format_exception_only(error)).strip()
        return RequestError(f"replace_token failed: {raised}")
    if not 0 <= found < vocab_size:
        return RequestError(f"replace_token must return a token, at least 0 and below {vocab_size}")
    return found
