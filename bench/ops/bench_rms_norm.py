"""rms_norm against torch's."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from torch.nn import functional

from bench.ops.cases import MODELS, ROWS, brief, implementations, measure, num_bytes, random
from helpers import assert_close
from lorid_engine.ops import rms_norm, use_backend

EPSILON = 1e-5


@brief
@implementations
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("model", MODELS)
def bench_rms_norm(benchmark: BenchmarkFixture, model: str, rows: int, implementation: str) -> None:
    """The op takes the weight in float32, as the models hold it; torch takes it in x's dtype."""
    features = MODELS[model].embedding
    x, weight = random(rows, features), random(features, seed=1)
    wide_weight = weight.float()
    run = {
        "lorid": lambda: rms_norm(x, wide_weight, EPSILON),
        "torch": lambda: functional.rms_norm(x, (features,), weight, EPSILON),
    }[implementation]
    with use_backend("reference"):
        expected = rms_norm(x, weight, EPSILON)
    assert_close(run(), expected)
    measure(
        benchmark, f"rms_norm {model} T={rows}", run, flops=4 * x.numel(), moved=num_bytes(x, expected, wide_weight)
    )
