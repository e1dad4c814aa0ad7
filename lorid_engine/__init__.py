"""One frozen language model, several LoRA adapters, one batch; and the LoRID solver on top of it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorid_engine.engine import Engine, Request, SamplingParams
    from lorid_engine.errors import LoridError
    from lorid_engine.solver import Solution, Solver

__all__ = ["Engine", "LoridError", "Request", "SamplingParams", "Solution", "Solver", "__version__"]

# Loaded on first use: lorid_engine.ops must be importable without transformers.
_HOMES = {
    "Engine": "lorid_engine.engine",
    "Request": "lorid_engine.engine",
    "SamplingParams": "lorid_engine.engine",
    "LoridError": "lorid_engine.errors",
    "Solution": "lorid_engine.solver",
    "Solver": "lorid_engine.solver",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("lorid-engine")
    if name not in _HOMES:
        raise AttributeError(f"module 'lorid_engine' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
