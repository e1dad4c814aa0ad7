"""Tables of answers in pairs, as the tests of equivalence write them."""

from __future__ import annotations


def pairs(table: str) -> list[tuple[str, str]]:
    """The pairs of a table: a line each, "first | second"."""
    lines = [line for line in table.strip().splitlines() if line]
    split = [tuple(part.strip() for part in line.split(" | ")) for line in lines]
    assert all(len(pair) == 2 for pair in split)
    return split  # type: ignore[return-value]
