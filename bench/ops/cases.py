"""What the op benchmarks share: shapes, seeded inputs, adapters half and half, and how long to time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from lorid_engine.ops import AdapterBank, SegmentPlan


@dataclass(frozen=True)
class Shape:
    """A model's sizes."""

    embedding: int
    feed_forward: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocabulary: int


MODELS = {
    "smollm2-135m": Shape(576, 1536, 9, 3, 64, 49152),
    "llama-2-7b": Shape(4096, 11008, 32, 32, 128, 32000),
}
# In and out features of layers, the first two for LoRA alone. The head's 57 MB outgrow most caches.
LAYERS = {
    "smollm2-135m qkv": (576, 960),
    "llama-2-7b o": (4096, 4096),
    "smollm2-135m down": (1536, 576),
    "llama-2-7b down": (11008, 4096),
    "smollm2-135m head": (576, 49152),
}
LORA_LAYERS = ("smollm2-135m qkv", "llama-2-7b o")
RANKS = (16, 64, 512)
ROWS = (1, 2, 8, 32, 128)  # a token each of so many sequences; 128: prefill

# About 0.1 s each, and at least five rounds of what takes longer: keeps all of them together within minutes.
brief = pytest.mark.benchmark(max_time=0.1, min_rounds=5)
implementations = pytest.mark.parametrize("implementation", ["lorid", "torch"])


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal bfloat16 numbers, the same for the same seed."""
    return torch.empty(*shape, dtype=torch.bfloat16).normal_(generator=torch.Generator().manual_seed(seed))


@functools.lru_cache(maxsize=2)
def random_weight(out_features: int, in_features: int) -> torch.Tensor:
    """A weight that keeps the magnitude of what it multiplies; neighbouring benchmarks share it, so do not write to it."""
    return random(out_features, in_features, seed=1).div_(in_features**0.5)


@dataclass(frozen=True)
class LoraCase:
    """Two adapters, the first on the first half of the rows (of one row: none), the second on the rest."""

    x: torch.Tensor
    adapters: list[tuple[torch.Tensor, torch.Tensor, float]]
    bank: AdapterBank
    plan: SegmentPlan

    @classmethod
    def make(cls, rows: int, rank: int, in_features: int, out_features: int) -> LoraCase:
        """Rank 0 leaves all rows to the base."""
        adapters = [
            (
                random(rank, in_features, seed=2 + n).div_(in_features**0.5),
                random(out_features, rank, seed=4 + n).div_(max(rank, 1) ** 0.5),
                2.0,
            )
            for n in range(2)
        ]
        slots = [0] * (rows // 2) + [1] * (rows - rows // 2)
        plan = SegmentPlan.from_slots(slots if rank else [-1] * rows)
        return cls(random(rows, in_features), adapters, AdapterBank.from_tensors(adapters), plan)

    def segments(self) -> list[tuple[slice, torch.Tensor, torch.Tensor, float]]:
        """Rows, A, B and scale of each segment with an adapter: what the loops of the torch baselines run over."""
        offset = self.plan.seg_offset.tolist()
        return [
            (slice(offset[s], offset[s + 1]), *self.adapters[slot])
            for s, slot in enumerate(self.plan.seg_slot.tolist())
            if slot >= 0
        ]

    def used_ranks(self) -> int:
        """The sum of the ranks of the adapters that rows use: what must be read of A and B."""
        return sum(a.shape[0] for _, a, _, _ in self.segments())


def num_bytes(*tensors: torch.Tensor) -> int:
    """The size of tensors that are read or written once and whole."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def measure(benchmark: BenchmarkFixture, group: str, run: Callable[[], Any], *, flops: int, moved: int) -> None:
    """Times a run that was checked; records its work: floating-point operations, and bytes that it must move."""
    benchmark.group = group
    benchmark.extra_info.update(flops=flops, bytes=moved)
    benchmark(run)
