"""AdapterBank: the LoRA matrices of one target module for all adapter slots, end to end without padding."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorid_engine.errors import ShapeError
from lorid_engine.ops.checks import (
    check_bank,
    expect_contiguous,
    expect_device,
    expect_device_or_host,
    expect_dtype,
    expect_shape,
)
from lorid_engine.ops.peft_adapter import read_peft_adapter


@dataclass(frozen=True)
class AdapterBank:
    """One module's adapters: slot n owns rows rank_offset[n] to rank_offset[n + 1] of a and b_t, and may own none.

    Attributes:
        a: [sum R, I] the A matrices, contiguous, in the activations' dtype.
        b_t: [sum R, O] the B matrices transposed, contiguous, same dtype.
        rank_offset: [N + 1] int32 exclusive prefix sum of the ranks.
        scale: [N] float32 factor of each slot's product: alpha / R, or alpha / sqrt(R) for rsLoRA. With matrices on a GPU,
            rank_offset and scale may be on the CPU, where torch's backend of lora_linear reads them.
        max_rank: the largest rank of any slot.

    Raises:
        ShapeError: shapes, dtypes or devices disagree.
    """

    a: torch.Tensor
    b_t: torch.Tensor
    rank_offset: torch.Tensor
    scale: torch.Tensor
    max_rank: int

    def __post_init__(self) -> None:
        expect_shape("a", self.a, None, None)
        expect_shape("b_t", self.b_t, self.a.shape[0], None)
        expect_dtype("b_t", self.b_t, self.a.dtype)
        expect_contiguous("a", self.a)
        expect_contiguous("b_t", self.b_t)
        expect_shape("scale", self.scale, self.rank_offset.numel() - 1)
        expect_dtype("scale", self.scale, torch.float32)
        expect_device(self.a, b_t=self.b_t)
        expect_device_or_host(self.a, rank_offset=self.rank_offset, scale=self.scale)
        check_bank(self.rank_offset, self.a.shape[0], self.max_rank)

    @property
    def num_slots(self) -> int:
        """N, the adapter slots, empty ones included."""
        return self.scale.numel()

    @classmethod
    def from_tensors(
        cls,
        adapters: Sequence[tuple[torch.Tensor, torch.Tensor, float] | None],
        *,
        dtype: torch.dtype | None = None,
    ) -> AdapterBank:
        """Builds a bank from (A [R, I], B [O, R], scale) of each slot, in order; None leaves a slot empty.

        Args:
            adapters: PEFT's lora_A.weight and lora_B.weight, and the scale.
            dtype: of the bank, to which all are converted; by default theirs, which must be one.

        Raises:
            ShapeError: no adapter at all, or their shapes, devices or, without a dtype given, dtypes disagree.
        """
        given = [adapter for adapter in adapters if adapter is not None]
        if not given:
            raise ShapeError("an adapter bank needs at least one adapter; got none")
        first_a, first_b, _ = given[0]
        for a, b, _ in given:
            expect_shape("A", a, None, first_a.shape[1])
            expect_shape("B", b, first_b.shape[0], a.shape[0])
            for name, matrix in (("A", a), ("B", b)):
                if matrix.device != first_a.device:
                    raise ShapeError(f"{name} must be on {first_a.device} like the first A; got {matrix.device}")
                if dtype is None and matrix.dtype != first_a.dtype:
                    raise ShapeError(
                        f"{name} must be {first_a.dtype} like the first A; got {matrix.dtype}: convert it, or give dtype"
                    )
        dtype = dtype or first_a.dtype
        ranks = [0 if adapter is None else adapter[0].shape[0] for adapter in adapters]
        device = first_a.device
        rank_offset = torch.zeros(len(ranks) + 1, dtype=torch.int32)
        rank_offset[1:] = torch.tensor(ranks, dtype=torch.int32).cumsum(0)
        scale = [0.0 if adapter is None else float(adapter[2]) for adapter in adapters]
        return cls(
            a=torch.cat([a.to(dtype) for a, _, _ in given]).contiguous(),
            b_t=torch.cat([b.t().to(dtype) for _, b, _ in given]).contiguous(),
            rank_offset=rank_offset.to(device),
            scale=torch.tensor(scale, dtype=torch.float32, device=device),
            max_rank=max(ranks),
        )

    @classmethod
    def from_peft(
        cls, folders: Sequence[str | os.PathLike[str] | None], *, dtype: torch.dtype | None = None
    ) -> dict[str, AdapterBank]:
        """Builds the banks of all modules from adapters in PEFT's format.

        Args:
            folders: the folder of each slot, in order; None leaves a slot empty. An adapter without a module has rank 0 there.
            dtype: of the banks, to which all are converted; by default the adapters', which must be one.

        Returns:
            A bank of as many slots as there are folders by module, keyed like "model.layers.3.self_attn.q_proj".

        Raises:
            AdapterError: a folder is damaged, or uses a feature that is not supported.
            ShapeError: two adapters were made for modules of different shapes or, without a dtype given, dtypes.
        """
        read = [None if folder is None else read_peft_adapter(Path(folder), str(folder)) for folder in folders]
        modules = sorted({module for adapter in read for module in adapter or ()})
        banks = {}
        for module in modules:
            shares = [None if adapter is None else adapter.get(module) for adapter in read]
            given = [None if share is None else (share.a, share.b, share.scale) for share in shares]
            banks[module] = cls.from_tensors(given, dtype=dtype)
        return banks


def lists_of(banks: Sequence[tuple[int, AdapterBank]]) -> tuple[list[Any], ...]:
    """a, b_t, rank_offset, scale, max_rank and first column of each module, as the registered ops take them."""
    return (
        [bank.a for _, bank in banks],
        [bank.b_t for _, bank in banks],
        [bank.rank_offset for _, bank in banks],
        [bank.scale for _, bank in banks],
        [bank.max_rank for _, bank in banks],
        [begin for begin, _ in banks],
    )
