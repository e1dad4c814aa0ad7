"""What vLLM keeps of adapters and rows, as our ops take it: slots without their padding, rows in segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lorid_engine.ops import AdapterBank, SegmentPlan


def used_ranks(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Ranks of each slot up to the last that is not zero, int64 [N]: vLLM fills up to its largest rank with zeros, and modules
    that an adapter does not have.

    Args:
        a: [N, R, I]; b: [N, O, R].
    """
    used = a.any(dim=2) & b.any(dim=1)
    return (used * torch.arange(1, a.shape[1] + 1, device=a.device)).amax(dim=1)


def bank_of(a: torch.Tensor, b: torch.Tensor) -> AdapterBank | None:
    """The bank of a module from vLLM's a [N, R, I] and b [N, O, R], each slot at its own rank; None where all are empty.
    vLLM's B has the adapter's scale in it."""
    ranks = used_ranks(a, b).tolist()
    if not any(ranks):
        return None
    given = [(a[n, :rank], b[n, :, :rank], 1.0) if rank else None for n, rank in enumerate(ranks)]
    return AdapterBank.from_tensors(given)


@dataclass(frozen=True)
class GroupedRows:
    """The rows that have an adapter, those of one slot side by side.

    Attributes:
        order: [T'] int64 rows in the order of their slots, or None where they are all T rows and lie so already.
        plan: of the rows in that order.
    """

    order: torch.Tensor | None
    plan: SegmentPlan

    @classmethod
    def of(cls, slots: Sequence[int], num_rows: int) -> GroupedRows | None:
        """Groups the first rows of num_rows by their slots, -1 for the base; None where none has an adapter."""
        order = sorted((row for row, slot in enumerate(slots) if slot >= 0), key=lambda row: slots[row])
        if not order:
            return None
        plan = SegmentPlan.from_slots([slots[row] for row in order])
        there = order == list(range(num_rows))
        return cls(None if there else torch.tensor(order), plan)
