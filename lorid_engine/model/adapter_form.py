"""The form in which an adapter lies beside the base: its A and B, or merged into a copy of a module's weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lorid_engine.ops.pack_linear import BLOCK_COLS, Allocate, PackedLinear, pack_linear, unpack
from lorid_engine.ops.peft_adapter import LoraWeights


@dataclass(frozen=True)
class HeldLora:
    """One module's share of an adapter as the step program reads it: A and B, or what they were merged into.

    Attributes:
        a: [R, I], or None.
        b: [O / 32 rounded up, R, 32], or None.
        merged: W + scale B A as packed blocks, or None.
        rank: R; 0 if merged.
        scale: factor of B A.
    """

    a: torch.Tensor | None
    b: torch.Tensor | None
    merged: torch.Tensor | None
    rank: int
    scale: float


def is_merged(out_features: int, in_features: int, rank: int, active_adapters: int) -> bool:
    """Whether a copy of the weight is read faster than A and B beside the weight itself.

    A step with n active adapters reads n copies of O x I, or one weight and n times R (I + O). Which adapters a batch
    really holds does not matter: the form is fixed when an adapter is loaded, so that a row's bits depend on no other row.

    Args:
        out_features, in_features, rank: O, I and R of the module's adapter.
        active_adapters: n as the engine was told; base rows among them count as one more.
    """
    weight, low_rank = in_features * out_features, rank * (in_features + out_features)
    return rank > 0 and active_adapters * (weight - low_rank) < weight


def least_merged_rank(out_features: int, in_features: int, active_adapters: int) -> int:
    """The lowest rank at which a module's adapter is merged."""
    most = in_features * out_features // (in_features + out_features) + 1
    return next(rank for rank in range(1, most + 1) if is_merged(out_features, in_features, rank, active_adapters))


def can_merge(columns: slice, fused_features: int) -> bool:
    """Whether a module's columns of a fused weight are whole packed blocks: a copy takes the place of those."""
    return columns.start % BLOCK_COLS == 0 and (columns.stop % BLOCK_COLS == 0 or columns.stop == fused_features)


@torch.no_grad()
def hold_low_rank(lora: LoraWeights, dtype: torch.dtype, allocate: Allocate) -> HeldLora:
    """Copies of A as it is, and of B in blocks of 32 outputs with all ranks: a block of columns reads one run of memory."""
    out_features, rank = lora.b.shape
    a = allocate(tuple(lora.a.shape), dtype)
    a.copy_(lora.a)
    b = allocate((-(-out_features // BLOCK_COLS), rank, BLOCK_COLS), dtype).zero_()
    whole = out_features // BLOCK_COLS
    b[:whole].copy_(lora.b[: whole * BLOCK_COLS].reshape(whole, BLOCK_COLS, rank).transpose(1, 2))
    if left := out_features % BLOCK_COLS:
        b[whole, :, :left].copy_(lora.b[whole * BLOCK_COLS :].t())
    return HeldLora(a, b, None, rank, lora.scale)


@torch.no_grad()
def hold_merged(
    lora: LoraWeights, base: PackedLinear, columns: slice, dtype: torch.dtype, allocate: Allocate
) -> HeldLora:
    """W + scale B A for the module's columns of a fused weight: summed in float64 whatever torch's settings, rounded once."""
    weight = unpack(base.data, base.out_features, base.in_features)[columns].double()
    merged = weight.addmm_(lora.b.double(), lora.a.double(), alpha=lora.scale)
    return HeldLora(None, None, pack_linear(merged.to(dtype), allocate=allocate).data, 0, lora.scale)
