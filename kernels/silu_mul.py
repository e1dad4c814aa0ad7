"""silu_mul: gate and up side by side in a row, a block of features a program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from lorid_kernels.launch import follow, overlap_options


@triton.jit
def _silu_mul_kernel(x_ptr, x_stride_t, y_ptr, y_stride_t, features, BLOCK_F: tl.constexpr, OVERLAPS: tl.constexpr):
    follow(OVERLAPS)
    t = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    inside = f < features
    gate = tl.load(x_ptr + t * x_stride_t + f, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x_ptr + t * x_stride_t + features + f, mask=inside, other=0.0).to(tl.float32)
    # exp(-|gate|) cannot overflow; a gate of minus infinity gives 0 as the limit does.
    small = tl.exp(-tl.abs(gate))
    sigmoid = tl.where(gate >= 0, 1.0, small) / (1.0 + small)
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
