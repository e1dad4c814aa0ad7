"""silu_mul and its gradient: gate and up side by side in a row, a block of features a program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from lorid_kernels.launch import follow, overlap_options


@triton.jit
def _sigmoid(x):
    small = tl.exp(-tl.abs(x))  # cannot overflow
    return tl.where(x >= 0, 1.0, small) / (1.0 + small)


@triton.jit
def _silu_mul_kernel(x_ptr, x_stride_t, y_ptr, y_stride_t, features, BLOCK_F: tl.constexpr, OVERLAPS: tl.constexpr):
    follow(OVERLAPS)
    t = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    inside = f < features
    gate = tl.load(x_ptr + t * x_stride_t + f, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x_ptr + t * x_stride_t + features + f, mask=inside, other=0.0).to(tl.float32)
    sigmoid = _sigmoid(gate)
    # A gate of minus infinity gives 0 as the limit does.
    gated = tl.where(gate == float("-inf"), 0.0, gate * sigmoid)
    tl.store(y_ptr + t * y_stride_t + f, (gated * up).to(y_ptr.dtype.element_ty), mask=inside)


def silu_mul(x: torch.Tensor, y: torch.Tensor) -> None:
    """Writes SiLU of the first half of every row of x [T, 2 F] times its second half into y [T, F]."""
    rows, features = y.shape
    if rows == 0 or features == 0:
        return
    block = min(triton.next_power_of_2(features), 1024)
    grid = (rows, triton.cdiv(features, block))
    _silu_mul_kernel[grid](x, x.stride(0), y, y.stride(0), features, BLOCK_F=block, num_warps=4, **overlap_options())


@triton.jit
def _silu_mul_backward_kernel(
    dy_ptr,  # [T, F]
    dy_stride_t,
    x_ptr,  # [T, 2 F]
    x_stride_t,
    dx_ptr,  # [T, 2 F]
    dx_stride_t,
    features,
    BLOCK_F: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    follow(OVERLAPS)
    t = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    inside = f < features
    dy = tl.load(dy_ptr + t * dy_stride_t + f, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(x_ptr + t * x_stride_t + f, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x_ptr + t * x_stride_t + features + f, mask=inside, other=0.0).to(tl.float32)
    sigmoid = _sigmoid(gate)
    dgate = dy * up * sigmoid * (1.0 + gate * (1.0 - sigmoid))
    dup = dy * gate * sigmoid
    place = dx_ptr + t * dx_stride_t + f
    tl.store(place, dgate.to(dx_ptr.dtype.element_ty), mask=inside)
    tl.store(place + features, dup.to(dx_ptr.dtype.element_ty), mask=inside)


def silu_mul_backward(dy: torch.Tensor, x: torch.Tensor, dx: torch.Tensor) -> None:
    """Writes the gradient with respect to x [T, 2 F], given that of the product, dy [T, F], into dx."""
    rows, features = dy.shape
    if rows == 0 or features == 0:
        return
    block = min(triton.next_power_of_2(features), 1024)
    grid = (rows, triton.cdiv(features, block))
    strides = dy.stride(0), x.stride(0), dx.stride(0)
    _silu_mul_backward_kernel[grid](
        dy, strides[0], x, strides[1], dx, strides[2], features, BLOCK_F=block, num_warps=4, **overlap_options()
    )
