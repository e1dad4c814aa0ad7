"""LoRID's loop, answers and packs. Names load on first use, so that the answers alone need no engine."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorid_engine.solver.pack import Pack
    from lorid_engine.solver.packs import load_pack
    from lorid_engine.solver.solution import Event, Round, RoundEvent, Sample, Solution, TextEvent
    from lorid_engine.solver.solver import Solver, SolverConfig

__all__ = [
    "Event",
    "Pack",
    "Round",
    "RoundEvent",
    "Sample",
    "Solution",
    "Solver",
    "SolverConfig",
    "TextEvent",
    "load_pack",
]

_HOMES = {
    "pack": ("Pack",),
    "packs": ("load_pack",),
    "solution": ("Event", "Round", "RoundEvent", "Sample", "Solution", "TextEvent"),
    "solver": ("Solver", "SolverConfig"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"lorid_engine.solver.{module}"), name)
    raise AttributeError(f"module 'lorid_engine.solver' has no attribute {name!r}")
