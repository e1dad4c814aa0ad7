"""packed_attention: causal attention of whole sequences end to end, forward and backward, with each sum in an order of its own.

Scores exist a tile at a time (Dao, FlashAttention-2, arXiv 2307.08691). Each program owns the rows that it writes, so that
nothing is added up across programs: the same sequence has the same bits, whatever lies beside it and run after run.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl

_LOG2_E = 1 / math.log(2)


@triton.jit
def _rotate_kernel(
    x_ptr,  # [T, (H + 2 G) D]
    x_stride_t,
    cos_ptr,  # [T, D / 2] float32
    sin_ptr,
    out_ptr,  # [T, (H + 2 G) D]
    rotated_heads,
    heads,
    sign,
    HEAD_DIM: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,  # D / 2 up to a power of two
):
    HALF: tl.constexpr = HEAD_DIM // 2
    t = tl.program_id(0).to(tl.int64)
    h = (tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H))[:, None]
    d = tl.arange(0, BLOCK_D)[None, :]
    there = (h < heads) & (d < HALF)
    cos = tl.load(cos_ptr + t * HALF + d, mask=d < HALF, other=0.0)
    sin = tl.load(sin_ptr + t * HALF + d, mask=d < HALF, other=0.0) * sign
    place = h * HEAD_DIM + d
    first = tl.load(x_ptr + t * x_stride_t + place, mask=there, other=0.0).to(tl.float32)
    second = tl.load(x_ptr + t * x_stride_t + place + HALF, mask=there, other=0.0).to(tl.float32)
    rotates = h < rotated_heads
    turned_first = tl.where(rotates, first * cos - second * sin, first)
    turned_second = tl.where(rotates, second * cos + first * sin, second)
    out = out_ptr + t * heads * HEAD_DIM + place
    tl.store(out, turned_first.to(out_ptr.dtype.element_ty), mask=there)
    tl.store(out + HALF, turned_second.to(out_ptr.dtype.element_ty), mask=there)


def rotate(
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    out: torch.Tensor,
    *,
    head_dim: int,
    rotated_heads: int,
    back: bool = False,
) -> None:
    """Writes x, its first heads rotated by each row's angles and the others as they are, into out, which may be x.

    Args:
        x: [T, heads D], rows may be strided.
        cos, sin: [T, D / 2] float32 contiguous; the pairs are a head's two halves.
        out: [T, heads D] contiguous.
        back: rotate by the negative angles.
    """
    rows, heads = x.shape[0], x.shape[1] // head_dim
    if rows == 0:
        return
    block_d = triton.next_power_of_2(head_dim // 2)
    block_h = min(triton.next_power_of_2(heads), max(1024 // block_d, 1))
    _rotate_kernel[(rows, triton.cdiv(heads, block_h))](
        x,
        x.stride(0),
        cos,
        sin,
        out,
        rotated_heads,
        heads,
        -1.0 if back else 1.0,
        HEAD_DIM=head_dim,
        BLOCK_H=block_h,
        BLOCK_D=block_d,
        num_warps=4,
    )


@triton.jit
def _head_rows(ptr, stride_t, t, column, there, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows t of the head that begins at a column, [rows, BLOCK_D]."""
    d = tl.arange(0, BLOCK_D)[None, :]
    mask = there[:, None]
    if HEAD_DIM != BLOCK_D:
        mask = mask & (d < HEAD_DIM)
    return tl.load(ptr + t[:, None] * stride_t + column + d, mask=mask, other=0.0)


