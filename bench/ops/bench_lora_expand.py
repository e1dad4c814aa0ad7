"""lora_expand against a torch product with B for each segment, added in place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.nn.functional import linear

from bench.ops.cases import (
    LAYERS,
    LORA_LAYERS,
    RANKS,
    ROWS,
    LoraCase,
    brief,
    implementations,
    measure,
    num_bytes,
    random,
)
from helpers import assert_close
from lorid_engine.ops import lora_expand, use_backend


def torch_lora_expand(case: LoraCase, y: torch.Tensor, shrunk: torch.Tensor) -> Callable[[], None]:
    """One product a segment."""
    segments, narrow = case.segments(), shrunk.bfloat16()

    def run() -> None:
        for rows, _, b, scale in segments:
            y[rows].add_(linear(narrow[rows], b), alpha=scale)

    return run


@brief
@implementations
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("layer", LORA_LAYERS)
def bench_lora_expand(benchmark: BenchmarkFixture, layer: str, rank: int, rows: int, implementation: str) -> None:
    """The timed runs go on adding to one y: in bfloat16 it stops growing at some 500 times what is added."""
    in_features, out_features = LAYERS[layer]
    case = LoraCase.make(rows, rank, in_features, out_features)
    y, shrunk = random(rows, out_features, seed=6), random(rows, rank, seed=7).float()
    expected = y.clone()
    with use_backend("reference"):
        lora_expand(expected, shrunk, case.bank, case.plan)
    run = {
        "lorid": lambda: lora_expand(y, shrunk, case.bank, case.plan),
        "torch": torch_lora_expand(case, y, shrunk),
    }[implementation]
    run()
    assert_close(y, expected)
    measure(
        benchmark,
        f"lora_expand {layer} R={rank} T={rows}",
        run,
        flops=2 * rows * rank * out_features,
        moved=num_bytes(y, y, shrunk) + 2 * case.used_ranks() * out_features,
    )
