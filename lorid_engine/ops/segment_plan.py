"""SegmentPlan: which rows of a batch use which adapter slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lorid_engine.errors import ShapeError
from lorid_engine.ops.checks import can_read, check_plan, expect_device


@dataclass(frozen=True)
class SegmentPlan:
    """Runs of rows with one slot; rows of slot -1 use the base model alone.

    Attributes:
        seg_offset: [S + 1] int32, non-decreasing from 0 to T: segment s is rows seg_offset[s] to seg_offset[s + 1].
        seg_slot: [S] int32 slot of each segment, or -1.

    Raises:
        ShapeError: the segments do not cover the rows in order.
    """

    seg_offset: torch.Tensor
    seg_slot: torch.Tensor

    def __post_init__(self) -> None:
        if self.seg_offset.numel() == 0:
            raise ShapeError("seg_offset must have S + 1 entries; got none")
        expect_device(self.seg_offset, seg_slot=self.seg_slot)
        last = int(self.seg_offset[-1]) if can_read(self.seg_offset) else 0
        check_plan(last, 2**31, self.seg_offset, self.seg_slot)

    @classmethod
    def from_slots(cls, slots: Sequence[int], device: str | torch.device = "cpu") -> SegmentPlan:
        """Builds the plan of a batch from the slot of each row; neighbours with one slot become one segment."""
        offset, runs = [0], []
        for row, slot in enumerate(slots):
            if row and slot == slots[row - 1]:
                offset[-1] = row + 1
            else:
                offset.append(row + 1)
                runs.append(slot)
        return cls(
            torch.tensor(offset, dtype=torch.int32, device=device), torch.tensor(runs, dtype=torch.int32, device=device)
        )
