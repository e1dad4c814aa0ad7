"""The adapters' shares of a linear layer and their gradients in torch's own products, one pair a segment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from lorid_engine.ops.lora_dropout import lora_dropout


@dataclass(frozen=True)
class Module:
    """One module's matrices and what they multiply."""

    x: torch.Tensor
    dropped: torch.Tensor
    a: torch.Tensor
    b_t: torch.Tensor
    rank_offset: torch.Tensor
    scale: torch.Tensor
    columns: slice
    mask: tuple[torch.Tensor, int, float] | None

    def segments(self, seg_offset: torch.Tensor, seg_slot: torch.Tensor) -> Iterator[tuple[float, slice, slice]]:
        """Scale, rows and ranks of every segment that has an adapter here."""
        rows, ranks, factors = seg_offset.tolist(), self.rank_offset.tolist(), self.scale.tolist()
        for s, slot in enumerate(seg_slot.tolist()):
            if slot >= 0 and rows[s] < rows[s + 1] and ranks[slot] < ranks[slot + 1]:
                yield factors[slot], slice(rows[s], rows[s + 1]), slice(ranks[slot], ranks[slot + 1])

    def add_shares(self, y: torch.Tensor, seg_offset: torch.Tensor, seg_slot: torch.Tensor) -> None:
        """y += scale B (A x) in the module's columns."""
        for factor, rows, ranks in self.segments(seg_offset, seg_slot):
            shrunk = self.dropped[rows] @ self.a[ranks].t()
            y[rows, self.columns].addmm_(shrunk, self.b_t[ranks], alpha=factor)

    def gradients(
        self, dy: torch.Tensor, dx: torch.Tensor | None, seg_offset: torch.Tensor, seg_slot: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """da and db_t; the adapters' share is added to dx. A x is computed anew, not kept."""
        da, db_t = torch.zeros_like(self.a), torch.zeros_like(self.b_t)
        through = torch.zeros_like(dx) if dx is not None and self.mask is not None else dx  # has yet to pass the mask
        for factor, rows, ranks in self.segments(seg_offset, seg_slot):
            dy_here = dy[rows, self.columns]
            ds = (dy_here @ self.b_t[ranks].t()).mul_(factor)
            db_t[ranks].addmm_((self.dropped[rows] @ self.a[ranks].t()).t(), dy_here, alpha=factor)
            da[ranks].addmm_(ds.t(), self.dropped[rows])
            if through is not None:
                through[rows].addmm_(ds, self.a[ranks])
        if dx is not None and through is not None and self.mask is not None:
            dx += lora_dropout(through, *self.mask)
        return da, db_t


def modules_of(x, a, b_t, rank_offset, scale, col_begin, key, numbers, p) -> Iterator[Module]:
    """The modules of lora_linear's lists, each with what its A multiplies: x, or x after its dropout."""
    for place, begin in enumerate(col_begin):
        mask = None if key is None or p == 0 else (key, numbers[place], p)
        dropped = x if mask is None else lora_dropout(x, *mask)
        columns = slice(begin, begin + b_t[place].shape[1])
        yield Module(x, dropped, a[place], b_t[place], rank_offset[place], scale[place], columns, mask)