@triton.jit
def _store_head_rows(ptr, stride_t, t, column, there, values, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    d = tl.arange(0, BLOCK_D)[None, :]
    mask = there[:, None]
    if HEAD_DIM != BLOCK_D:
        mask = mask & (d < HEAD_DIM)
    tl.store(ptr + t[:, None] * stride_t + column + d, values.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def _keys_and_values(
    qkv_ptr,
    qkv_stride_t,
    begin,
    length,
    j,
    g,
    num_heads,
    num_kv_heads,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Positions j of a sequence that begins at a row, for one key-value head: two tiles [N, BLOCK_D]."""
    s = begin.to(tl.int64) + j
    k_column, v_column = (num_heads + g) * HEAD_DIM, (num_heads + num_kv_heads + g) * HEAD_DIM
    k = _head_rows(qkv_ptr, qkv_stride_t, s, k_column, j < length, HEAD_DIM, BLOCK_D)
    v = _head_rows(qkv_ptr, qkv_stride_t, s, v_column, j < length, HEAD_DIM, BLOCK_D)
    return k, v


@triton.jit
def _first_key(first, window, WINDOWED: tl.constexpr, BLOCK_N: tl.constexpr):
    """Where the tile of keys begins that is the first which queries from `first` on see."""
    low = 0
    if WINDOWED:
        low = tl.maximum(first - window + 1, 0) // BLOCK_N * BLOCK_N
    return low


@triton.jit
def _sees(i, j, length, window, WINDOWED: tl.constexpr):
    """Which keys j [N] the queries i [M] see."""
    sees = (j[None, :] <= i[:, None]) & (j < length)[None, :]
    if WINDOWED:
        sees = sees & (j[None, :] > i[:, None] - window)
    return sees


@triton.jit
def _forward_kernel(
    qkv_ptr,  # [T, (H + 2 G) D], rotated
    qkv_stride_t,
    seq_offset_ptr,  # [B + 1] int32
    out_ptr,  # [T, H D], where not DIFFERENTIATES
    dout_ptr,  # [T, H D], where DIFFERENTIATES
    dout_stride_t,
    log_sum_ptr,  # [H, T] float32 to base 2, where DIFFERENTIATES
    dot_ptr,  # [H, T] float32: of output and its gradient, where DIFFERENTIATES
    rows,
    scale_log2,
    window,
    num_heads,
    num_kv_heads,
    DIFFERENTIATES: tl.constexpr,
    WINDOWED: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    b, h = tl.program_id(0), tl.program_id(1)
    begin = tl.load(seq_offset_ptr + b)
    length = tl.load(seq_offset_ptr + b + 1) - begin
    first = tl.program_id(2) * BLOCK_M
    if first < length:
        g = h // (num_heads // num_kv_heads)
        i = first + tl.arange(0, BLOCK_M)
        t = begin.to(tl.int64) + i
        q = _head_rows(qkv_ptr, qkv_stride_t, t, h * HEAD_DIM, i < length, HEAD_DIM, BLOCK_D)
        highest = tl.full(
            [BLOCK_M], -1e30, tl.float32
        )  # finite: a tile of which a row sees nothing is forgotten by the next
        total = tl.zeros([BLOCK_M], tl.float32)
        acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        for start in range(_first_key(first, window, WINDOWED, BLOCK_N), tl.minimum(first + BLOCK_M, length), BLOCK_N):
            j = start + tl.arange(0, BLOCK_N)
            k, v = _keys_and_values(
                qkv_ptr, qkv_stride_t, begin, length, j, g, num_heads, num_kv_heads, HEAD_DIM, BLOCK_D
            )
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
            scores = tl.where(_sees(i, j, length, window, WINDOWED), scores, -1e30)
            higher = tl.maximum(highest, tl.max(scores, axis=1))
            weight = tl.exp2(scores - higher[:, None])
            factor = tl.exp2(highest - higher)
            total = total * factor + tl.sum(weight, axis=1)
            acc = tl.dot(weight.to(v.dtype), v, acc * factor[:, None], input_precision="ieee")
            highest = higher
        if DIFFERENTIATES:
            dout = _head_rows(dout_ptr, dout_stride_t, t, h * HEAD_DIM, i < length, HEAD_DIM, BLOCK_D).to(tl.float32)
            place = h.to(tl.int64) * rows + t
            tl.store(log_sum_ptr + place, highest + tl.log2(total), mask=i < length)
            tl.store(dot_ptr + place, tl.sum(acc * dout, axis=1) / total, mask=i < length)
        else:
            width = num_heads * HEAD_DIM
            out = acc / total[:, None]
            _store_head_rows(out_ptr, width, t, h * HEAD_DIM, i < length, out, HEAD_DIM, BLOCK_D)


@triton.jit
def _query_gradient_kernel(
    qkv_ptr,
    qkv_stride_t,
    seq_offset_ptr,
    dout_ptr,
    dout_stride_t,
    log_sum_ptr,
    dot_ptr,
    dqkv_ptr,  # [T, (H + 2 G) D]
    rows,
    scale,
    scale_log2,
    window,
    num_heads,
    num_kv_heads,
    WINDOWED: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    b, h = tl.program_id(0), tl.program_id(1)
    begin = tl.load(seq_offset_ptr + b)
    length = tl.load(seq_offset_ptr + b + 1) - begin
    first = tl.program_id(2) * BLOCK_M
    if first < length:
        g = h // (num_heads // num_kv_heads)
        i = first + tl.arange(0, BLOCK_M)
        t = begin.to(tl.int64) + i
        q = _head_rows(qkv_ptr, qkv_stride_t, t, h * HEAD_DIM, i < length, HEAD_DIM, BLOCK_D)
        dout = _head_rows(dout_ptr, dout_stride_t, t, h * HEAD_DIM, i < length, HEAD_DIM, BLOCK_D)
        place = h.to(tl.int64) * rows + t
        log_sum = tl.load(log_sum_ptr + place, mask=i < length, other=0.0)[:, None]
        dot = tl.load(dot_ptr + place, mask=i < length, other=0.0)[:, None]
        dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        for start in range(_first_key(first, window, WINDOWED, BLOCK_N), tl.minimum(first + BLOCK_M, length), BLOCK_N):
            j = start + tl.arange(0, BLOCK_N)
            k, v = _keys_and_values(
                qkv_ptr, qkv_stride_t, begin, length, j, g, num_heads, num_kv_heads, HEAD_DIM, BLOCK_D
            )
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
            weight = tl.where(_sees(i, j, length, window, WINDOWED), tl.exp2(scores - log_sum), 0.0)
            dweight = tl.dot(dout, tl.trans(v), input_precision="ieee")
            dscores = weight * (dweight - dot)
            dq = tl.dot(dscores.to(k.dtype), k, dq, input_precision="ieee")
        width = (num_heads + 2 * num_kv_heads) * HEAD_DIM
        _store_head_rows(dqkv_ptr, width, t, h * HEAD_DIM, i < length, dq * scale, HEAD_DIM, BLOCK_D)


@triton.jit
def _key_value_gradient_kernel(
    qkv_ptr,
    qkv_stride_t,
    seq_offset_ptr,
    dout_ptr,
    dout_stride_t,
    log_sum_ptr,
    dot_ptr,
    dqkv_ptr,  # [T, (H + 2 G) D]
    rows,
    scale,
    scale_log2,
    window,
    num_heads,
    num_kv_heads,
    WINDOWED: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    b, g = tl.program_id(0), tl.program_id(1)
    begin = tl.load(seq_offset_ptr + b)
    length = tl.load(seq_offset_ptr + b + 1) - begin
    first = tl.program_id(2) * BLOCK_N
    if first < length:
        j = first + tl.arange(0, BLOCK_N)
        s = begin.to(tl.int64) + j
        k_column, v_column = (num_heads + g) * HEAD_DIM, (num_heads + num_kv_heads + g) * HEAD_DIM
        k, v = _keys_and_values(qkv_ptr, qkv_stride_t, begin, length, j, g, num_heads, num_kv_heads, HEAD_DIM, BLOCK_D)
        dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
        dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
        group = num_heads // num_kv_heads
        low, high = first // BLOCK_M * BLOCK_M, length
        if WINDOWED:
            high = tl.minimum(length, first + BLOCK_N + window - 1)
        for h in range(g * group, (g + 1) * group):
            for start in range(low, high, BLOCK_M):
                i = start + tl.arange(0, BLOCK_M)
                t = begin.to(tl.int64) + i
                q = _head_rows(qkv_ptr, qkv_stride_t, t, h * HEAD_DIM, i < length, HEAD_DIM, BLOCK_D)
                dout = _head_rows(dout_ptr, dout_stride_t, t, h * HEAD_DIM, i < length, HEAD_DIM, BLOCK_D)
                place = tl.cast(h, tl.int64) * rows + t
                log_sum = tl.load(log_sum_ptr + place, mask=i < length, other=0.0)[None, :]
                dot = tl.load(dot_ptr + place, mask=i < length, other=0.0)[None, :]
                # Keys down, queries across: weights and their gradients are multiplied as they lie in registers.
                scores = tl.dot(k, tl.trans(q), input_precision="ieee") * scale_log2
                sees = (j[:, None] <= i[None, :]) & (i < length)[None, :]
                if WINDOWED:
                    sees = sees & (j[:, None] > i[None, :] - window)
                weight = tl.where(sees, tl.exp2(scores - log_sum), 0.0)
                dv = tl.dot(weight.to(dout.dtype), dout, dv, input_precision="ieee")
                dweight = tl.dot(v, tl.trans(dout), input_precision="ieee")
                dscores = weight * (dweight - dot)
                dk = tl.dot(dscores.to(q.dtype), q, dk, input_precision="ieee")
        width = (num_heads + 2 * num_kv_heads) * HEAD_DIM
        _store_head_rows(dqkv_ptr, width, s, k_column, j < length, dk * scale, HEAD_DIM, BLOCK_D)
        _store_head_rows(dqkv_ptr, width, s, v_column, j < length, dv, HEAD_DIM, BLOCK_D)


def _tile(dtype: torch.dtype, head_dim: int, *, keys: bool = False) -> dict[str, Any]:
    """Queries and keys of a tile, and how it is compiled: what fits into the registers and the shared memory of every GPU.

    Args:
        keys: a program owns keys and goes over queries; else the other way.
    """
    block_d = max(triton.next_power_of_2(head_dim), 16)
    row_bytes = block_d * dtype.itemsize
    block = 64 if row_bytes <= 256 else 32 if row_bytes <= 512 else 16
    inner = min(block, 32)
    return {
        "HEAD_DIM": head_dim,
        "BLOCK_M": inner if keys else block,
        "BLOCK_N": block if keys else inner,
        "BLOCK_D": block_d,
        "num_warps": 4 if row_bytes <= 128 else 8,
        "num_stages": 2 if row_bytes <= 128 and not keys else 1,
    }


def packed_attention(
    qkv: torch.Tensor,
    seq_offset: torch.Tensor,
    out: torch.Tensor,
    *,
    num_heads: int,
    num_kv_heads: int,
    window: int,
    max_len: int,
) -> None:
    """Writes each sequence's causal attention over itself into out [T, H D] (contiguous).

    Args:
        qkv: [T, (H + 2 G) D], queries and keys rotated; rows may be strided.
        seq_offset: [B + 1] int32.
        window: keys that a row sees; 0 = all before it.
        max_len: no sequence has more rows.
    """
    head_dim, num_sequences = out.shape[1] // num_heads, seq_offset.numel() - 1
    if out.shape[0] == 0:
        return
    tile = _tile(qkv.dtype, head_dim)
    _forward_kernel[(num_sequences, num_heads, triton.cdiv(max_len, tile["BLOCK_M"]))](
        qkv,
        qkv.stride(0),
        seq_offset,
        out,
        out,
        0,
        out,
        out,
        out.shape[0],
        head_dim**-0.5 * _LOG2_E,
        min(window, max_len),
        num_heads,
        num_kv_heads,
        DIFFERENTIATES=False,
        WINDOWED=window > 0,
        **tile,
    )


def packed_attention_backward(
    dout: torch.Tensor,
    qkv: torch.Tensor,
    seq_offset: torch.Tensor,
    dqkv: torch.Tensor,
    *,
    num_heads: int,
    num_kv_heads: int,
    window: int,
    max_len: int,
) -> None:
    """Writes the gradient with respect to the rotated qkv into dqkv [T, (H + 2 G) D] (contiguous); see packed_attention.

    Args:
        dout: [T, H D], rows may be strided.
    """
    rows, head_dim, num_sequences = dout.shape[0], dout.shape[1] // num_heads, seq_offset.numel() - 1
    if rows == 0:
        return
    tile, keys_tile = _tile(qkv.dtype, head_dim), _tile(qkv.dtype, head_dim, keys=True)
    log_sum, dot = qkv.new_empty(2, num_heads, rows, dtype=torch.float32)
    inputs = qkv, qkv.stride(0), seq_offset
    gradient = dout, dout.stride(0), log_sum, dot
    scale_log2, windowed = head_dim**-0.5 * _LOG2_E, window > 0
    shape = min(window, max_len), num_heads, num_kv_heads  # a window beyond all keys is added to positions
    by_query = num_sequences, num_heads, triton.cdiv(max_len, tile["BLOCK_M"])
    by_key = num_sequences, num_kv_heads, triton.cdiv(max_len, keys_tile["BLOCK_N"])
    _forward_kernel[by_query](
        *inputs, dqkv, *gradient, rows, scale_log2, *shape, DIFFERENTIATES=True, WINDOWED=windowed, **tile
    )
    rest = *inputs, *gradient, dqkv, rows, head_dim**-0.5, scale_log2, *shape
    _query_gradient_kernel[by_query](*rest, WINDOWED=windowed, **tile)
    _key_value_gradient_kernel[by_key](*rest, WINDOWED=windowed, **keys_tile)
