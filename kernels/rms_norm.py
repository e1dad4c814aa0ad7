"""rms_norm and its gradient: one program a row; the sum over features is a tree whose shape their number alone decides."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from lorid_kernels.launch import follow, overlap_options


@triton.jit
def _rms_norm_kernel(
    x_ptr,  # [T, E]
    x_stride_t,
    planes_ptr,  # [PLANES, T, E] float32, added to x first; x is written then
    planes_stride_p,
    rows_ptr,  # [K] int32: which rows, where HAS_ROWS
    weight_ptr,  # [E] float32
    y_ptr,  # [T or K, E]
    y_stride_t,
    features,
    epsilon,
    PLANES: tl.constexpr,
    HAS_ROWS: tl.constexpr,
    BLOCK_E: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    k = tl.program_id(0).to(tl.int64)
    t = tl.load(rows_ptr + k).to(tl.int64) if HAS_ROWS else k
    e = tl.arange(0, BLOCK_E)
    inside = e < features
    weight = tl.load(weight_ptr + e, mask=inside, other=0.0)
    follow(OVERLAPS)
    x = tl.load(x_ptr + t * x_stride_t + e, mask=inside, other=0.0).to(tl.float32)
    if PLANES > 0:
        planes_stride_p = tl.cast(planes_stride_p, tl.int64)
        total = tl.zeros([BLOCK_E], tl.float32)
        for p in tl.static_range(PLANES):
            total += tl.load(planes_ptr + p * planes_stride_p + t * features + e, mask=inside, other=0.0)
        x += total
        if not HAS_ROWS:  # a row may be sampled several times: nobody reads the sum of the last layer again
            tl.store(x_ptr + t * x_stride_t + e, x.to(x_ptr.dtype.element_ty), mask=inside)
    mean = tl.sum(x * x, axis=0) / features
    y = x * (1.0 / tl.sqrt_rn(mean + epsilon)) * weight
    tl.store(y_ptr + k * y_stride_t + e, y.to(y_ptr.dtype.element_ty), mask=inside)


def rms_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    epsilon: float,
    y: torch.Tensor,
    *,
    planes: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
) -> None:
    """Writes the normalised rows of x, or of some rows, after adding planes to them.

    Args:
        x: [T, E]; written where there are planes and no rows.
        weight: [E] float32.
        y: [T, E], or [K, E] with rows. Written.
        planes: [P, T, E] float32 contiguous: x += the sum of the planes, in order.
        rows: [K] int32.
    """
    count, features = y.shape
    if count == 0:
        return
    block = triton.next_power_of_2(features)
    _rms_norm_kernel[(count,)](
        x,
        x.stride(0),
        planes if planes is not None else x,
        planes.stride(0) if planes is not None else 0,
        rows if rows is not None else x,
        weight,
        y,
        y.stride(0),
        features,
        epsilon,
        PLANES=0 if planes is None else planes.shape[0],
        HAS_ROWS=rows is not None,
        BLOCK_E=block,
        num_warps=min(max(block // 512, 1), 8),
        enable_fp_fusion=False,  # with planes and without, the same bits
        **overlap_options(),
    )


@triton.jit
def _rms_norm_backward_kernel(
    dy_ptr,  # [T, E]
    dy_stride_t,
    x_ptr,  # [T, E]
    x_stride_t,
    weight_ptr,  # [E] float32
    dx_ptr,  # [T, E]
    dx_stride_t,
    features,
    epsilon,
    BLOCK_E: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    t = tl.program_id(0).to(tl.int64)
    e = tl.arange(0, BLOCK_E)
    inside = e < features
    weight = tl.load(weight_ptr + e, mask=inside, other=0.0)
    follow(OVERLAPS)
    x = tl.load(x_ptr + t * x_stride_t + e, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(dy_ptr + t * dy_stride_t + e, mask=inside, other=0.0).to(tl.float32) * weight
    inverse = 1.0 / tl.sqrt_rn(tl.sum(x * x, axis=0) / features + epsilon)
    unit = x * inverse
    dx = inverse * (g - unit * (tl.sum(g * unit, axis=0) / features))
    tl.store(dx_ptr + t * dx_stride_t + e, dx.to(dx_ptr.dtype.element_ty), mask=inside)


def rms_norm_backward(
    dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, epsilon: float, dx: torch.Tensor
) -> None:
    """Writes the gradient with respect to x, all [T, E], into dx; weight [E] float32 has none."""
    rows, features = dx.shape
    if rows == 0:
        return
    block = triton.next_power_of_2(features)
    _rms_norm_backward_kernel[(rows,)](
        dy,
        dy.stride(0),
        x,
        x.stride(0),
        weight,
        dx,
        dx.stride(0),
        features,
        epsilon,
        BLOCK_E=block,
        num_warps=min(max(block // 512, 1), 8),
        **overlap_options(),
    )
