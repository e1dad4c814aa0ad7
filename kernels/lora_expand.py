"""lora_expand: adds scale B s to rows that are there already, a tile of columns and of one segment's rows a program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from lorid_kernels.launch import chains, follow, multiplies_from_shared, overlap_options
from lorid_kernels.lora_linear import add_share
from lorid_kernels.segments import BLOCK_R, Adapters, Segments, module_of, rank_and_offset, tile_of

BLOCK_O = 64


@triton.jit(do_not_specialize=["num_segments"])
def _lora_expand_kernel(
    y_ptr,  # [T, O]
    y_stride_t,
    shrunk_ptr,  # [T, M width] summed and scaled
    shrunk_stride_t,
    matrix_ptr,  # where every B lies
    b_ptr,
    rank_ptr,
    seg_offset_ptr,
    seg_slot_ptr,
    num_segments,
    num_slots,
    out_features,
    end0,
    end1,
    width,
    MODULES: tl.constexpr,
    BY_OFFSET: tl.constexpr,
    CHAINS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_R: tl.constexpr,
    STEP: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_T: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    follow(OVERLAPS)
    o_tile, module, module_begin, module_end = module_of(tl.program_id(0), end0, end1, out_features, MODULES, BLOCK_O)
    row, row_end, slot = tile_of(seg_offset_ptr, seg_slot_ptr, num_segments, tl.program_id(1), BLOCK_S, BLOCK_T)
    columns = module_end - module_begin
    there = (row < row_end) & (slot >= 0)
    rank, offset = rank_and_offset(b_ptr, rank_ptr, module, slot, num_slots, columns, there, BY_OFFSET)
    if rank == 0:
        return
    column = o_tile * BLOCK_O + tl.arange(0, BLOCK_O)
    o_in = column < columns
    t = row + tl.arange(0, BLOCK_T)
    t_in = t < row_end
    inside = t_in[:, None] & o_in[None, :]
    y = y_ptr + t.to(tl.int64)[:, None] * y_stride_t + (module_begin + column)[None, :]
    acc = tl.trans(tl.load(y, mask=inside, other=0.0)).to(tl.float32)
    shrunk_rows = shrunk_ptr + t.to(tl.int64)[:, None] * shrunk_stride_t + module * width
    b_columns = matrix_ptr + offset + column[None, :]
    acc = add_share(
        acc, acc, shrunk_rows, t_in, b_columns, columns, o_in, rank, 0, CHAINS, PRECISION, BLOCK_R, STEP, STAGES
    )
    tl.store(y, tl.trans(acc).to(y_ptr.dtype.element_ty), mask=inside)


def lora_expand(y: torch.Tensor, shrunk: torch.Tensor, adapters: Adapters, segments: Segments) -> None:
    """Adds scale B s to every row that has an adapter.

    Args:
        y: [T, sum O], rows may be strided. Written.
        shrunk: [T, M width] in y's dtype, A x times the scale, as lora_shrink or add_parts writes it.
    """
    rows, out_features = y.shape
    if rows == 0 or segments.count == 0:
        return
    block_t = min(max(triton.next_power_of_2(rows), 16), 64)
    ends, from_shared = adapters.column_ends, multiplies_from_shared()
    column_tiles = sum(triton.cdiv(end - begin, BLOCK_O) for begin, end in zip((0, *ends[:-1]), ends, strict=True))
    _lora_expand_kernel[(column_tiles, segments.most_tiles(rows, block_t))](
        y,
        y.stride(0),
        shrunk,
        shrunk.stride(0),
        adapters.b_t if adapters.anchor is None else adapters.anchor,
        adapters.b_t,
        adapters.rank,
        segments.seg_offset,
        segments.seg_slot,
        segments.count,
        adapters.num_slots,
        out_features,
        ends[0],
        ends[1] if len(ends) > 1 else out_features,
        adapters.width,
        MODULES=len(ends),
        BY_OFFSET=adapters.anchor is not None,
        CHAINS=chains(),
        PRECISION="ieee",
        BLOCK_S=segments.block,
        BLOCK_R=BLOCK_R,
        STEP=2 * BLOCK_R if from_shared and block_t <= 32 else BLOCK_R,
        STAGES=4 if from_shared else 2,
        BLOCK_O=BLOCK_O,
        BLOCK_T=block_t,
        num_warps=4,
        maxnreg=255,
        **overlap_options(),
    )
