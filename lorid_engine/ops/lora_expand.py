"""lora_expand: adds every row's B matrix times its shrunk activations."""

from __future__ import annotations

import torch

from lorid_engine.ops import cpu, gpu
from lorid_engine.ops.adapter_bank import AdapterBank
from lorid_engine.ops.checks import (
    check_bank,
    check_plan,
    expect_apart,
    expect_contiguous,
    expect_device,
    expect_dtype,
    expect_floating,
    expect_rows,
    expect_shape,
)
from lorid_engine.ops.dispatch import op
from lorid_engine.ops.segment_plan import SegmentPlan


def _check(y, shrunk, b_t, rank_offset, scale, seg_offset, seg_slot) -> None:
    expect_shape("y", y, None, None)
    expect_floating("y", y)
    expect_rows("y", y)
    expect_apart("y", y)
    expect_shape("shrunk", shrunk, y.shape[0], None)
    expect_dtype("shrunk", shrunk, torch.float64 if y.dtype == torch.float64 else torch.float32)
    expect_rows("shrunk", shrunk)
    expect_shape("b_t", b_t, None, y.shape[1])
    expect_dtype("b_t", b_t, y.dtype)
    expect_contiguous("b_t", b_t)
    expect_shape("scale", scale, rank_offset.numel() - 1)
    expect_dtype("scale", scale, torch.float32)
    expect_contiguous("scale", scale)
    expect_device(
        y, shrunk=shrunk, b_t=b_t, rank_offset=rank_offset, scale=scale, seg_offset=seg_offset, seg_slot=seg_slot
    )
    check_bank(rank_offset, b_t.shape[0], shrunk.shape[1])
    check_plan(y.shape[0], rank_offset.numel() - 1, seg_offset, seg_slot)


def _fake(y, shrunk, b_t, rank_offset, scale, seg_offset, seg_slot) -> None:
    return None


@op(check=_check, fake=_fake, mutates=("y",))
def _lora_expand(
    y: torch.Tensor,
    shrunk: torch.Tensor,
    b_t: torch.Tensor,
    rank_offset: torch.Tensor,
    scale: torch.Tensor,
    seg_offset: torch.Tensor,
    seg_slot: torch.Tensor,
) -> None:
    """lora_expand over a bank's and a plan's tensors."""
    for s, slot in enumerate(seg_slot.tolist()):
        begin, end = int(seg_offset[s]), int(seg_offset[s + 1])
        if slot >= 0 and begin < end:
            first, last = int(rank_offset[slot]), int(rank_offset[slot + 1])
            product = shrunk[begin:end, : last - first].double() @ b_t[first:last].double()
            y[begin:end] = (y[begin:end].double() + scale[slot].double() * product).to(y.dtype)


@_lora_expand.backend("cpu", why_not=lambda y, shrunk, b_t, *_: cpu.why_not_tensors(y, b_t))
def _cpu(y, shrunk, b_t, rank_offset, scale, seg_offset, seg_slot) -> None:
    cpu.extension().lora_expand(
        dtype=cpu.dtype(y),
        b_t=b_t.data_ptr(),
        rank_offset=rank_offset.data_ptr(),
        scale=scale.data_ptr(),
        num_slots=scale.numel(),
        shrunk=shrunk.data_ptr(),
        shrunk_stride=shrunk.stride(0),
        plan=cpu.segments(y.shape[0], seg_offset, seg_slot),
        y=y.data_ptr(),
        y_stride=y.stride(0),
        out_features=y.shape[1],
        threads=cpu.op_threads(),
    )


@_lora_expand.backend("triton", why_not=lambda y, shrunk, b_t, *_: gpu.why_not_tensors(y, b_t))
def _triton(y, shrunk, b_t, rank_offset, scale, seg_offset, seg_slot) -> None:
    from lorid_kernels.lora_expand import lora_expand as launch
    from lorid_kernels.lora_shrink import add_parts
    from lorid_kernels.segments import Adapters, Segments

    if shrunk.shape[1] == 0:
        return
    adapters = Adapters(b_t, b_t, rank_offset, scale, (y.shape[1],), shrunk.shape[1])
    segments = Segments(seg_offset, seg_slot)
    scaled = y.new_empty(y.shape[0], adapters.width)
    add_parts(shrunk.unsqueeze(0), adapters, segments, scaled, scales=True, whole=False)
    launch(y, scaled, adapters, segments)


def lora_expand(y: torch.Tensor, shrunk: torch.Tensor, bank: AdapterBank, plan: SegmentPlan) -> None:
    """Adds the adapters' share to y in place, rounding once.

        y[t] += scale_n B_n shrunk[t, :R_n]    with n the slot of row t
        y[t] keeps its bits                    where n is -1

    Args:
        y: [T, O] outputs of the base; rows may be strided, the last dimension is contiguous. Written.
        shrunk: [T, max R] float32 from lora_shrink.
        bank: N slots with B matrices [O, R_n] in y's dtype.
        plan: segments that cover the T rows.

    Raises:
        ShapeError: shapes, dtypes or devices disagree.
    """
    _lora_expand(y, shrunk, bank.b_t, bank.rank_offset, bank.scale, plan.seg_offset, plan.seg_slot)
