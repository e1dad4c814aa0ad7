"""lora_linear against torch: a linear, then a product with A and one with B for each segment."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.nn.functional import linear

from bench.ops.cases import LAYERS, LORA_LAYERS, RANKS, ROWS, LoraCase, brief, measure, num_bytes, random_weight
from helpers import assert_close
from lorid_engine.ops import AdapterBank, PackedLinear, lora_linear, pack_linear, use_backend

CHECKED_COLUMNS = 576  # in float64 all columns of Llama's layers would take seconds
# 0 = base rows only, where torch in float32 is of interest too: not every processor multiplies bfloat16.
CASES = [
    *(
        (layer, rank, implementation)
        for layer in LORA_LAYERS
        for rank in RANKS
        for implementation in ("lorid", "torch")
    ),
    *((layer, 0, implementation) for layer in LAYERS for implementation in ("lorid", "torch", "torch float32")),
]


@functools.lru_cache(maxsize=1)
def packed_weight(out_features: int, in_features: int) -> PackedLinear:
    """random_weight, packed."""
    return pack_linear(random_weight(out_features, in_features))


def expected_columns(case: LoraCase, weight: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The reference's columns 0, step, 2 step, ..., and the step."""
    step = -(-weight.shape[0] // CHECKED_COLUMNS)
    some = weight[::step].contiguous()
    bank = AdapterBank.from_tensors([(a, b[::step], scale) for a, b, scale in case.adapters])
    with use_backend("reference"):
        return lora_linear(case.x, PackedLinear(some, *some.shape), bank, case.plan), step


def torch_lora_linear(case: LoraCase, weight: torch.Tensor) -> Callable[[], torch.Tensor]:
    """The base for all rows, then each segment's adapter."""
    segments = case.segments()

    def run() -> torch.Tensor:
        y = linear(case.x, weight)
        for rows, a, b, scale in segments:
            y[rows].add_(linear(linear(case.x[rows], a), b), alpha=scale)
        return y

    return run


def runner(implementation: str, case: LoraCase, weight: torch.Tensor) -> Callable[[], torch.Tensor]:
    """What to time; float32 is for the base alone."""
    if implementation == "lorid":
        packed = packed_weight(*weight.shape)
        return lambda: lora_linear(case.x, packed, case.bank, case.plan)
    if implementation == "torch":
        return torch_lora_linear(case, weight)
    wide_x, wide_weight = case.x.float(), weight.float()
    return lambda: linear(wide_x, wide_weight)


@brief
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("layer", "rank", "implementation"), CASES)
def bench_lora_linear(benchmark: BenchmarkFixture, layer: str, rank: int, rows: int, implementation: str) -> None:
    in_features, out_features = LAYERS[layer]
    case, weight = LoraCase.make(rows, rank, in_features, out_features), random_weight(out_features, in_features)
    run = runner(implementation, case, weight)
    expected, step = expected_columns(case, weight)
    y = run()
    assert_close(y[:, ::step].to(expected.dtype), expected)
    measure(
        benchmark,
        f"lora_linear {layer} R={rank} T={rows}",
        run,
        flops=2 * rows * (in_features * out_features + rank * (in_features + out_features)),
        moved=num_bytes(case.x, weight, y) + 2 * case.used_ranks() * (in_features + out_features),
    )
