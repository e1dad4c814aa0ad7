"""rope: rotates queries and keys, and writes keys and values into their pages; some heads of one token a program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from lorid_kernels.launch import follow, overlap_options

PAGE_TOKENS = 16


@triton.jit
def _rope_kernel(
    qkv_ptr,  # [T, (H + 2 G) D]
    qkv_stride_t,
    cos_ptr,  # [positions, D / 2] float32
    sin_ptr,
    q_norm_ptr,  # [D] float32, where Q_NORM
    k_norm_ptr,  # [D] float32, where K_NORM
    norm_epsilon,
    positions_ptr,  # [T] int32
    cache_slot_ptr,  # [T] int64; below 0: nothing is written
    q_ptr,  # [T, H D]
    k_pages_ptr,  # [C, 16, G, D]
    v_pages_ptr,  # [C, 16, G, D]
    num_heads,
    num_kv_heads,
    HEAD_DIM: tl.constexpr,
    Q_NORM: tl.constexpr,
    K_NORM: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,  # D / 2 up to a power of two
    OVERLAPS: tl.constexpr,
):
    HALF: tl.constexpr = HEAD_DIM // 2
    t = tl.program_id(0).to(tl.int64)
    h = (tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H))[:, None]
    d = tl.arange(0, BLOCK_D)[None, :]
    is_query, is_key = h < num_heads, (h >= num_heads) & (h < num_heads + num_kv_heads)
    there = (h < num_heads + 2 * num_kv_heads) & (d < HALF)
    position = tl.load(positions_ptr + t).to(tl.int64)
    cos = tl.load(cos_ptr + position * HALF + d, mask=d < HALF, other=0.0)
    sin = tl.load(sin_ptr + position * HALF + d, mask=d < HALF, other=0.0)
    follow(OVERLAPS)
    base = qkv_ptr + t * qkv_stride_t + h * HEAD_DIM + d
    first = tl.load(base, mask=there, other=0.0).to(tl.float32)
    second = tl.load(base + HALF, mask=there, other=0.0).to(tl.float32)
    if Q_NORM or K_NORM:
        squares = tl.sum(first * first, axis=1) + tl.sum(second * second, axis=1)
        factor = (1.0 / tl.sqrt_rn(squares / HEAD_DIM + norm_epsilon))[:, None]
        if Q_NORM:
            low = tl.load(q_norm_ptr + d, mask=d < HALF, other=0.0)
            high = tl.load(q_norm_ptr + HALF + d, mask=d < HALF, other=0.0)
            first = tl.where(is_query, first * factor * low, first)
            second = tl.where(is_query, second * factor * high, second)
        if K_NORM:
            low = tl.load(k_norm_ptr + d, mask=d < HALF, other=0.0)
            high = tl.load(k_norm_ptr + HALF + d, mask=d < HALF, other=0.0)
            first = tl.where(is_key, first * factor * low, first)
            second = tl.where(is_key, second * factor * high, second)
    turned_first = first * cos - second * sin
    turned_second = second * cos + first * sin
    q = q_ptr + t * num_heads * HEAD_DIM + h * HEAD_DIM + d
    tl.store(q, turned_first.to(q_ptr.dtype.element_ty), mask=there & is_query)
    tl.store(q + HALF, turned_second.to(q_ptr.dtype.element_ty), mask=there & is_query)
    slot = tl.load(cache_slot_ptr + t)
    place = slot * num_kv_heads * HEAD_DIM + d
    writes = there & (slot >= 0)
    k = k_pages_ptr + place + (h - num_heads) * HEAD_DIM
    tl.store(k, turned_first.to(k_pages_ptr.dtype.element_ty), mask=writes & is_key)
    tl.store(k + HALF, turned_second.to(k_pages_ptr.dtype.element_ty), mask=writes & is_key)
    v = v_pages_ptr + place + (h - num_heads - num_kv_heads) * HEAD_DIM
    is_value = h >= num_heads + num_kv_heads
    tl.store(v, first.to(v_pages_ptr.dtype.element_ty), mask=writes & is_value)
    tl.store(v + HALF, second.to(v_pages_ptr.dtype.element_ty), mask=writes & is_value)


def rope(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    positions: torch.Tensor,
    cache_slot: torch.Tensor,
    q: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    *,
    num_heads: int,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    norm_epsilon: float,
) -> None:
    """Writes rotated queries into q [T, H D] (contiguous), rotated keys and plain values into the pages; see the op rope.

    Args:
        cache_slot: [T] int64, page times 16 plus the place in the page; -1 writes no key and value.
    """
    num_kv_heads, head_dim = k_pages.shape[2:]
    rows, heads = qkv.shape[0], num_heads + 2 * num_kv_heads
    if rows == 0:
        return
    block_d = triton.next_power_of_2(head_dim // 2)
    block_h = min(triton.next_power_of_2(heads), max(1024 // block_d, 1))
    _rope_kernel[(rows, triton.cdiv(heads, block_h))](
        qkv,
        qkv.stride(0),
        cos,
        sin,
        q_norm if q_norm is not None else cos,
        k_norm if k_norm is not None else cos,
        norm_epsilon,
        positions,
        cache_slot,
        q,
        k_pages,
        v_pages,
        num_heads,
        num_kv_heads,
        HEAD_DIM=head_dim,
        Q_NORM=q_norm is not None,
        K_NORM=k_norm is not None,
        BLOCK_H=block_h,
        BLOCK_D=block_d,
        num_warps=4,
        **overlap_options(),
    )
