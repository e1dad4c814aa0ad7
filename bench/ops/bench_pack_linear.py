"""pack_linear against the same permutation in torch, and against a plain copy: the least that it could take."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.ops.cases import LAYERS, brief, measure, num_bytes, random_weight
from helpers import assert_same_bits
from lorid_engine.ops import pack_linear, use_backend
from lorid_engine.ops.pack_linear import BLOCK_COLS


def torch_pack(weight: torch.Tensor) -> torch.Tensor:
    """Where 32 divides O and 2 divides I, packing is a permutation."""
    blocks = weight.view(weight.shape[0] // BLOCK_COLS, BLOCK_COLS, weight.shape[1] // 2, 2)
    return blocks.permute(0, 2, 1, 3).contiguous()


@brief
@pytest.mark.parametrize("implementation", ["lorid", "torch", "copy"])
@pytest.mark.parametrize("layer", LAYERS)
def bench_pack_linear(benchmark: BenchmarkFixture, layer: str, implementation: str) -> None:
    in_features, out_features = LAYERS[layer]
    weight = random_weight(out_features, in_features)
    run = {
        "lorid": lambda: pack_linear(weight).data,
        "torch": lambda: torch_pack(weight),
        "copy": weight.clone,
    }[implementation]
    if implementation != "copy":
        with use_backend("reference"):
            expected = pack_linear(weight).data
        assert_same_bits(run(), expected)
    measure(benchmark, f"pack_linear {layer}", run, flops=0, moved=2 * num_bytes(weight))
