"""lora_shrink: every row times the A matrix of its adapter."""

from __future__ import annotations

import torch

from lorid_engine.ops import cpu, gpu
from lorid_engine.ops.adapter_bank import AdapterBank
from lorid_engine.ops.checks import (
    check_bank,
    check_plan,
    expect_contiguous,
    expect_device,
    expect_dtype,
    expect_floating,
    expect_rows,
    expect_shape,
)
from lorid_engine.ops.dispatch import op
from lorid_engine.ops.segment_plan import SegmentPlan


def _check(x, a, rank_offset, max_rank, seg_offset, seg_slot) -> None:
    expect_shape("x", x, None, None)
    expect_floating("x", x)
    expect_rows("x", x)
    expect_shape("a", a, None, x.shape[1])
    expect_dtype("a", a, x.dtype)
    expect_contiguous("a", a)
    expect_device(x, a=a, rank_offset=rank_offset, seg_offset=seg_offset, seg_slot=seg_slot)
    check_bank(rank_offset, a.shape[0], max_rank)
    check_plan(x.shape[0], rank_offset.numel() - 1, seg_offset, seg_slot)


def _fake(x, a, rank_offset, max_rank, seg_offset, seg_slot) -> torch.Tensor:
    return x.new_empty(x.shape[0], max_rank, dtype=_sum_dtype(x))


def _sum_dtype(x: torch.Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


@op(check=_check, fake=_fake)
def _lora_shrink(
    x: torch.Tensor,
    a: torch.Tensor,
    rank_offset: torch.Tensor,
    max_rank: int,
    seg_offset: torch.Tensor,
    seg_slot: torch.Tensor,
) -> torch.Tensor:
    """lora_shrink over a bank's and a plan's tensors."""
    shrunk = x.new_zeros(x.shape[0], max_rank, dtype=_sum_dtype(x))
    for s, slot in enumerate(seg_slot.tolist()):
        begin, end = int(seg_offset[s]), int(seg_offset[s + 1])
        if slot >= 0 and begin < end:
            first, last = int(rank_offset[slot]), int(rank_offset[slot + 1])
            product = x[begin:end].double() @ a[first:last].double().t()
            shrunk[begin:end, : last - first] = product.to(shrunk.dtype)
    return shrunk


@_lora_shrink.backend("cpu", why_not=lambda x, a, *_: cpu.why_not_tensors(x, a))
def _cpu(x, a, rank_offset, max_rank, seg_offset, seg_slot) -> torch.Tensor:
    shrunk = x.new_empty(x.shape[0], max_rank, dtype=torch.float32)
    cpu.extension().lora_shrink(
        dtype=cpu.dtype(x),
        x=x.data_ptr(),
        x_stride=x.stride(0),
        in_features=x.shape[1],
        a=a.data_ptr(),
        rank_offset=rank_offset.data_ptr(),
        num_slots=rank_offset.numel() - 1,
        plan=cpu.segments(x.shape[0], seg_offset, seg_slot),
        shrunk=shrunk.data_ptr(),
        shrunk_stride=max_rank,
        threads=cpu.op_threads(),
    )
    return shrunk


@_lora_shrink.backend("triton", why_not=lambda x, a, *_: gpu.why_not_tensors(x, a))
def _triton(x, a, rank_offset, max_rank, seg_offset, seg_slot) -> torch.Tensor:
    from lorid_kernels import lora_shrink as kernels
    from lorid_kernels.segments import Adapters, Segments

    shrunk = x.new_empty(x.shape[0], max_rank, dtype=torch.float32)
    if max_rank == 0:
        return shrunk
    unused = x.new_empty(rank_offset.numel() - 1, dtype=torch.float32)
    adapters = Adapters(a, a, rank_offset, unused, (a.shape[0],), max_rank)
    segments = Segments(seg_offset, seg_slot)
    parts = x.new_empty(kernels.num_parts(x.shape[1]), x.shape[0], adapters.width, dtype=torch.float32)
    kernels.lora_shrink(x, adapters, segments, parts)
    kernels.add_parts(parts, adapters, segments, shrunk, scales=False)
    return shrunk


def lora_shrink(x: torch.Tensor, bank: AdapterBank, plan: SegmentPlan) -> torch.Tensor:
    """Projects every row with the A matrix of its segment's slot.

        shrunk[t, :R_n] = A_n x[t]    with n the slot of row t
        shrunk[t] is not defined      where n is -1, and past R_n

    Args:
        x: [T, I] activations; rows may be strided, the last dimension is contiguous.
        bank: N slots with A matrices [R_n, I] in x's dtype.
        plan: segments that cover the T rows.

    Returns:
        [T, max R_n] float32 (the float64 reference keeps float64 for float64 inputs).

    Raises:
        ShapeError: shapes, dtypes or devices disagree.
    """
    return _lora_shrink(x, bank.a, bank.rank_offset, bank.max_rank, plan.seg_offset, plan.seg_slot)
