"""Text that cannot steer a terminal."""

from __future__ import annotations

import re

# Escape sequences and other control characters: what a model, a question or a file says must not steer the terminal.
_CONTROL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def without_control(text: str) -> str:
    """The text without control characters but tab and line feed, and without lone surrogates."""
    return _CONTROL.sub("", text).encode("utf-8", "replace").decode()


def one_line(text: str) -> str:
    """A message as one line."""
    return " ".join(without_control(text).split())
