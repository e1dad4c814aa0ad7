"""lora_linear against its parts and its reference, on SmolLM2's and Llama-2-7B's shapes."""

from __future__ import annotations

import pytest
import torch

from lorid_engine.ops import AdapterBank, SegmentPlan, lora_linear, pack_linear, use_backend

SHAPES = {"smollm2": (576, 960), "llama-2-7b": (4096, 4096)}


@pytest.mark.parametrize("rank", [0, 16, 64, 512])
@pytest.mark.parametrize("rows", [2, 32])
@pytest.mark.parametrize("shape", SHAPES)
def bench_lora_linear(benchmark, shape: str, rows: int, rank: int) -> None:
    """Half of the rows use one adapter, half another; rank 0 = base rows only."""
    in_features, out_features = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)

    def random(*size: int) -> torch.Tensor:
        return (torch.randn(*size, generator=generator) / size[-1] ** 0.5).bfloat16()

    adapters = [(random(max(rank, 1), in_features), random(out_features, max(rank, 1)), 2.0) for _ in range(2)]
    bank, weight, x = AdapterBank.from_tensors(adapters), random(out_features, in_features), random(rows, in_features)
    slots = [0] * (rows // 2) + [1] * (rows - rows // 2)
    plan, packed = SegmentPlan.from_slots(slots if rank else [-1] * rows), pack_linear(weight)
    with use_backend("reference"):
        expected = lora_linear(x, packed, bank, plan)
    torch.testing.assert_close(lora_linear(x, packed, bank, plan), expected, rtol=0.02, atol=0.02)
    benchmark.group = f"lora_linear {shape} T={rows}"
    benchmark.extra_info.update(
        rank=rank, flops=2 * rows * (in_features * out_features + rank * (in_features + out_features))
    )
    benchmark(lora_linear, x, packed, bank, plan)
