"""lora_dropout: Philox4x32-10 masks, a draw of four words for eight features, computed where they are used."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit(do_not_specialize=["module", "threshold"])
def _lora_dropout_kernel(
    x_ptr,  # [T, I]
    x_stride_t,
    key_ptr,  # [T] int64
    y_ptr,  # [T, I]
    y_stride_t,
    features,
    module,
    threshold,
    stream,
    scale,
    BLOCK_D: tl.constexpr,
):
    t = tl.program_id(0).to(tl.int64)
    draw = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    key = tl.load(key_ptr + t)
    k0 = (key & 0xFFFFFFFF).to(tl.uint64)
    k1 = ((key >> 32) & 0xFFFFFFFF).to(tl.uint64)
    zero = tl.zeros((BLOCK_D,), tl.int64)
    c0, c1 = draw.to(tl.uint64), (zero + module).to(tl.uint64)
    c2, c3 = (zero + stream).to(tl.uint64), zero.to(tl.uint64)
    for _ in tl.static_range(10):
        first, second = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1 = (second >> 32) ^ c1 ^ k0, second & 0xFFFFFFFF
        c2, c3 = (first >> 32) ^ c3 ^ k1, first & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    half = tl.arange(0, 8)[None, :]
    low = tl.where(half < 2, c0[:, None], c1[:, None])
    high = tl.where(half < 6, c2[:, None], c3[:, None])
    word = tl.where(half < 4, low, high)
    bits = tl.where(half % 2 == 0, word & 0xFFFF, word >> 16).to(tl.int32)
    i = draw[:, None] * 8 + half
    inside = i < features
    x = tl.load(x_ptr + t * x_stride_t + i, mask=inside, other=0.0).to(tl.float32)
    y = tl.where(bits >= threshold, x * scale, 0.0)
    tl.store(y_ptr + t * y_stride_t + i, y.to(y_ptr.dtype.element_ty), mask=inside)


def lora_dropout(
    x: torch.Tensor, key: torch.Tensor, module: int, stream: int, threshold: int, scale: float, y: torch.Tensor
) -> None:
    """Writes x [T, I] times scale into y where a half of the row's draws is at least the threshold, else 0."""
    rows, features = y.shape
    if rows == 0 or features == 0:
        return
    draws = triton.cdiv(features, 8)
    block = min(triton.next_power_of_2(draws), 128)
    grid = (rows, triton.cdiv(draws, block))
    _lora_dropout_kernel[grid](
        x, x.stride(0), key, y, y.stride(0), features, module, threshold, stream, scale, BLOCK_D=block, num_warps=4
    )
