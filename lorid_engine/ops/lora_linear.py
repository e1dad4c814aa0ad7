"""lora_linear: a linear layer and the adapters of its rows, in one accumulator."""

from __future__ import annotations

import torch

from lorid_engine.errors import ShapeError
from lorid_engine.ops import cpu
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
from lorid_engine.ops.pack_linear import PackedLinear, packed_shape, unpack
from lorid_engine.ops.segment_plan import SegmentPlan


def _check(x, weight, out_features, a, b_t, rank_offset, scale, max_rank, seg_offset, seg_slot, bias=None) -> None:
    expect_shape("x", x, None, None)
    expect_floating("x", x)
    expect_rows("x", x)
    expect_dtype("weight", weight, x.dtype)
    expect_contiguous("weight", weight)
    plain, packed = (out_features, x.shape[1]), packed_shape(x.dtype, out_features, x.shape[1])
    if tuple(weight.shape) not in (plain, packed):
        raise ShapeError(f"weight must be [O, I] = {list(plain)} or packed as {list(packed)}; got {list(weight.shape)}")
    expect_shape("a", a, None, x.shape[1])
    expect_shape("b_t", b_t, a.shape[0], out_features)
    expect_shape("scale", scale, rank_offset.numel() - 1)
    expect_dtype("scale", scale, torch.float32)
    for name, tensor in (("a", a), ("b_t", b_t)):
        expect_dtype(name, tensor, x.dtype)
        expect_contiguous(name, tensor)
    expect_contiguous("scale", scale)
    if bias is not None:
        expect_shape("bias", bias, out_features)
        expect_dtype("bias", bias, torch.float64 if x.dtype == torch.float64 else torch.float32)
        expect_contiguous("bias", bias)
        expect_device(x, bias=bias)
    expect_device(
        x,
        weight=weight,
        a=a,
        b_t=b_t,
        rank_offset=rank_offset,
        scale=scale,
        seg_offset=seg_offset,
        seg_slot=seg_slot,
    )
    check_bank(rank_offset, a.shape[0], max_rank)
    check_plan(x.shape[0], rank_offset.numel() - 1, seg_offset, seg_slot)


def _fake(
    x, weight, out_features, a, b_t, rank_offset, scale, max_rank, seg_offset, seg_slot, bias=None
) -> torch.Tensor:
    return x.new_empty(x.shape[0], out_features)


@op(check=_check, fake=_fake)
def _lora_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    out_features: int,
    a: torch.Tensor,
    b_t: torch.Tensor,
    rank_offset: torch.Tensor,
    scale: torch.Tensor,
    max_rank: int,
    seg_offset: torch.Tensor,
    seg_slot: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """lora_linear over a packed weight's, a bank's and a plan's tensors."""
    y = x.double() @ unpack(weight, out_features, x.shape[1]).double().t()
    if bias is not None:
        y += bias.double()
    for s, slot in enumerate(seg_slot.tolist()):
        begin, end = int(seg_offset[s]), int(seg_offset[s + 1])
        if slot >= 0 and begin < end:
            first, last = int(rank_offset[slot]), int(rank_offset[slot + 1])
            shrunk = x[begin:end].double() @ a[first:last].double().t()
            y[begin:end] += scale[slot].double() * (shrunk @ b_t[first:last].double())
    return y.to(x.dtype)


def _why_not(x, weight, out_features, a, *_) -> str | None:
    if weight.dim() == 2:
        return "it takes weights from pack_linear; got a plain [O, I]"
    return cpu.why_not_tensors(x, weight, a)


@_lora_linear.backend("cpu", why_not=_why_not)
def _cpu(
    x, weight, out_features, a, b_t, rank_offset, scale, max_rank, seg_offset, seg_slot, bias=None
) -> torch.Tensor:
    y = x.new_empty(x.shape[0], out_features)
    cpu.extension().lora_linear(
        dtype=cpu.dtype(x),
        x=x.data_ptr(),
        x_stride=x.stride(0),
        in_features=x.shape[1],
        out_features=out_features,
        weight=weight.data_ptr(),
        bias=0 if bias is None else bias.data_ptr(),
        a=a.data_ptr(),
        b_t=b_t.data_ptr(),
        rank_offset=rank_offset.data_ptr(),
        scale=scale.data_ptr(),
        num_slots=scale.numel(),
        max_rank=max_rank,
        plan=cpu.segments(x.shape[0], seg_offset, seg_slot),
        y=y.data_ptr(),
        y_stride=out_features,
        threads=cpu.threads(),
    )
    return y


def lora_linear(x: torch.Tensor, weight: PackedLinear, bank: AdapterBank, plan: SegmentPlan) -> torch.Tensor:
    """A linear layer with each row's own adapter (Hu et al., LoRA, arXiv 2106.09685), rounded once.

        y[t] = W x[t] + bias + scale_n B_n (A_n x[t])    with n the slot of row t
        y[t] = W x[t] + bias, bit for bit                where n is -1

    Args:
        x: [T, I] activations; rows may be strided, the last dimension is contiguous.
        weight: W [O, I] and perhaps a bias from pack_linear, in x's dtype.
        bank: N slots for this layer, in x's dtype.
        plan: segments that cover the T rows.

    Returns:
        [T, O] in x's dtype, summed in float32. A row's bits do not depend on the other rows.

    Raises:
        ShapeError: shapes, dtypes or devices disagree.
    """
    if x.dim() == 2 and x.shape[1] != weight.in_features:
        raise ShapeError(f"x must have shape [T, {weight.in_features}]; got {list(x.shape)}")
    return _lora_linear(
        x,
        weight.data,
        weight.out_features,
        bank.a,
        bank.b_t,
        bank.rank_offset,
        bank.scale,
        bank.max_rank,
        plan.seg_offset,
        plan.seg_slot,
        weight.bias,
    )
