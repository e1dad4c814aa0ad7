"""Pack: a base, an adapter and a prompt per role, sampling defaults and the answer's form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorid_engine.solver.base_source import BaseSource
from lorid_engine.solver.prompts import Template

ROLES = ("ir", "kg", "dr")
# As published (arXiv 2508.13037 and the authors' scripts).
PUBLISHED_ROUNDS = 20
PUBLISHED_SAMPLING: dict[str, float | int] = {"temperature": 1.5, "top_p": 0.9, "top_k": 50, "max_tokens": 1024}


@dataclass(frozen=True)
class Role:
    """One of ir, kg, dr: its adapter's folder, its prompt, and what it samples differently."""

    name: str
    adapter: Path
    template: Template
    sampling: Mapping[str, float | int]


@dataclass(frozen=True)
class Pack:
    """A pack's manifest.

    Attributes:
        name: the pack's name.
        folder: where it lies.
        base: where its base comes from.
        roles: ir, kg and dr.
        answer_pattern: regular expression whose first group is the answer.
        stop: strings that end every role's text.
        sampling: the pack's own defaults.
        accuracy: what was measured of it, in a sentence; None = nothing.
        calculator: IR's and DR's arithmetic is computed, not drawn (solver.calculator).
        max_rounds: after which a question ends without agreement.
    """

    name: str
    folder: Path
    base: BaseSource
    roles: Mapping[str, Role]
    answer_pattern: str | None
    stop: tuple[str, ...]
    sampling: Mapping[str, float | int]
    accuracy: str | None
    calculator: bool = False
    max_rounds: int = PUBLISHED_ROUNDS

    def sampling_for(self, role: str, overrides: Mapping[str, float | int] | None = None) -> dict[str, Any]:
        """temperature, top_p, top_k and max_tokens of a role: overrides, then the role's, the pack's, the published."""
        return {**PUBLISHED_SAMPLING, **self.sampling, **self.roles[role].sampling, **(overrides or {})}
