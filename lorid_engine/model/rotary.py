"""Rotary embedding (Su et al., arXiv 2104.09864): its kind, as config.json states it, and its tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorid_engine.errors import CheckpointError

KINDS = ("default", "linear", "dynamic", "llama3")


@dataclass(frozen=True)
class Rotary:
    """How a model's positions turn into angles.

    Attributes:
        kind: one of KINDS.
        theta: base of the frequencies.
        factor: how much longer than trained a context may be (all kinds but default).
        trained_positions: the context of the training, from which on dynamic changes theta, and by which llama3 tells long
            wavelengths from short ones.
        low_freq_factor, high_freq_factor: llama3's limits between them.
    """

    kind: str = "default"
    theta: float = 10000.0
    factor: float = 1.0
    trained_positions: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    @classmethod
    def from_config(cls, folder: Path, raw: dict[str, Any], default_theta: float) -> Rotary:
        """Reads transformers 5's rope_parameters, or the rope_scaling and rope_theta of earlier versions.

        Raises:
            CheckpointError: a kind that is not supported, or a number out of range.
        """
        given = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
        if not isinstance(given, dict):
            raise CheckpointError(f"{folder}: the rope parameters must be a JSON object; got {given!r}")
        kind = given.get("rope_type") or given.get("type") or "default"
        if kind not in KINDS:
            raise CheckpointError(f"{folder}: rope type {kind!r} is not supported; supported: {', '.join(KINDS)}")

        def number(name: str, value: object, above: float) -> float:
            valid = isinstance(value, int | float) and not isinstance(value, bool) and above < value < math.inf
            if not valid:
                raise CheckpointError(f"{folder}: {name} must be a number above {above:g}; got {value!r}")
            return float(value)  # type: ignore[arg-type]

        theta = number("rope_theta", given.get("rope_theta") or raw.get("rope_theta") or default_theta, 0)
        if kind == "default":
            return cls(theta=theta)
        factor = number("the rope factor", given.get("factor"), 0)
        trained = raw.get("max_position_embeddings")
        if kind != "llama3":
            return cls(kind, theta, factor, int(number("max_position_embeddings", trained, 0)))
        low, high = (number(name, given.get(name), 0) for name in ("low_freq_factor", "high_freq_factor"))
        if low >= high:
            raise CheckpointError(f"{folder}: low_freq_factor {low:g} must be below high_freq_factor {high:g}")
        trained = given.get("original_max_position_embeddings") or trained
        trained_positions = int(number("original_max_position_embeddings", trained, 0))
        return cls(kind, theta, factor, trained_positions, low, high)

    def stretched(self, max_position_embeddings: int) -> int:
        """The context that a config means: linear and dynamic state the trained one and stretch it by their factor."""
        return (
            int(max_position_embeddings * self.factor)
            if self.kind in ("linear", "dynamic")
            else max_position_embeddings
        )

    def tables(self, head_dim: int, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin [positions, D / 2] float32, rounded where transformers rounds.

        A position's angles depend on that position alone: dynamic takes the theta of a sequence that ends there, as
        token-by-token decoding does, so that results do not depend on how a prompt is cut into steps.
        """
        exponent = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
        frequency = 1.0 / self.theta**exponent
        if self.kind == "linear":
            frequency = frequency / self.factor
        elif self.kind == "llama3":
            frequency = self._llama3(frequency)
        elif self.kind == "dynamic" and positions > self.trained_positions:
            length = torch.arange(1, positions + 1, dtype=torch.float64).clamp(min=self.trained_positions)
            stretch = self.factor * length / self.trained_positions - (self.factor - 1)
            theta = self.theta * stretch ** (head_dim / max(head_dim - 2, 1))
            stretched = (1.0 / theta.unsqueeze(1) ** exponent.double()).float()
            frequency = torch.where(length.unsqueeze(1) > self.trained_positions, stretched, frequency)
        angle = torch.arange(positions).float().unsqueeze(1) * frequency
        return angle.cos().contiguous(), angle.sin().contiguous()

    def _llama3(self, frequency: torch.Tensor) -> torch.Tensor:
        """Llama 3.1's rule: long wavelengths are stretched, short ones kept, those between interpolated."""
        wavelength = 2 * math.pi / frequency
        turns = self.trained_positions / wavelength
        share = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        between = (1 - share) * frequency / self.factor + share * frequency
        kept = torch.where(turns > self.high_freq_factor, frequency, between)
        return torch.where(turns < self.low_freq_factor, frequency / self.factor, kept)
