"""paged_attention: rows of one sequence x heads of one group a program, keys in chunks of 256 absolute positions.

A row's bits are the same whichever kernel computes it: both take a chunk with the same function, tile shapes and number of
warps, and both merge chunks in order with the same function. Products that feed a sum are written as fma, and the kernels
are compiled without contraction, so that the compiler cannot choose differently in the two. What a row does not see adds
exactly nothing: its exponentials are 0, the factor of the sums before it is exp2(0) = 1.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl

from lorid_kernels.launch import follow, overlap_options

PAGE_TOKENS = 16
CHUNK_TOKENS = 256
MAX_SPLIT_PROGRAMS = 1024  # from here on the sequences and heads alone keep a GPU busy: no partial results in memory


@triton.jit
def _attend_chunk(
    q,  # [BLOCK_M, BLOCK_D]
    position,  # [BLOCK_M] int32 of each row; -1: no row
    k_ptr,  # [C, 16, G, D] from the head on
    v_ptr,
    table_ptr,  # [M] pages of the sequence
    chunk,
    first_key,  # no row sees a key before
    last_key,  # or after
    scale_log2,
    window,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WINDOWED: tl.constexpr,
    PAGE_TOKENS: tl.constexpr,
    CHUNK_TOKENS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The largest score (base 2), the sum of exponentials and the weighted sum of values of each row, over one chunk."""
    d = tl.arange(0, BLOCK_D)[None, :]
    highest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    begin = tl.maximum(chunk * CHUNK_TOKENS, first_key // BLOCK_N * BLOCK_N)
    end = tl.minimum((chunk + 1) * CHUNK_TOKENS, last_key + 1)
    n = tl.arange(0, BLOCK_N)
    key = begin + n
    page = tl.load(table_ptr + key // PAGE_TOKENS, mask=(key >= first_key) & (key < end), other=0)
    for start in range(begin, end, BLOCK_N):
        key = start + n
        loads = ((key >= first_key) & (key < end))[:, None]
        if HEAD_DIM != BLOCK_D:
            loads = loads & (d < HEAD_DIM)
        place = ((page.to(tl.int64) * PAGE_TOKENS + key % PAGE_TOKENS) * (NUM_KV_HEADS * HEAD_DIM))[:, None] + d
        # The pages of the next tile a tile ahead: its keys would wait for them.
        page = tl.load(table_ptr + (key + BLOCK_N) // PAGE_TOKENS, mask=key + BLOCK_N < end, other=0)
        k = tl.load(k_ptr + place, mask=loads, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
        sees = key[None, :] <= position[:, None]
        if WINDOWED:
            sees = sees & (key[None, :] > position[:, None] - window)
        scores = tl.where(sees, scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)  # -inf less -inf would be NaN
        weight = tl.exp2(scores - shift[:, None])
        factor = tl.exp2(highest - shift)
        total = tl.fma(total, factor, tl.sum(weight, axis=1))
        v = tl.load(v_ptr + place, mask=loads, other=0.0)
        acc = tl.dot(weight.to(v.dtype), v, acc * factor[:, None], input_precision="ieee")
        highest = higher
    return highest, total, acc


@triton.jit
def _merge(highest, total, acc, chunk_highest, chunk_total, chunk_acc):
    """The three of all chunks so far, with one more; a chunk of which a row sees nothing (-inf, 0, 0) changes no bit of it."""
    higher = tl.maximum(highest, chunk_highest)
    shift = tl.where(higher == float("-inf"), 0.0, higher)
    factor, chunk_factor = tl.exp2(highest - shift), tl.exp2(chunk_highest - shift)
    total = tl.fma(total, factor, chunk_total * chunk_factor)
    spread = tl.broadcast_to(factor[:, None], acc.shape)
    return higher, total, tl.fma(acc, spread, chunk_acc * chunk_factor[:, None])


@triton.jit
def _normalised(total, acc):
    """The row's output. -0 + 0 is 0: adding nothing to a sum may change the sign of a zero, so none is kept."""
    return acc * tl.div_rn(1.0, total)[:, None] + 0.0


@triton.jit
def _prefill_kernel(
    q_ptr,  # [T, H D]
    q_stride_t,
    k_pages_ptr,  # [C, 16, G, D]
    v_pages_ptr,  # [C, 16, G, D]
    block_table_ptr,  # [B, M]
    block_table_stride_b,
    query_offset_ptr,  # [B + 1]
    positions_ptr,  # [T]
    out_ptr,  # [T, H D]
    num_sequences,
    scale_log2,
    window,
    GROUP: tl.constexpr,  # H / G
    TILE_HEADS: tl.constexpr,  # of one group in a program
    TILE_QUERIES: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WINDOWED: tl.constexpr,
    PAGE_TOKENS: tl.constexpr,
    CHUNK_TOKENS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    follow(OVERLAPS)
    HEAD_TILES: tl.constexpr = (GROUP + TILE_HEADS - 1) // TILE_HEADS
    # The tiles of sequence b start at query_offset[b] // TILE_QUERIES + b, which leaves room for its last, partial one.
    tile = tl.program_id(0)
    b, above = 0, num_sequences
    while above - b > 1:
        middle = (b + above) // 2
        before = tl.load(query_offset_ptr + middle) // TILE_QUERIES + middle <= tile
        b, above = tl.where(before, middle, b), tl.where(before, above, middle)
    sequence_row = tl.load(query_offset_ptr + b)
    first_row = sequence_row + (tile - sequence_row // TILE_QUERIES - b) * TILE_QUERIES
    num_rows = tl.minimum(tl.load(query_offset_ptr + b + 1) - first_row, TILE_QUERIES)
    g = tl.program_id(1) // HEAD_TILES
    m = tl.arange(0, BLOCK_M)
    query = m // TILE_HEADS
    group_head = tl.program_id(1) % HEAD_TILES * TILE_HEADS + m % TILE_HEADS
    d = tl.arange(0, BLOCK_D)[None, :]
    table_ptr = block_table_ptr + tl.cast(b, tl.int64) * block_table_stride_b
    k_ptr, v_ptr = k_pages_ptr + g * HEAD_DIM, v_pages_ptr + g * HEAD_DIM

    # A tile with a NaN in its output is done again, one query at a time: a value that is not finite reaches the earlier
    # rows of the tile as 0 * NaN, and reading each value as one row's would cost every tile of every sequence.
    done, count = 0, num_rows
    while done < num_rows:
        first_position = tl.load(positions_ptr + first_row + done)
        active = (query < count) & (group_head < GROUP)
        there = active[:, None] & (d < HEAD_DIM)
        column = (g * GROUP + group_head)[:, None] * HEAD_DIM + d
        row = (first_row + done + query).to(tl.int64)[:, None]
        q = tl.load(q_ptr + row * q_stride_t + column, mask=there, other=0.0)
        first_key = 0
        if WINDOWED:
            first_key = tl.maximum(first_position - window + 1, 0)
        last_key = first_position + count - 1
        highest = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        for chunk in range(first_key // CHUNK_TOKENS, last_key // CHUNK_TOKENS + 1):
            chunk_highest, chunk_total, chunk_acc = _attend_chunk(
                q,
                tl.where(active, first_position + query, -1),
                k_ptr,
                v_ptr,
                table_ptr,
                chunk,
                first_key,
                last_key,
                scale_log2,
                window,
                NUM_KV_HEADS,
                HEAD_DIM,
                WINDOWED,
                PAGE_TOKENS,
                CHUNK_TOKENS,
                BLOCK_M,
                BLOCK_N,
                BLOCK_D,
            )
            highest, total, acc = _merge(highest, total, acc, chunk_highest, chunk_total, chunk_acc)
        out = _normalised(total, acc)
        again = (tl.max(tl.max((there & (out != out)).to(tl.int32), axis=1), axis=0) > 0) & (count > 1)
        # Places from a value that the compiler cannot know to be the same, so that it does not hold the queries' for them
        # in registers through the loop.
        row = (tl.load(query_offset_ptr + b, volatile=True) - sequence_row + first_row + done + query).to(tl.int64)
        place = row[:, None] * (NUM_KV_HEADS * GROUP * HEAD_DIM) + column
        tl.store(out_ptr + place, out.to(out_ptr.dtype.element_ty), mask=there & (again == 0))
        done, count = tl.where(again, done, done + count), 1


@triton.jit
def _decode_kernel(
    q_ptr,  # [T, H D]
    q_stride_t,
    k_pages_ptr,  # [C, 16, G, D]
    v_pages_ptr,  # [C, 16, G, D]
    block_table_ptr,  # [B, M]
    block_table_stride_b,
    query_offset_ptr,  # [B + 1]
    positions_ptr,  # [T]
    acc_ptr,  # [B, H, chunks, D] float32
    highest_ptr,  # [B, H, chunks] float32
    total_ptr,  # [B, H, chunks] float32
    num_chunks,
    scale_log2,
    window,
    GROUP: tl.constexpr,
    TILE_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WINDOWED: tl.constexpr,
    PAGE_TOKENS: tl.constexpr,
    CHUNK_TOKENS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    follow(OVERLAPS)
    HEAD_TILES: tl.constexpr = (GROUP + TILE_HEADS - 1) // TILE_HEADS
    chunk = tl.program_id(0)
    b = tl.program_id(2).to(tl.int64)
    row = tl.load(query_offset_ptr + b).to(tl.int64)
    if tl.load(query_offset_ptr + b + 1) == row:
        return
    last_key = tl.load(positions_ptr + row)
    first_key = 0
    if WINDOWED:
        first_key = tl.maximum(last_key - window + 1, 0)
    if (chunk < first_key // CHUNK_TOKENS) | (chunk > last_key // CHUNK_TOKENS):
        return
    g = tl.program_id(1) // HEAD_TILES
    m = tl.arange(0, BLOCK_M)
    group_head = tl.program_id(1) % HEAD_TILES * TILE_HEADS + m
    active = (m < TILE_HEADS) & (group_head < GROUP)
    d = tl.arange(0, BLOCK_D)[None, :]
    there = active[:, None] & (d < HEAD_DIM)
    head = g * GROUP + group_head
    q = tl.load(q_ptr + row * q_stride_t + head[:, None] * HEAD_DIM + d, mask=there, other=0.0)
    highest, total, acc = _attend_chunk(
        q,
        tl.where(active, last_key, -1),
        k_pages_ptr + g * HEAD_DIM,
        v_pages_ptr + g * HEAD_DIM,
        block_table_ptr + b * block_table_stride_b,
        chunk,
        first_key,
        last_key,
        scale_log2,
        window,
        NUM_KV_HEADS,
        HEAD_DIM,
        WINDOWED,
        PAGE_TOKENS,
        CHUNK_TOKENS,
        BLOCK_M,
        BLOCK_N,
        BLOCK_D,
    )
    part = (b * (NUM_KV_HEADS * GROUP) + head) * num_chunks + chunk
    tl.store(highest_ptr + part, highest, mask=active)
    tl.store(total_ptr + part, total, mask=active)
    tl.store(acc_ptr + part[:, None] * HEAD_DIM + d, acc, mask=there)


@triton.jit
def _merge_kernel(
    acc_ptr,  # [B, H, chunks, D] float32
    highest_ptr,  # [B, H, chunks] float32
    total_ptr,  # [B, H, chunks] float32
    num_chunks,
    query_offset_ptr,  # [B + 1]
    positions_ptr,  # [T]
    out_ptr,  # [T, H D]
    window,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WINDOWED: tl.constexpr,
    CHUNK_TOKENS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    follow(OVERLAPS)
    b = tl.program_id(0).to(tl.int64)
    row = tl.load(query_offset_ptr + b).to(tl.int64)
    if tl.load(query_offset_ptr + b + 1) == row:
        return
    head = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    d = tl.arange(0, BLOCK_D)[None, :]
    active = head < NUM_HEADS
    there = active[:, None] & (d < HEAD_DIM)
    last_key = tl.load(positions_ptr + row)
    first_key = 0
    if WINDOWED:
        first_key = tl.maximum(last_key - window + 1, 0)
    highest = tl.full([BLOCK_H], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_H], tl.float32)
    acc = tl.zeros([BLOCK_H, BLOCK_D], tl.float32)
    for chunk in range(first_key // CHUNK_TOKENS, last_key // CHUNK_TOKENS + 1):
        part = (b * NUM_HEADS + head) * num_chunks + chunk
        chunk_highest = tl.load(highest_ptr + part, mask=active, other=float("-inf"))
        chunk_total = tl.load(total_ptr + part, mask=active, other=0.0)
        chunk_acc = tl.load(acc_ptr + part[:, None] * HEAD_DIM + d, mask=there, other=0.0)
        highest, total, acc = _merge(highest, total, acc, chunk_highest, chunk_total, chunk_acc)
    out = _normalised(total, acc).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * (NUM_HEADS * HEAD_DIM) + head[:, None] * HEAD_DIM + d, out, mask=there)


def tile_options(head_dim: int, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Tile sizes and launch options, from the head and the device alone: the same for prefill and decode, whatever the rows."""
    block_d = max(triton.next_power_of_2(head_dim), 16)
    # A wgmma and a tcgen05.mma have at least 64 rows, to which decode pads: it is to use the instructions of prefill. Where
    # there are none, or not for float32, the fragments of 64 rows would not fit the registers.
    large = device.type == "cpu" or (dtype.itemsize == 2 and _capability(device) in (9, 10))
    return {
        "BLOCK_M": 64 if large else 32,
        "BLOCK_N": 64 if large and block_d * dtype.itemsize <= 128 else 32,
        "BLOCK_D": block_d,
        "num_warps": 4 if block_d <= 128 else 8,
        "num_stages": 3 if block_d * dtype.itemsize <= 256 else 2,  # within 99 KiB
        "enable_fp_fusion": False,
        **overlap_options(),
    }


def _capability(device: torch.device) -> int:
    return torch.cuda.get_device_capability(device if device.type == "cuda" else None)[0]


def workspace_elements(
    num_sequences: int, num_heads: int, num_kv_heads: int, head_dim: int, max_query: int, max_context: int
) -> int:
    """How many float32 the workspace of a call with these bounds needs; 0: it does not split contexts, and needs none."""
    if max_query > 1 or max_context <= CHUNK_TOKENS or num_sequences * num_kv_heads >= MAX_SPLIT_PROGRAMS:
        return 0
    return num_sequences * num_heads * triton.cdiv(max_context, CHUNK_TOKENS) * (head_dim + 2)


def paged_attention(
    q: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    block_table: torch.Tensor,
    query_offset: torch.Tensor,
    positions: torch.Tensor,
    out: torch.Tensor,
    *,
    head_dim: int,
    scale: float,
    window: int,
    max_query: int,
    max_context: int,
    workspace: torch.Tensor | None = None,
) -> None:
    """Writes attention of every row that query_offset covers into out [T, H D] (contiguous); see the op paged_attention.

    The grid follows from the arguments on the host alone, so a call can be recorded in a CUDA graph and replayed with other
    lengths within the bounds. Sequences without rows do nothing; rows past query_offset[B] are not written.

    Args:
        k_pages: [C, 16, G, D] contiguous, in q's dtype. v_pages: likewise.
        max_query: no sequence has more rows.
        max_context: no position reaches it.
        workspace: float32, at least workspace_elements(...) of them, or None to allocate what is needed.
    """
    rows, num_sequences = q.shape[0], block_table.shape[0]
    num_kv_heads, num_heads = k_pages.shape[2], q.shape[1] // head_dim
    if rows == 0 or num_sequences == 0:
        return
    options = tile_options(head_dim, q.dtype, q.device)
    group = num_heads // num_kv_heads
    tile_heads = min(group, options["BLOCK_M"])
    kv_tiles = num_kv_heads * triton.cdiv(group, tile_heads)
    tables = (block_table, block_table.stride(0), query_offset, positions)
    scale_log2 = scale * math.log2(math.e)
    shapes = {
        "GROUP": group,
        "TILE_HEADS": tile_heads,
        "NUM_KV_HEADS": num_kv_heads,
        "HEAD_DIM": head_dim,
        "WINDOWED": window > 0,
        "PAGE_TOKENS": PAGE_TOKENS,
        "CHUNK_TOKENS": CHUNK_TOKENS,
    }
    needed = workspace_elements(num_sequences, num_heads, num_kv_heads, head_dim, max_query, max_context)
    if needed == 0:
        queries = options["BLOCK_M"] // tile_heads
        _prefill_kernel[(rows // queries + num_sequences, kv_tiles)](
            q,
            q.stride(0),
            k_pages,
            v_pages,
            *tables,
            out,
            num_sequences,
            scale_log2,
            window,
            TILE_QUERIES=queries,
            **shapes,
            **options,
        )
        return
    if workspace is None:
        workspace = torch.empty(needed, dtype=torch.float32, device=q.device)
    assert workspace.dtype == torch.float32 and workspace.is_contiguous() and workspace.numel() >= needed
    chunks = triton.cdiv(max_context, CHUNK_TOKENS)
    parts = num_sequences * num_heads * chunks
    acc, highest, total = workspace.view(-1)[:needed].split([parts * head_dim, parts, parts])
    _decode_kernel[(chunks, kv_tiles, num_sequences)](
        q,
        q.stride(0),
        k_pages,
        v_pages,
        *tables,
        acc,
        highest,
        total,
        chunks,
        scale_log2,
        window,
        **shapes,
        **options,
    )
    _merge_kernel[(num_sequences, triton.cdiv(num_heads, 4))](
        acc,
        highest,
        total,
        chunks,
        query_offset,
        positions,
        out,
        window,
        NUM_HEADS=num_heads,
        HEAD_DIM=head_dim,
        WINDOWED=window > 0,
        CHUNK_TOKENS=CHUNK_TOKENS,
        BLOCK_H=4,
        BLOCK_D=options["BLOCK_D"],
        num_warps=4,
        num_stages=4,
        enable_fp_fusion=False,
        **overlap_options(),
    )
