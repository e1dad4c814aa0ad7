"""Answers in free text: finding the one a rationale gives, and telling whether two say the same.

Nothing here evaluates what a model wrote: no eval, no computer algebra system, no floats. An answer is read into a small
exact form (`reading`), and two forms are compared (`compare`); every step is bounded by length, depth and work.
"""

from __future__ import annotations

from lorid_engine.solver.answers.compare import equivalent
from lorid_engine.solver.answers.extract import extract

__all__ = ["equivalent", "extract"]
