"""Adapters as dense products: each row times the matrices of all roles, and what is not its own role's times zero.

On a GPU a step with adapters of small ranks waits for launches: seven modules times three roles are 155 products in a layer,
forward and backward. Multiplying by all roles at once does some needless arithmetic in 32. Roles stay apart as long as their matrices
are finite: where one's are not, no row's result is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from lorid_engine.ops import AdapterBank, PackedLinear, SegmentPlan

MOST_RANKS = 128  # of all roles together: three of rank 32, say


def is_worth_it(device: torch.device, ranks: int, dropout: float) -> bool:
    """Whether adapters with so many ranks in all slots together are multiplied this way; a static rule."""
    return device.type == "cuda" and 0 < ranks <= MOST_RANKS and not dropout


def row_factors(plan: SegmentPlan, bank: AdapterBank, dtype: torch.dtype) -> torch.Tensor:
    """[T, ranks of all slots]: a row's scale at its own slot's ranks, and zero elsewhere.

    Args:
        plan: of the T rows, on the CPU.
        bank: for its rank_offset and scale, on the CPU, too; the factors are put where its matrices are.
    """
    ranks = bank.rank_offset.long().diff()
    slot_of_rank = torch.arange(len(ranks)).repeat_interleave(ranks)
    own = plan.seg_slot.long().unsqueeze(1) == slot_of_rank
    of_segments = (own * bank.scale.repeat_interleave(ranks)).to(bank.a.device, dtype)
    lengths = plan.seg_offset.long().diff()
    rows = int(plan.seg_offset[-1])
    return of_segments.repeat_interleave(lengths.to(bank.a.device), dim=0, output_size=rows)


def dense_lora_linear(
    x: torch.Tensor, weight: PackedLinear, banks: Sequence[tuple[int, AdapterBank]], factors: torch.Tensor
) -> torch.Tensor:
    """lora_fused_linear's sums, in other products; its gradients are autograd's own.

    Args:
        x: [T, I].
        weight: plain.
        banks: (first column of the module, its bank), in x's dtype, all with the same slots, ranks and scales.
        factors: of the rows, from row_factors, in x's dtype.

    Returns:
        [T, O] in x's dtype; W x, A x and its product with the factor are rounded to it on the way.
    """
    width = weight.out_features
    a = [bank.a for _, bank in banks]
    b_t = [functional.pad(bank.b_t, (begin, width - begin - bank.b_t.shape[1])) for begin, bank in banks]
    shrunk = functional.linear(x, a[0] if len(a) == 1 else torch.cat(a))
    if len(banks) > 1:
        factors = factors.repeat(1, len(banks))
    y = functional.linear(x, weight.data, None if weight.bias is None else weight.bias.to(x.dtype))
    return torch.addmm(y, shrunk * factors, b_t[0] if len(b_t) == 1 else torch.cat(b_t))
