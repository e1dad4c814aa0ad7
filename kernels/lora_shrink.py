"""lora_shrink: every row times the A of its slot, all modules that read the same input and all slots in one launch.

Ranks lie on the M side of the product, 64 a tile, so that 16 rows fill a tile. The features are cut into at most eight parts
at points that their number decides: with few rows the parts are programs of their own, which fill the chip, and whoever
reads the sums adds them in order; with many rows one program adds its parts itself, in the same order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from lorid_kernels.launch import follow, let_next_begin, overlap_options, wait
from lorid_kernels.segments import BLOCK_R, Adapters, Segments, rank_and_offset, tile_of

MOST_PARTS = 8
MANY_ROWS = 128
MOST_ROWS_IN_PARTS = 1024  # more fill the chip without
MOST_ROWS_OF_PARTS = 16  # more do not fit into the registers of lora_linear's tile


def part_len(in_features: int) -> int:
    """How many features a part has: a multiple of 256, so that at most MOST_PARTS cover them."""
    return triton.cdiv(triton.cdiv(in_features, MOST_PARTS), 256) * 256


def num_parts(in_features: int) -> int:
    """How many parts the features are cut into."""
    return triton.cdiv(in_features, part_len(in_features))


@triton.jit(do_not_specialize=["num_segments"])
def _lora_shrink_kernel(
    x_ptr,  # [T, I]
    x_stride_t,
    matrix_ptr,  # where every A lies
    a_ptr,
    rank_ptr,
    scale_ptr,
    shrunk_ptr,  # float32 [parts, T, M width]; or [T, M width] where ADDS_PARTS
    shrunk_stride_p,
    shrunk_stride_t,
    seg_offset_ptr,
    seg_slot_ptr,
    num_segments,
    num_slots,
    in_features,
    part_len,
    rank_blocks,
    PARTS: tl.constexpr,
    ADDS_PARTS: tl.constexpr,
    BY_OFFSET: tl.constexpr,
    PRECISION: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    row, row_end, slot = tile_of(seg_offset_ptr, seg_slot_ptr, num_segments, tl.program_id(1), BLOCK_S, BLOCK_T)
    module = tl.program_id(0) // rank_blocks
    first_rank = (tl.program_id(0) % rank_blocks) * BLOCK_R
    there = (row < row_end) & (slot >= 0)
    rank, offset = rank_and_offset(a_ptr, rank_ptr, module, slot, num_slots, in_features, there, BY_OFFSET)
    follow(OVERLAPS)  # programs without work wait, too: when all have begun, lora_linear may read x
    if first_rank >= rank:
        return
    t = row + tl.arange(0, BLOCK_T)
    r = first_rank + tl.arange(0, BLOCK_R)
    t_in, r_in = t < row_end, r < rank
    x_rows = x_ptr + t.to(tl.int64)[:, None] * x_stride_t
    a_rows = matrix_ptr + offset + r.to(tl.int64)[:, None] * in_features
    # The whole block is written, zeros past the rank, so that readers need no mask.
    column = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    out = shrunk_ptr + t.to(tl.int64)[:, None] * shrunk_stride_t + column[None, :]
    first_part, end_part = 0, PARTS
    if not ADDS_PARTS:
        first_part = tl.program_id(2)
        end_part = first_part + 1
        out += first_part.to(tl.int64) * shrunk_stride_p
    total = tl.zeros((BLOCK_R, BLOCK_T), dtype=tl.float32)
    for p in range(first_part, end_part):
        part = tl.zeros((BLOCK_R, BLOCK_T), dtype=tl.float32)
        for k0 in range(p * part_len, tl.minimum((p + 1) * part_len, in_features), BLOCK_K):
            k = k0 + tl.arange(0, BLOCK_K)
            if EVEN_K:
                x = tl.load(x_rows + k[None, :], mask=t_in[:, None], other=0.0)
                a = tl.load(a_rows + k[None, :], mask=r_in[:, None], other=0.0)
            else:
                k_in = (k < in_features)[None, :]
                x = tl.load(x_rows + k[None, :], mask=t_in[:, None] & k_in, other=0.0)
                a = tl.load(a_rows + k[None, :], mask=r_in[:, None] & k_in, other=0.0)
            part = tl.dot(a, tl.trans(x), part, input_precision=PRECISION)
        total += part
    if ADDS_PARTS:
        total *= tl.load(scale_ptr + module * num_slots + slot)
    tl.store(out, tl.trans(total).to(shrunk_ptr.dtype.element_ty), mask=t_in[:, None])


@triton.jit(do_not_specialize=["num_segments"])
def _add_parts_kernel(
    parts_ptr,
    parts_stride_p,
    parts_stride_t,
    rank_ptr,
    scale_ptr,
    shrunk_ptr,
    shrunk_stride_t,
    seg_offset_ptr,
    seg_slot_ptr,
    num_segments,
    num_slots,
    columns_in,  # of a module in parts
    columns_out,  # of a module in shrunk
    rank_blocks,
    PARTS: tl.constexpr,
    WHOLE: tl.constexpr,  # whole blocks of ranks lie there
    SCALES: tl.constexpr,
    BY_OFFSET: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_T: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    let_next_begin(OVERLAPS)  # lora_linear's W x needs nothing of this kernel
    wait(OVERLAPS)
    row, row_end, slot = tile_of(seg_offset_ptr, seg_slot_ptr, num_segments, tl.program_id(1), BLOCK_S, BLOCK_T)
    module = tl.program_id(0) // rank_blocks
    first_rank = (tl.program_id(0) % rank_blocks) * BLOCK_R
    there = (row < row_end) & (slot >= 0)
    rank, _ = rank_and_offset(rank_ptr, rank_ptr, module, slot, num_slots, 1, there, BY_OFFSET)
    if first_rank >= rank:
        return
    t = (row + tl.arange(0, BLOCK_T)).to(tl.int64)
    t_in = (t < row_end)[:, None]
    r = first_rank + tl.arange(0, BLOCK_R)
    parts = parts_ptr + t[:, None] * parts_stride_t + (module * columns_in + r)[None, :]
    parts_stride_p = tl.cast(parts_stride_p, tl.int64)
    total = tl.zeros((BLOCK_T, BLOCK_R), dtype=tl.float32)
    for p in tl.static_range(PARTS):
        total += tl.load(parts + p * parts_stride_p, mask=t_in if WHOLE else t_in & (r < rank)[None, :], other=0.0)
    if SCALES:
        total *= tl.load(scale_ptr + module * num_slots + slot)
    shrunk = shrunk_ptr + t[:, None] * shrunk_stride_t + (module * columns_out + r)[None, :]
    tl.store(shrunk, total.to(shrunk_ptr.dtype.element_ty), mask=t_in & (r < columns_out)[None, :])


def lora_shrink(x: torch.Tensor, adapters: Adapters, segments: Segments, shrunk: torch.Tensor) -> None:
    """Writes A x of every row for all modules, and zeros from a row's rank to the next multiple of BLOCK_R.

    Args:
        x: [T, I], rows may be strided.
        shrunk: float32 [parts, T, M width], parts as num_parts says: sums over the parts of the features, not scaled; or
            [T, M width] in x's dtype: the whole sums times the slot's scale, which with few rows is slower. Written.
    """
    rows, in_features = x.shape
    if rows == 0 or segments.count == 0:
        return
    parts, adds_parts = num_parts(in_features), shrunk.dim() == 2
    block_t = 128 if rows > MANY_ROWS else min(max(triton.next_power_of_2(rows), 16), 64)
    block_k = 64 if block_t == 128 else 128
    if x.element_size() == 4:  # for tests: the same sums from fewer features at a time
        block_k = 32
    rank_blocks = adapters.width // BLOCK_R
    grid = (adapters.modules * rank_blocks, segments.most_tiles(rows, block_t), 1 if adds_parts else parts)
    _lora_shrink_kernel[grid](
        x,
        x.stride(0),
        adapters.a if adapters.anchor is None else adapters.anchor,
        adapters.a,
        adapters.rank,
        adapters.scale,
        shrunk,
        0 if adds_parts else shrunk.stride(0),
        shrunk.stride(-2),
        segments.seg_offset,
        segments.seg_slot,
        segments.count,
        adapters.num_slots,
        in_features,
        part_len(in_features),
        rank_blocks,
        PARTS=parts,
        ADDS_PARTS=adds_parts,
        BY_OFFSET=adapters.anchor is not None,
        PRECISION="ieee",
        EVEN_K=in_features % block_k == 0,
        BLOCK_S=segments.block,
        BLOCK_R=BLOCK_R,
        BLOCK_T=block_t,
        BLOCK_K=block_k,
        num_warps=8 if block_t == 128 else 4,
        num_stages=4 if block_t <= 32 else 3,
        **overlap_options(),
    )


def add_parts(
    parts: torch.Tensor,
    adapters: Adapters,
    segments: Segments,
    shrunk: torch.Tensor,
    *,
    scales: bool,
    whole: bool = True,
) -> None:
    """Writes the sums of lora_shrink's parts, in order, and zeros from a row's rank to the next multiple of BLOCK_R.

    Args:
        parts: float32 [parts, T, M columns] with columns of at least max_rank.
        shrunk: [T, M columns] of any dtype. Written.
        scales: times the slot's scale.
        whole: the parts are zeros past a rank, as lora_shrink writes them; else what lies there is not read.
    """
    rows = shrunk.shape[0]
    if rows == 0 or segments.count == 0:
        return
    rank_blocks = adapters.width // BLOCK_R
    block_t = 16
    grid = (adapters.modules * rank_blocks, segments.most_tiles(rows, block_t))
    _add_parts_kernel[grid](
        parts,
        parts.stride(0),
        parts.stride(1),
        adapters.rank,
        adapters.scale,
        shrunk,
        shrunk.stride(0),
        segments.seg_offset,
        segments.seg_slot,
        segments.count,
        adapters.num_slots,
        parts.shape[2] // adapters.modules,
        shrunk.shape[1] // adapters.modules,
        rank_blocks,
        PARTS=parts.shape[0],
        WHOLE=whole,
        SCALES=scales,
        BY_OFFSET=adapters.anchor is not None,
        BLOCK_S=segments.block,
        BLOCK_R=BLOCK_R,
        BLOCK_T=block_t,
        num_warps=4,
        **overlap_options(),
    )


def shrink_for_linear(x: torch.Tensor, adapters: Adapters, segments: Segments) -> torch.Tensor:
    """A x of every row as lora_linear wants it: parts for few rows of low rank, else [T, M width], summed and scaled."""
    if adapters.width == BLOCK_R and x.shape[0] <= MOST_ROWS_OF_PARTS:
        return _shrink_in_parts(x, adapters, segments)
    return shrink_summed(x, adapters, segments)


def shrink_summed(x: torch.Tensor, adapters: Adapters, segments: Segments) -> torch.Tensor:
    """A x of every row [T, M width] in x's dtype, summed and scaled, as lora_expand wants it."""
    rows, width = x.shape[0], adapters.modules * adapters.width
    shrunk = x.new_empty(rows, width)
    if rows > MOST_ROWS_IN_PARTS:
        lora_shrink(x, adapters, segments, shrunk)
    else:
        add_parts(_shrink_in_parts(x, adapters, segments), adapters, segments, shrunk, scales=True)
    return shrunk


def _shrink_in_parts(x: torch.Tensor, adapters: Adapters, segments: Segments) -> torch.Tensor:
    width = adapters.modules * adapters.width
    parts = x.new_empty(num_parts(x.shape[1]), x.shape[0], width, dtype=torch.float32)
    lora_shrink(x, adapters, segments, parts)
    return parts
