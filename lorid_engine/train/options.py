"""TrainingOptions: what decides a run; the defaults are the paper's (arXiv 2508.13037 and the authors' scripts)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lorid_engine.errors import ConfigError
from lorid_engine.solver.pack import ROLES


@dataclass(frozen=True)
class TrainingOptions:
    """How roles are trained.

    Attributes:
        roles: of ir, kg, dr, in this order.
        rank, alpha, dropout, targets: of every adapter.
        learning_rate: at the end of the warm-up; it falls along a cosine to 0.
        warmup: share of a role's steps in which the rate rises.
        epochs: passes over a role's examples.
        batch_size: examples of a role in a step (the paper's 4, accumulated 4 times).
        max_grad_norm: to which each role's gradient is clipped.
        weight_decay: of AdamW.
        max_tokens: longer examples are left out.
        held_out: questions that are not trained on; their loss is reported.
        max_steps: ends a run early, with the schedule of the whole; None = all.
        planned_steps: a role's most steps, schedule included; None = those of its epochs.
        seed: of A, of the order and of the dropout.
        rows_per_pass: rows of one forward and backward pass; it changes memory and speed, and results by rounding alone.
        recompute: keep less for the backward pass, and compute it again.

    Raises:
        ConfigError: an option is out of range.
    """

    roles: tuple[str, ...] = ROLES
    rank: int = 512
    alpha: float = 1024.0
    dropout: float = 0.1
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    learning_rate: float = 5e-5
    warmup: float = 0.03
    epochs: int = 5
    batch_size: int = 16
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    max_tokens: int = 2048
    held_out: int = 100
    max_steps: int | None = None
    planned_steps: int | None = None
    seed: int = 0
    rows_per_pass: int = 4096
    recompute: bool = False

    def __post_init__(self) -> None:
        if not self.roles or any(role not in ROLES for role in self.roles) or len(set(self.roles)) != len(self.roles):
            raise ConfigError(f"roles must be some of {', '.join(ROLES)}, each once; got {', '.join(self.roles)}")
        for name in ("rank", "epochs", "batch_size", "max_tokens", "rows_per_pass"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.held_out < 0 or any(n is not None and n < 1 for n in (self.max_steps, self.planned_steps)):
            raise ConfigError("held_out must be at least 0, and max_steps and planned_steps at least 1")
        for name, least, most in (
            ("alpha", 0.0, math.inf),
            ("learning_rate", 0.0, math.inf),
            ("max_grad_norm", 0.0, math.inf),
        ):
            if not least < getattr(self, name) < most:
                raise ConfigError(f"{name} must be a number above {least:g}; got {getattr(self, name)}")
        for name, most in (("dropout", 1.0), ("warmup", 1.0), ("weight_decay", math.inf)):
            if not 0 <= getattr(self, name) < most:
                raise ConfigError(f"{name} must be from 0 to below {most:g}; got {getattr(self, name)}")
