"""rope and its write to the pages against torch: a rotation, then a write to a plain [tokens, G, D] cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.ops.cases import MODELS, ROWS, Shape, brief, implementations, measure, num_bytes, random
from helpers import assert_close
from lorid_engine.ops import rope, use_backend
from lorid_engine.ops.kv_pages import PAGE_TOKENS, key_view, page_shapes, value_view

POSITIONS, PAGES = 2048, 64


@dataclass(frozen=True)
class RopeCase:
    """Rows at scattered positions and places."""

    shape: Shape
    qkv: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    positions: torch.Tensor
    cache_slot: torch.Tensor

    @classmethod
    def make(cls, shape: Shape, rows: int) -> RopeCase:
        """Each row writes a place of its own."""
        generator = torch.Generator().manual_seed(0)
        frequency = 10000.0 ** -torch.arange(0, 1, 2 / shape.head_dim)
        angle = torch.outer(torch.arange(POSITIONS), frequency)
        return cls(
            shape,
            random(rows, (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim),
            angle.cos(),
            angle.sin(),
            torch.randint(POSITIONS, (rows,), generator=generator, dtype=torch.int32),
            torch.randperm(PAGES * PAGE_TOKENS, generator=generator)[:rows],
        )

    def paged(self) -> tuple[Callable[[], torch.Tensor], Callable[[], list[torch.Tensor]]]:
        """The op over pages of its own; and what to compare: the keys and values that it wrote."""
        shapes = page_shapes(self.shape.num_kv_heads, self.shape.head_dim, self.qkv.dtype)
        k_pages, v_pages = (torch.zeros(PAGES, *shape, dtype=self.qkv.dtype) for shape in shapes)

        def written() -> list[torch.Tensor]:
            views = (key_view(k_pages), value_view(v_pages, self.shape.head_dim))
            return [view.flatten(0, 1)[self.cache_slot].flatten(1) for view in views]

        inputs = (self.qkv, self.cos, self.sin, self.positions, self.cache_slot)
        return lambda: rope(*inputs, k_pages, v_pages, self.shape.num_heads), written

    def plain(self) -> tuple[Callable[[], torch.Tensor], Callable[[], list[torch.Tensor]]]:
        """The same in torch over a plain cache."""
        heads, groups, head_dim = self.shape.num_heads, self.shape.num_kv_heads, self.shape.head_dim
        keys, values = (torch.zeros(PAGES * PAGE_TOKENS, groups, head_dim, dtype=self.qkv.dtype) for _ in range(2))
        cos, sin = self.cos.to(self.qkv.dtype), self.sin.to(self.qkv.dtype)

        def run() -> torch.Tensor:
            c, s = (table[self.positions].unsqueeze(1) for table in (cos, sin))
            rows = self.qkv.view(self.qkv.shape[0], -1, head_dim)
            first, second = rows[:, : heads + groups].chunk(2, dim=2)
            rotated = torch.cat([first * c - second * s, second * c + first * s], dim=2)
            keys[self.cache_slot] = rotated[:, heads:]
            values[self.cache_slot] = rows[:, heads + groups :]
            return rotated[:, :heads].flatten(1)

        return run, lambda: [cache[self.cache_slot].flatten(1) for cache in (keys, values)]


@brief
@implementations
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("model", MODELS)
def bench_rope(benchmark: BenchmarkFixture, model: str, rows: int, implementation: str) -> None:
    case = RopeCase.make(MODELS[model], rows)
    run, written = {"lorid": case.paged, "torch": case.plain}[implementation]()
    reference, expected = case.paged()
    with use_backend("reference"):
        assert_close(run(), reference())
    for actual, wanted in zip(written(), expected(), strict=True):
        assert_close(actual, wanted)
    rotated = rows * (case.shape.num_heads + case.shape.num_kv_heads) * case.shape.head_dim
    tables = 4 * rows * case.shape.head_dim  # a float32 cosine and a sine for each pair of features
    measure(benchmark, f"rope {model} T={rows}", run, flops=3 * rotated, moved=2 * num_bytes(case.qkv) + tables)
