"""Adapters as dense products against lora_fused_linear, in float64: values and gradients."""

from __future__ import annotations

import pytest
import torch

from lorid_engine.ops import AdapterBank, PackedLinear, SegmentPlan, lora_fused_linear
from lorid_engine.train.dense_lora import MOST_RANKS, dense_lora_linear, is_worth_it, row_factors

RANKS = (3, 0, 5, 1)  # one slot has no adapter here
SLOTS = {
    "all": [0, 0, 2, 2, 2, 1, 3, -1, -1, 0],
    "one": [2] * 7,
    "base": [-1] * 4,
    "single row": [3],
    "no rows": [],
}


def made(width: int, in_features: int, seed: int) -> AdapterBank:
    random = torch.Generator().manual_seed(seed)
    a, b_t = (torch.randn(sum(RANKS), size, dtype=torch.float64, generator=random) for size in (in_features, width))
    offset = torch.tensor([0, 3, 3, 8, 9], dtype=torch.int32)
    scale = torch.tensor([0.5, 9.0, 2.0, 1.25], dtype=torch.float32)
    return AdapterBank(a.requires_grad_(), b_t.requires_grad_(), offset, scale, max(RANKS))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("columns", [((0, 11),), ((0, 4), (4, 3), (7, 4)), ((1, 3), (8, 2))])
@pytest.mark.parametrize("slots", SLOTS.values(), ids=SLOTS)
def test_values_and_gradients(slots: list[int], columns: tuple[tuple[int, int], ...], bias: bool) -> None:
    torch.manual_seed(1)
    x = torch.randn(len(slots), 20, dtype=torch.float64)[:, 3:16].requires_grad_()
    weight = torch.randn(11, 13, dtype=torch.float64)
    linear = PackedLinear(weight, 11, 13, torch.randn(11, dtype=torch.float64) if bias else None)
    banks = [(begin, made(width, 13, begin)) for begin, width in columns]
    plan, dy = SegmentPlan.from_slots(slots), torch.randn(len(slots), 11, dtype=torch.float64)
    inputs = [x, *(matrix for _, bank in banks for matrix in (bank.a, bank.b_t))]
    expected = lora_fused_linear(x, linear, banks, plan)
    found = dense_lora_linear(x, linear, banks, row_factors(plan, banks[0][1], torch.float64))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs, dy), torch.autograd.grad(expected, inputs, dy), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_where_it_is_used() -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert is_worth_it(gpu, MOST_RANKS, 0.0) and is_worth_it(gpu, 1, 0.0)
    assert not any((is_worth_it(gpu, 0, 0.0), is_worth_it(gpu, MOST_RANKS + 1, 0.0), is_worth_it(gpu, 48, 0.1)))
    assert not is_worth_it(cpu, 48, 0.0)
