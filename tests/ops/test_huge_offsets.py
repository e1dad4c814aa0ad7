"""Offsets past 2^31 elements, in memory that is committed only where it is touched."""

from __future__ import annotations

import pytest
import torch

from helpers import assert_close, assert_same_bits, lazy_zeros
from lorid_engine.ops import (
    AdapterBank,
    PackedLinear,
    SegmentPlan,
    embed,
    lora_expand,
    lora_linear,
    lora_shrink,
    pack_linear,
    paged_attention,
    rms_norm,
    rope,
    sample,
    silu_mul,
)
from lorid_engine.ops.kv_pages import page_shapes, write_token
from lorid_engine.ops.pack_linear import packed_shape, unpack

PAST = 2**31


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapter_at_the_end_of_a_huge_bank(isa: str, dtype: torch.dtype) -> None:
    features, rank = 2**14, 4
    before = PAST // features  # ranks of slot 0: its matrices end at element 2^31
    size = (before + rank, features)
    a, b_t = (lazy_zeros(size[0] * size[1], dtype).view(size) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    a[before:] = torch.randn(rank, features, generator=generator).to(dtype) / 128
    b_t[before:] = torch.randn(rank, features, generator=generator).to(dtype)
    offset = torch.tensor([0, before, before + rank], dtype=torch.int32)
    bank = AdapterBank(a, b_t, offset, torch.tensor([1.0, 0.5]), before)
    small = AdapterBank.from_tensors([None, (a[before:].clone(), b_t[before:].t().clone(), 0.5)])
    plan = SegmentPlan.from_slots([1, -1, 1])
    x = torch.randn(3, features, generator=generator).to(dtype)
    shrunk = lora_shrink(x, bank, plan)
    assert_same_bits(shrunk[[0, 2], :rank], lora_shrink(x, small, plan)[[0, 2], :rank])
    y, expected = torch.zeros(3, features, dtype=dtype), torch.zeros(3, features, dtype=dtype)
    lora_expand(y, shrunk[:, :].contiguous(), bank, plan)
    lora_expand(expected, shrunk[:, :rank].contiguous(), small, plan)
    assert_same_bits(y, expected)
    assert y[0].abs().max() > 0


def test_rows_far_apart(isa: str) -> None:
    storage = lazy_zeros(2 * PAST + 64, torch.bfloat16)
    x = storage.as_strided((3, 16), (PAST, 1))
    x.copy_(torch.randn(3, 16, generator=torch.Generator().manual_seed(0)))
    bank = AdapterBank.from_tensors([(torch.ones(2, 16).bfloat16(), torch.ones(16, 2).bfloat16(), 1.0)])
    plan = SegmentPlan.from_slots([0, 0, 0])
    assert_same_bits(lora_shrink(x, bank, plan), lora_shrink(x.contiguous(), bank, plan))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pages_past_two_to_the_31(isa: str, dtype: torch.dtype) -> None:
    shapes = page_shapes(2, 64, dtype)
    size = 2 * 64 * 16
    last = PAST // size
    k_pages, v_pages = (lazy_zeros((last + 1) * size, dtype).view(last + 1, *shape) for shape in shapes)
    generator = torch.Generator().manual_seed(0)
    kv = torch.randn(5, 2, 2, 64, generator=generator)
    near = [torch.zeros(1, *shape, dtype=dtype) for shape in shapes]
    for position in range(5):
        write_token(k_pages, v_pages, last * 16 + position, kv[position, 0], kv[position, 1])
        write_token(*near, position, kv[position, 0], kv[position, 1])
    q = torch.randn(5, 256, generator=generator).to(dtype)
    offset, positions = torch.tensor([0, 5], dtype=torch.int32), torch.arange(5, dtype=torch.int32)
    far = paged_attention(
        q, k_pages, v_pages, torch.tensor([[last]], dtype=torch.int32), offset, positions, 64, 0.125, 0
    )
    same = paged_attention(q, *near, torch.tensor([[0]], dtype=torch.int32), offset, positions, 64, 0.125, 0)
    assert_same_bits(far, same)
    assert_close(far[0], kv[0, 1].repeat_interleave(2, dim=0).flatten().to(dtype))


def far_rows(columns: int, dtype: torch.dtype) -> torch.Tensor:
    """Two zero rows, the second 2^31 elements after the first."""
    return lazy_zeros(PAST + columns, dtype).as_strided((2, columns), (PAST, 1))


def filled(columns: int, dtype: torch.dtype) -> torch.Tensor:
    """Such rows with random content."""
    rows = far_rows(columns, dtype)
    return rows.copy_(torch.randn(2, columns, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_every_op_far_apart(isa: str, dtype: torch.dtype) -> None:
    x, plan = filled(64, dtype), SegmentPlan.from_slots([0, -1])
    near = x.contiguous()
    norm = torch.ones(64)
    assert_same_bits(rms_norm(x, norm, 1e-5), rms_norm(near, norm, 1e-5))
    assert_same_bits(silu_mul(x), silu_mul(near))
    generator = torch.Generator().manual_seed(1)
    matrices = (torch.randn(3, 64, generator=generator), torch.randn(40, 3, generator=generator), 0.5)
    bank = AdapterBank.from_tensors([matrices], dtype=dtype)
    weight = torch.randn(40, 64, generator=generator).to(dtype)
    packed = pack_linear(weight)
    assert_same_bits(lora_linear(x, packed, bank, plan), lora_linear(near, packed, bank, plan))
    y, expected = far_rows(40, dtype), torch.zeros(2, 40, dtype=dtype)
    lora_expand(y, torch.ones(2, 3), bank, plan)
    lora_expand(expected, torch.ones(2, 3), bank, plan)
    assert_same_bits(y.contiguous(), expected)
    rows = far_rows(64, dtype)
    rows.copy_(weight[:2])
    assert_same_bits(pack_linear(rows).data, pack_linear(weight[:2].contiguous()).data)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_last_row_of_a_huge_embedding(isa: str, dtype: torch.dtype) -> None:
    features = 2**12
    tokens = PAST // features + 32
    data = lazy_zeros(tokens * features, dtype).view(packed_shape(dtype, tokens, features))
    data[-1] = pack_linear(torch.randn(32, features, generator=torch.Generator().manual_seed(0)).to(dtype)).data[0]
    table = PackedLinear(data, tokens, features)
    row = embed(torch.tensor([tokens - 1], dtype=torch.int32), table)
    assert_same_bits(row[0], unpack(data[-1:], 32, features)[-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rope_far_away(isa: str, dtype: torch.dtype) -> None:
    """Rows far apart, and a place past 2^31 in the pages."""
    shapes = page_shapes(1, 64, dtype)
    last = PAST // (64 * 16)
    qkv, table = filled(192, dtype), torch.randn(4, 32, generator=torch.Generator().manual_seed(2))
    far = [lazy_zeros((last + 1) * 64 * 16, dtype).view(last + 1, *shape) for shape in shapes]
    near = [torch.zeros(1, *shape, dtype=dtype) for shape in shapes]
    positions = torch.tensor([1, 3], dtype=torch.int32)
    q = rope(qkv, table.cos(), table.sin(), positions, torch.tensor([last * 16 + 2, last * 16 + 9]), *far, 1)
    same = rope(qkv.contiguous(), table.cos(), table.sin(), positions, torch.tensor([2, 9]), *near, 1)
    assert_same_bits(q, same)
    for there, here in zip(far, near, strict=True):
        assert_same_bits(there[-1:].contiguous(), here)


def test_logits_far_apart(isa: str) -> None:
    logits, ones = filled(50, torch.float32), torch.ones(2)
    arguments = (torch.tensor([1, 2]), torch.zeros(2, 2, dtype=torch.int64), ones, torch.zeros(2).int(), ones, 3)
    for far, near in zip(sample(logits, *arguments), sample(logits.contiguous(), *arguments), strict=True):
        assert torch.equal(far, near)
