"""paged_attention against torch's scaled_dot_product_attention over plain [B, G, keys, D] caches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.nn.functional import scaled_dot_product_attention

from bench.ops.cases import MODELS, Shape, brief, implementations, measure, num_bytes, random
from helpers import assert_close
from lorid_engine.ops import paged_attention, use_backend
from lorid_engine.ops.kv_pages import PAGE_TOKENS, key_view, page_shapes, value_view

# Sequences by model; 32 of Llama's at 2,048 keys would hold 1 GiB a layer, and say no more than 8.
DECODE = [("smollm2-135m", 1), ("smollm2-135m", 8), ("smollm2-135m", 32), ("llama-2-7b", 1), ("llama-2-7b", 8)]


@dataclass(frozen=True)
class AttentionCase:
    """Sequences of one length in scattered pages; the last rows_each positions of each are queried."""

    shape: Shape
    q: torch.Tensor
    k_pages: torch.Tensor
    v_pages: torch.Tensor
    block_table: torch.Tensor
    rows_each: int
    keys: int

    @classmethod
    def make(cls, shape: Shape, sequences: int, keys: int, rows_each: int) -> AttentionCase:
        """Any numbers are keys and values, so the pages are filled as they lie."""
        pages = keys // PAGE_TOKENS
        table = torch.randperm(sequences * pages, generator=torch.Generator().manual_seed(0)).int()
        k_shape, v_shape = page_shapes(shape.num_kv_heads, shape.head_dim, torch.bfloat16)
        return cls(
            shape,
            random(sequences * rows_each, shape.num_heads * shape.head_dim),
            random(sequences * pages, *k_shape, seed=1),
            random(sequences * pages, *v_shape, seed=2),
            table.view(sequences, pages),
            rows_each,
            keys,
        )

    def positions(self) -> torch.Tensor:
        """Of every row."""
        return torch.arange(self.keys - self.rows_each, self.keys).int().repeat(self.block_table.shape[0])

    def paged(self) -> Callable[[], torch.Tensor]:
        """The op over all rows."""
        offset = torch.arange(0, self.q.shape[0] + 1, self.rows_each).int()
        return self._attend(self.q, self.block_table, offset, self.positions())

    def paged_rows(self, rows: list[int]) -> torch.Tensor:
        """Only some rows, each as if it were a sequence: cheap enough for the reference."""
        table = self.block_table[[row // self.rows_each for row in rows]]
        return self._attend(self.q[rows], table, torch.arange(len(rows) + 1).int(), self.positions()[rows])()

    def _attend(self, q, table, offset, positions) -> Callable[[], torch.Tensor]:
        head_dim = self.shape.head_dim
        caches = (self.k_pages, self.v_pages)
        return lambda: paged_attention(q, *caches, table, offset, positions, head_dim, head_dim**-0.5, 0)

    def plain(self) -> Callable[[], torch.Tensor]:
        """Torch's op over the same keys and values, gathered beforehand."""
        views = (key_view(self.k_pages), value_view(self.v_pages, self.shape.head_dim))
        k, v = (view[self.block_table.long()].flatten(1, 2).transpose(1, 2).contiguous() for view in views)
        q = self.q.view(k.shape[0], self.rows_each, self.shape.num_heads, -1).transpose(1, 2)
        causal, grouped = self.rows_each > 1, q.shape[1] != k.shape[1]

        def run() -> torch.Tensor:
            y = scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)
            return y.transpose(1, 2).reshape(self.q.shape)

        return run


def check_and_measure(benchmark: BenchmarkFixture, group: str, case: AttentionCase, implementation: str) -> None:
    """Checks the first, middle and last row against the reference, which would take seconds for all."""
    run = {"lorid": case.paged, "torch": case.plain}[implementation]()
    some = sorted({0, case.q.shape[0] // 2, case.q.shape[0] - 1})
    with use_backend("reference"):
        expected = case.paged_rows(some)
    assert_close(run()[some], expected)
    width = case.shape.num_heads * case.shape.head_dim
    measure(
        benchmark,
        group,
        run,
        flops=4 * width * int((case.positions().long() + 1).sum()),
        moved=num_bytes(case.q, case.q, case.k_pages, case.v_pages),
    )


@brief
@implementations
@pytest.mark.parametrize("keys", [128, 512, 2048])
@pytest.mark.parametrize(("model", "sequences"), DECODE)
def bench_decode(benchmark: BenchmarkFixture, model: str, sequences: int, keys: int, implementation: str) -> None:
    """One row of each sequence."""
    case = AttentionCase.make(MODELS[model], sequences, keys, 1)
    check_and_measure(benchmark, f"paged_attention {model} decode B={sequences} keys={keys}", case, implementation)


@brief
@implementations
@pytest.mark.parametrize("rows", [128, 512])
@pytest.mark.parametrize("model", MODELS)
def bench_prefill(benchmark: BenchmarkFixture, model: str, rows: int, implementation: str) -> None:
    """One whole sequence."""
    case = AttentionCase.make(MODELS[model], 1, rows, rows)
    check_and_measure(benchmark, f"paged_attention {model} prefill T={rows}", case, implementation)
