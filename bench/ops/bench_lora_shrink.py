"""lora_shrink against a torch product with A for each segment."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.nn.functional import linear

from bench.ops.cases import LAYERS, LORA_LAYERS, RANKS, ROWS, LoraCase, brief, implementations, measure, num_bytes
from helpers import assert_close
from lorid_engine.ops import lora_shrink, use_backend


@brief
@implementations
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("layer", LORA_LAYERS)
def bench_lora_shrink(benchmark: BenchmarkFixture, layer: str, rank: int, rows: int, implementation: str) -> None:
    in_features, out_features = LAYERS[layer]
    case = LoraCase.make(rows, rank, in_features, out_features)
    segments = case.segments()
    run = {
        "lorid": lambda: lora_shrink(case.x, case.bank, case.plan),
        "torch": lambda: torch.cat([linear(case.x[part], a) for part, a, _, _ in segments]),
    }[implementation]
    with use_backend("reference"):
        expected = lora_shrink(case.x, case.bank, case.plan)
    assert_close(run().bfloat16(), expected)
    measure(
        benchmark,
        f"lora_shrink {layer} R={rank} T={rows}",
        run,
        flops=2 * rows * rank * in_features,
        moved=num_bytes(case.x, expected) + 2 * case.used_ranks() * in_features,
    )
