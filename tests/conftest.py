"""Fixtures that the whole suite shares."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers import use_isa
from lorid_engine.ops import cpu


@pytest.fixture(params=cpu.extension().supported_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set that this machine has, one after another."""
    with use_isa(request.param):
        yield request.param
