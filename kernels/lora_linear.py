"""lora_linear: W x and the adapters' shares in one accumulator and one epilogue ("wide K").

Weights lie on the M side of the product (y^T = W x^T), so that a tile of 64 columns x 16 rows fills a matrix instruction
and every number of rows uses the same family of them. An accumulator first takes W x, feature by feature in blocks, then
B s rank by rank: with any tile an element's sum has the same order. A weight with few columns is cut along its features, at
points that its shape decides, so that one row still fills the chip; the parts are added in order.

Two forms of a tile of rows: up to 128 rows are one tile in which each segment's share is added to its own rows; more are cut
so that no tile has rows of two segments.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
import triton.language as tl

from lorid_kernels.launch import chains, let_next_begin, multiplies_from_shared, overlap_options, wait
from lorid_kernels.lora_shrink import num_parts
from lorid_kernels.segments import BLOCK_R, Adapters, Segments, module_of, rank_and_offset, tile_of
from lorid_kernels.tuning import Tile, default_tile, tile_for

MOST_MIXED_ROWS = 128
RANK_STAGES: tl.constexpr = tl.constexpr(3)
ENOUGH_TILES = 100  # column tiles that keep the memory of the largest chips busy
LEAST_PART = 1024


def split_len(out_features: int, in_features: int) -> int:
    """How many features one part of a weight has, which its shape alone decides."""
    tiles = triton.cdiv(out_features, 64)
    parts = 1 if tiles >= ENOUGH_TILES else min(triton.cdiv(128, tiles), max(in_features // LEAST_PART, 1))
    return triton.cdiv(triton.cdiv(in_features, parts), 256) * 256 if parts > 1 else in_features


def num_splits(out_features: int, in_features: int) -> int:
    """How many parts a weight is cut into along its features."""
    return triton.cdiv(in_features, split_len(out_features, in_features))


@triton.jit
def _part(w_rows, x_rows, o_in, t_in, k_begin, k_end, PRECISION: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr, EVEN_K: tl.constexpr):  # fmt: skip
    """W x [BLOCK_O, BLOCK_T] over some features."""
    acc = tl.zeros((BLOCK_O, BLOCK_T), dtype=tl.float32)
    for k0 in range(k_begin, k_end, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        if EVEN_K:
            w = tl.load(w_rows + k[None, :], mask=o_in[:, None], other=0.0)
            x = tl.load(x_rows + k[None, :], mask=t_in[:, None], other=0.0)
        else:
            k_in = (k < k_end)[None, :]
            w = tl.load(w_rows + k[None, :], mask=o_in[:, None] & k_in, other=0.0)
            x = tl.load(x_rows + k[None, :], mask=t_in[:, None] & k_in, other=0.0)
        acc = tl.dot(w, tl.trans(x), acc, input_precision=PRECISION)
    return acc


@triton.jit
def _product(w_rows, x_rows, o_in, t_in, first, last, split_len, in_features, SEVERAL: tl.constexpr, PRECISION: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr, EVEN_K: tl.constexpr):  # fmt: skip
    """W x over the last of some parts of the features, and the sum of those before it."""
    before = tl.zeros((BLOCK_O, BLOCK_T), dtype=tl.float32)
    if SEVERAL:
        for p in range(first, last - 1):
            k = p * split_len
            before += _part(w_rows, x_rows, o_in, t_in, k, k + split_len, PRECISION, BLOCK_O, BLOCK_T, BLOCK_K, EVEN_K)
    k = (last - 1) * split_len
    end = tl.minimum(k + split_len, in_features)
    return before, _part(w_rows, x_rows, o_in, t_in, k, end, PRECISION, BLOCK_O, BLOCK_T, BLOCK_K, EVEN_K)


@triton.jit
def add_share(acc, share, shrunk_rows, t_in, b_columns, b_stride, o_in, rank, PARTS: tl.constexpr, CHAINS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_R: tl.constexpr, STEP: tl.constexpr, STAGES: tl.constexpr):  # fmt: skip
    """acc [BLOCK_O, BLOCK_T] + B s, where s is scaled: `share` [BLOCK_T, STEP] if there are PARTS, else in shrunk [T, width].

    STEP: ranks at a time, STAGES: how many times so many are in flight. CHAINS: one sum from the first feature to the last rank, else B s is summed on its own; one of the
    two on a device.
    """
    total = acc if CHAINS else tl.zeros_like(acc)
    written = tl.cdiv(rank, BLOCK_R) * BLOCK_R
    for r0 in tl.range(0, rank, STEP, num_stages=STAGES):
        r = r0 + tl.arange(0, STEP)
        at = b_columns + r.to(tl.int64)[:, None] * b_stride
        b = tl.load(at, mask=(r < rank)[:, None] & o_in[None, :], other=0.0)
        if PARTS > 0:
            s = share.to(b.dtype)
        else:
            s = tl.load(shrunk_rows + r[None, :], mask=t_in[:, None] & (r < written)[None, :], other=0.0)
        total = tl.dot(tl.trans(b), tl.trans(s), total, input_precision=PRECISION)
    return total if CHAINS else acc + total


@triton.jit
def add_parts(shrunk_rows, stride_p, t_in, PARTS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_T: tl.constexpr):
    """The first BLOCK_R ranks of A x [BLOCK_T, BLOCK_R], summed over its parts in order."""
    r = tl.arange(0, BLOCK_R)
    stride_p = tl.cast(stride_p, tl.int64)
    total = tl.zeros((BLOCK_T, BLOCK_R), dtype=tl.float32)
    for p in tl.static_range(PARTS):
        total += tl.load(shrunk_rows + p * stride_p + r[None, :], mask=t_in[:, None], other=0.0)
    return total


@triton.jit(do_not_specialize=["num_rows", "num_segments"])
def _lora_linear_kernel(
    x_ptr,  # [T, I]
    x_stride_t,
    w_ptr,  # [O, I]
    bias_ptr,  # [O] float32
    y_ptr,  # [T, O], or float32 [splits, T, O]
    y_stride_p,
    y_stride_t,
    shrunk_ptr,  # as lora_shrink writes it
    shrunk_stride_p,
    shrunk_stride_t,
    matrix_ptr,  # where every B lies
    b_ptr,
    rank_ptr,
    scale_ptr,
    merged_ptr,
    seg_offset_ptr,
    seg_slot_ptr,
    num_segments,
    num_slots,
    num_rows,
    in_features,
    out_features,
    split_len,
    end0,  # of the first module's columns
    end1,  # of the second's
    width,  # of a module in shrunk
    MODULES: tl.constexpr,  # 0 = no adapters at all
    PARTS: tl.constexpr,  # of shrunk; 0 = it is summed and scaled. With parts, width is BLOCK_R
    SPLITS: tl.constexpr,
    ADDS_SPLITS: tl.constexpr,
    MIXED: tl.constexpr,
    BY_OFFSET: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_MERGED: tl.constexpr,
    CHAINS: tl.constexpr,
    PRECISION: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_R: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
    FOLLOWS_SHRINK: tl.constexpr,
    OVERLAPS: tl.constexpr,
):
    o_tile, module, module_begin, module_end = module_of(tl.program_id(1), end0, end1, out_features, MODULES, BLOCK_O)
    column = o_tile * BLOCK_O + tl.arange(0, BLOCK_O)  # of the module
    columns = module_end - module_begin
    o_in = column < columns
    if MIXED:
        let_next_begin(OVERLAPS)
    if not FOLLOWS_SHRINK:
        wait(OVERLAPS)

    slot = -1
    if MODULES == 0 or MIXED:
        row = tl.program_id(0) * BLOCK_T
        row_end = tl.minimum(row + BLOCK_T, num_rows)
    else:
        row, row_end, slot = tile_of(seg_offset_ptr, seg_slot_ptr, num_segments, tl.program_id(0), BLOCK_S, BLOCK_T)
        if row >= row_end:
            return
    t = row + tl.arange(0, BLOCK_T)
    t_in = t < row_end
    x_rows = x_ptr + t.to(tl.int64)[:, None] * x_stride_t
    w_rows = w_ptr + (module_begin + column).to(tl.int64)[:, None] * in_features
    shrunk_rows = shrunk_ptr + t.to(tl.int64)[:, None] * shrunk_stride_t + module * width

    # What the segments need is asked for first, so that it is there when W x is done.
    multiplies_base = True
    if MODULES > 0:
        if MIXED:
            s = tl.arange(0, BLOCK_S)
            s_in = s < num_segments
            seg_begin = tl.load(seg_offset_ptr + s, mask=s_in, other=0)
            seg_end = tl.load(seg_offset_ptr + s + 1, mask=s_in, other=0)
            slots = tl.load(seg_slot_ptr + s, mask=s_in, other=-1)
            has_slot = (slots >= 0) & (seg_begin < seg_end)
        else:
            slots, has_slot = slot, slot >= 0
        ranks, offsets = rank_and_offset(b_ptr, rank_ptr, module, slots, num_slots, columns, has_slot, BY_OFFSET)
        scales = tl.load(scale_ptr + module * num_slots + slots, mask=has_slot, other=0.0)
        if HAS_MERGED:
            copies = tl.load(merged_ptr + module * num_slots + slots, mask=has_slot, other=0)
            if MIXED:
                multiplies_base = tl.max(((seg_begin < seg_end) & (copies == 0)).to(tl.int32), axis=0) > 0
            elif copies != 0:
                w_rows = matrix_ptr + copies * 16 + column.to(tl.int64)[:, None] * in_features

    first, last = 0, SPLITS
    if not ADDS_SPLITS:
        first = tl.program_id(2)
        last = first + 1
    before = tl.zeros((BLOCK_O, BLOCK_T), dtype=tl.float32)  # the sum of all parts but the last
    acc = tl.zeros((BLOCK_O, BLOCK_T), dtype=tl.float32)
    if multiplies_base:
        before, acc = _product(w_rows, x_rows, o_in, t_in, first, last, split_len, in_features, ADDS_SPLITS, PRECISION, BLOCK_O, BLOCK_T, BLOCK_K, EVEN_K)  # fmt: skip
    if HAS_MERGED and MIXED:
        for i in range(0, num_segments):
            copy = tl.sum(tl.where(s == i, copies, 0), axis=0)
            if copy != 0:
                mine = (t >= tl.sum(tl.where(s == i, seg_begin, 0))) & (t < tl.sum(tl.where(s == i, seg_end, 0)))
                rows = matrix_ptr + copy * 16 + column.to(tl.int64)[:, None] * in_features
                other_before, other = _product(rows, x_rows, o_in, t_in & mine, first, last, split_len, in_features, ADDS_SPLITS, PRECISION, BLOCK_O, BLOCK_T, BLOCK_K, EVEN_K)  # fmt: skip
                before = tl.where(mine[None, :], other_before, before)
                acc = tl.where(mine[None, :], other, acc)
    is_last = last == SPLITS
    if FOLLOWS_SHRINK:
        # Until here nothing was read that the shrink wrote; x was there before the shrink began, which had waited for it.
        wait(OVERLAPS)
    if MODULES > 0:
        most = tl.max(ranks, axis=0) if MIXED else ranks
        if is_last & (most > 0):
            share = tl.zeros((BLOCK_T, BLOCK_R), dtype=tl.float32)
            if PARTS > 0:
                share = add_parts(shrunk_rows, shrunk_stride_p, t_in, PARTS, BLOCK_R, BLOCK_T)
                if MIXED:
                    of_row = (t[:, None] >= seg_begin[None, :]) & (t[:, None] < seg_end[None, :])
                    share *= tl.sum(tl.where(of_row, scales[None, :], 0.0), axis=1)[:, None]
                else:
                    share *= scales
            if MIXED:
                for i in range(0, tl.max(tl.where(ranks > 0, s + 1, 0), axis=0)):
                    pick = s == i
                    mine = (t >= tl.sum(tl.where(pick, seg_begin, 0))) & (t < tl.sum(tl.where(pick, seg_end, 0)))
                    rank = tl.sum(tl.where(pick, ranks, 0), axis=0)
                    offset = tl.sum(tl.where(pick, offsets, 0), axis=0)
                    if BY_OFFSET:
                        offset = offset // 16 * 16
                    b_columns = matrix_ptr + offset + column[None, :]
                    other = add_share(acc, share, shrunk_rows, t_in, b_columns, columns, o_in, rank, PARTS, CHAINS, PRECISION, BLOCK_R, STEP, RANK_STAGES)  # fmt: skip
                    acc = tl.where(mine[None, :], other, acc)  # not multiplied by 0: B may hold a NaN
            else:
                b_columns = matrix_ptr + offsets + column[None, :]
                acc = add_share(acc, share, shrunk_rows, t_in, b_columns, columns, o_in, ranks, PARTS, CHAINS, PRECISION, BLOCK_R, STEP, RANK_STAGES)  # fmt: skip
    if HAS_BIAS:
        bias = tl.load(bias_ptr + module_begin + column, mask=o_in & is_last, other=0.0)
        acc += bias[:, None]
    if ADDS_SPLITS:
        acc = before + acc
    y = y_ptr + t.to(tl.int64)[:, None] * y_stride_t + (module_begin + column)[None, :]
    if not ADDS_SPLITS:
        y += tl.program_id(2).to(tl.int64) * y_stride_p
    tl.store(y, tl.trans(acc).to(y_ptr.dtype.element_ty), mask=t_in[:, None] & o_in[None, :])


def lora_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    y: torch.Tensor,
    adapters: Adapters | None = None,
    segments: Segments | None = None,
    shrunk: torch.Tensor | None = None,
    *,
    follows_shrink: bool = False,
    tile: Tile | None = None,
) -> int:
    """Writes W x + bias + scale B s of every row.

    Args:
        x: [T, I], rows may be strided.
        weight: [O, I] contiguous, in x's dtype.
        bias: [O] float32, or None.
        y: [T, O] of any dtype: the sums; or float32 [num_splits(O, I), T, O]: parts of them, whose sum in order is the same to
            the bit. Written.
        adapters, segments, shrunk: of the rows, and A x as shrink_for_linear returns it; or None for the base alone.
        follows_shrink: the kernel launched before is shrink_for_linear's last; W x is then computed beside it.
        tile: another than tuning.tile_for says.

    Returns:
        How many planes of y were written.
    """
    rows, in_features = x.shape
    out_features = weight.shape[0]
    if rows == 0:
        return 1
    splits = num_splits(out_features, in_features)
    mixed = rows <= MOST_MIXED_ROWS
    adds_splits = splits > 1 and (y.dim() == 2 or not mixed)
    with_adapters = adapters is not None and segments is not None and segments.count > 0
    if with_adapters and shrunk.dim() == 3 and adapters.width > BLOCK_R:
        raise ValueError(f"more than {BLOCK_R} ranks take A x that is summed: see lora_shrink.add_parts")
    if tile is None and x.element_size() == 4:  # for tests: the same sums from half as many features at a time
        tile = replace(default_tile(rows, splits=2), block_k=32)
    tile = tile or tile_for(rows, out_features, in_features, adapters.width if with_adapters else 0, splits)
    parts = 0 if not with_adapters or shrunk.dim() == 2 else num_parts(in_features)
    ends = adapters.column_ends if with_adapters else (out_features,)
    begins = (0, *ends[:-1])
    row_tiles = (
        triton.cdiv(rows, tile.block_t) if not with_adapters or mixed else segments.most_tiles(rows, tile.block_t)
    )
    column_tiles = sum(triton.cdiv(end - begin, tile.block_o) for begin, end in zip(begins, ends, strict=True))
    length = split_len(out_features, in_features)
    _lora_linear_kernel[(row_tiles, column_tiles, 1 if adds_splits else splits)](
        x,
        x.stride(0),
        weight,
        bias if bias is not None else x,
        y,
        y.stride(0) if y.dim() == 3 else 0,
        y.stride(-2),
        shrunk if with_adapters else x,
        shrunk.stride(0) if with_adapters and shrunk.dim() == 3 else 0,
        shrunk.stride(-2) if with_adapters else 0,
        (adapters.b_t if adapters.anchor is None else adapters.anchor) if with_adapters else x,
        adapters.b_t if with_adapters else x,
        adapters.rank if with_adapters else x,
        adapters.scale if with_adapters else x,
        adapters.merged if with_adapters and adapters.merged is not None else x,
        segments.seg_offset if with_adapters else x,
        segments.seg_slot if with_adapters else x,
        segments.count if with_adapters else 0,
        adapters.num_slots if with_adapters else 0,
        rows,
        in_features,
        out_features,
        length,
        ends[0],
        ends[1] if len(ends) > 1 else out_features,
        adapters.width if with_adapters else 0,
        MODULES=len(ends) if with_adapters else 0,
        PARTS=parts,
        SPLITS=splits,
        ADDS_SPLITS=adds_splits,
        MIXED=mixed,
        BY_OFFSET=with_adapters and adapters.anchor is not None,
        HAS_BIAS=bias is not None,
        HAS_MERGED=with_adapters and adapters.merged is not None,
        CHAINS=chains(),
        PRECISION="ieee",
        EVEN_K=in_features % tile.block_k == 0 and length % tile.block_k == 0,
        BLOCK_S=segments.block if with_adapters else 1,
        BLOCK_R=BLOCK_R,
        # Where operands come from shared memory there are registers for more ranks at a time, which few rows need in flight.
        STEP=2 * BLOCK_R if tile.block_t <= 32 and parts == 0 and multiplies_from_shared() else BLOCK_R,
        BLOCK_O=tile.block_o,
        BLOCK_T=tile.block_t,
        BLOCK_K=tile.block_k,
        num_warps=tile.warps,
        num_stages=tile.stages,
        FOLLOWS_SHRINK=follows_shrink and with_adapters,
        # Where operands lie in registers, and for ranks: the compiler would rather spill a little than pass a round number.
        maxnreg=255 if with_adapters or not multiplies_from_shared() else None,
        **overlap_options(),
    )
    return splits if y.dim() == 3 and not adds_splits else 1
