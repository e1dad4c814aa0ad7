"""silu_mul against torch's silu and a product."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.nn.functional import silu

from bench.ops.cases import MODELS, ROWS, brief, implementations, measure, num_bytes, random
from helpers import assert_close
from lorid_engine.ops import silu_mul, use_backend


def torch_silu_mul(x: torch.Tensor) -> torch.Tensor:
    """Two ops, which round in between."""
    gate, up = x.chunk(2, dim=1)
    return silu(gate) * up


@brief
@implementations
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("model", MODELS)
def bench_silu_mul(benchmark: BenchmarkFixture, model: str, rows: int, implementation: str) -> None:
    """Five operations an element, the exponential counted as one."""
    x = random(rows, 2 * MODELS[model].feed_forward)
    run = {"lorid": lambda: silu_mul(x), "torch": lambda: torch_silu_mul(x)}[implementation]
    with use_backend("reference"):
        expected = silu_mul(x)
    assert_close(run(), expected)
    measure(benchmark, f"silu_mul {model} T={rows}", run, flops=5 * expected.numel(), moved=num_bytes(x, expected))
