"""What the segmented kernels share: adapters as tables on the device, and the rows and slot of a tile."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

BLOCK_R = 64  # ranks of a tile


@dataclass(frozen=True)
class Adapters:
    """The adapters of M modules whose columns lie side by side in one fused weight [sum O, I].

    By offset (an engine's, where slots come and go): a, b_t and merged are int64 [M, N], how many times 16 elements after
    `anchor` each slot's A [R, I], B transposed [R, O], and W + scale B A [O, I] lie (merged: 0 = none); rank is int32 [M, N],
    scale float32 [M, N]. Else (one module, anchor None): a [sum R, I] and b_t [sum R, O] hold the slots end to end,
    rank is their exclusive prefix sum int32 [N + 1], scale float32 [N].

    Attributes:
        column_ends: one past the last column of each module, at most three.
        max_rank: no slot's rank is larger.
        anchor: a tensor of the model's dtype, at a multiple of 16 bytes.
    """

    a: torch.Tensor
    b_t: torch.Tensor
    rank: torch.Tensor
    scale: torch.Tensor
    column_ends: tuple[int, ...]
    max_rank: int
    merged: torch.Tensor | None = None
    anchor: torch.Tensor | None = None

    @property
    def num_slots(self) -> int:
        """N."""
        return self.scale.shape[-1]

    @property
    def modules(self) -> int:
        """M."""
        return len(self.column_ends)

    @property
    def width(self) -> int:
        """Columns of a module in what lora_shrink writes: max_rank up to a multiple of BLOCK_R."""
        return triton.cdiv(self.max_rank, BLOCK_R) * BLOCK_R


@dataclass(frozen=True)
class Segments:
    """A segment plan on the device: seg_offset int32 [S + 1], seg_slot int32 [S]; segments may be empty."""

    seg_offset: torch.Tensor
    seg_slot: torch.Tensor

    @property
    def count(self) -> int:
        """S."""
        return self.seg_slot.shape[0]

    @property
    def block(self) -> int:
        """S up to a power of two."""
        return triton.next_power_of_2(max(self.count, 1))

    def most_tiles(self, rows: int, block_t: int) -> int:
        """A bound on the tiles of block_t rows that no segment shares."""
        return rows // block_t + self.count


@triton.jit
def tile_of(seg_offset_ptr, seg_slot_ptr, num_segments, tile, BLOCK_S: tl.constexpr, BLOCK_T: tl.constexpr):
    """First row, end and slot of a tile: each segment is cut into tiles of its own. No rows past the last tile."""
    s = tl.arange(0, BLOCK_S)
    begin = tl.load(seg_offset_ptr + s, mask=s < num_segments, other=0)
    end = tl.load(seg_offset_ptr + s + 1, mask=s < num_segments, other=0)
    slot = tl.load(seg_slot_ptr + s, mask=s < num_segments, other=-1)
    tiles = (end - begin + BLOCK_T - 1) // BLOCK_T
    last = tl.cumsum(tiles, axis=0)
    mine = (tile >= last - tiles) & (tile < last)
    row = tl.sum(tl.where(mine, begin + (tile - (last - tiles)) * BLOCK_T, 0), axis=0)
    row_end = tl.minimum(tl.sum(tl.where(mine, end, 0), axis=0), row + BLOCK_T)
    return row, row_end, tl.sum(tl.where(mine, slot + 1, 0), axis=0) - 1


@triton.jit
def module_of(tile, end0, end1, out_features, MODULES: tl.constexpr, BLOCK_O: tl.constexpr):
    """Which tile of which module a column tile is, and the module's first column and end: tiles begin anew at every module."""
    module, begin, end = 0, 0, out_features
    if MODULES > 1:
        end = end0
        tiles = tl.cdiv(end0, BLOCK_O)
        if tile >= tiles:
            tile -= tiles
            module, begin, end = 1, end0, end1
            if MODULES > 2:
                tiles = tl.cdiv(end1 - end0, BLOCK_O)
                if tile >= tiles:
                    tile -= tiles
                    module, begin, end = 2, end1, out_features
    return tile, module, begin, end


@triton.jit
def rank_and_offset(matrix_ptr, rank_ptr, module, slot, num_slots, stride, there, BY_OFFSET: tl.constexpr):
    """A slot's rank and where its matrix begins, in elements, for one slot or many; rank 0 where not there."""
    if BY_OFFSET:
        place = module * num_slots + slot
        rank = tl.load(rank_ptr + place, mask=there, other=0)
        offset = tl.load(matrix_ptr + place, mask=there, other=0) * 16  # so that the compiler knows the alignment
    else:
        first = tl.load(rank_ptr + slot, mask=there, other=0)
        rank = tl.load(rank_ptr + slot + 1, mask=there, other=0) - first
        offset = first.to(tl.int64) * stride
    return rank, offset
