"""LoridLinear, LoridBank and LoridPlan: lora_linear as torch modules, which a model takes in place of its linear layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lorid_engine.errors import ShapeError
from lorid_engine.ops import AdapterBank, PackedLinear, SegmentPlan, lora_linear, pack_linear
from lorid_engine.ops.checks import expect_shape


class LoridPlan(torch.nn.Module):
    """Which adapter each row of the coming forward takes: one object for all layers, set before each step.

    Its tensors keep their shapes and places, so that a graph that was compiled, or recorded, once follows every plan.

    Args:
        max_segments: runs of rows with one slot that a step has at most.
    """

    seg_offset: torch.Tensor
    seg_slot: torch.Tensor

    def __init__(self, max_segments: int) -> None:
        super().__init__()
        if max_segments < 1:
            raise ShapeError(f"max_segments must be at least 1; got {max_segments}")
        self.register_buffer("seg_offset", torch.zeros(max_segments + 1, dtype=torch.int32), persistent=False)
        self.register_buffer("seg_slot", torch.full((max_segments,), -1, dtype=torch.int32), persistent=False)

    def set(self, slots: Sequence[int]) -> None:
        """Takes the slot of each of T rows, or -1 for the base alone; segments that are left over are empty.

        Raises:
            ShapeError: the rows have more segments than there is room for.
        """
        plan, most = SegmentPlan.from_slots(slots), self.seg_slot.numel()
        used = plan.seg_slot.numel()
        if used > most:
            raise ShapeError(f"the rows have {used} segments, more than max_segments = {most}; sort them by adapter")
        offset = torch.full((most + 1,), len(slots), dtype=torch.int32)
        slot = torch.full((most,), -1, dtype=torch.int32)
        offset[: used + 1], slot[:used] = plan.seg_offset, plan.seg_slot
        self.seg_offset.copy_(offset)
        self.seg_slot.copy_(slot)

    def tensors(self) -> SegmentPlan:
        """As the ops take it."""
        return SegmentPlan(self.seg_offset, self.seg_slot)


class LoridBank(torch.nn.Module):
    """The adapters of one linear layer, in slots that are filled and emptied in place.

    Args:
        in_features, out_features: I and O of the layer.
        num_slots: N adapters that there is room for.
        max_rank: R, of any of them; a smaller one is filled up with zeros, and costs as much.
        dtype: of the activations.
    """

    a: torch.Tensor
    b_t: torch.Tensor
    rank_offset: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self, in_features: int, out_features: int, num_slots: int, max_rank: int, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        if num_slots < 1 or max_rank < 1:
            raise ShapeError(f"num_slots and max_rank must be at least 1; got {num_slots} and {max_rank}")
        self.num_slots, self.max_rank = num_slots, max_rank
        self.register_buffer("a", torch.zeros(num_slots * max_rank, in_features, dtype=dtype))
        self.register_buffer("b_t", torch.zeros(num_slots * max_rank, out_features, dtype=dtype))
        self.register_buffer("rank_offset", torch.arange(num_slots + 1, dtype=torch.int32) * max_rank)
        self.register_buffer("scale", torch.zeros(num_slots))

    def load(self, slot: int, a: torch.Tensor, b: torch.Tensor, scale: float) -> None:
        """Fills a slot with PEFT's lora_A.weight [R', I] and lora_B.weight [O, R'], R' up to max_rank, and their scale.

        Raises:
            ShapeError: there is no such slot, or the matrices do not fit.
        """
        expect_shape("a", a, None, self.a.shape[1])
        expect_shape("b", b, self.b_t.shape[1], a.shape[0])
        if a.shape[0] > self.max_rank:
            raise ShapeError(f"the adapter's rank is {a.shape[0]}; this bank has room for {self.max_rank}")
        rows = self._rows(slot)
        self.unload(slot)
        with torch.no_grad():
            self.a[rows][: a.shape[0]].copy_(a)
            self.b_t[rows][: a.shape[0]].copy_(b.t())
            self.scale[slot] = scale

    def unload(self, slot: int) -> None:
        """Empties a slot: its rows get the base alone."""
        rows = self._rows(slot)
        with torch.no_grad():
            self.scale[slot] = 0
            self.a[rows].zero_()
            self.b_t[rows].zero_()

    def _rows(self, slot: int) -> slice:
        if not 0 <= slot < self.num_slots:
            raise ShapeError(f"slot must be from 0 to {self.num_slots - 1}; got {slot}")
        return slice(slot * self.max_rank, (slot + 1) * self.max_rank)

    def tensors(self) -> AdapterBank:
        """As the ops take them."""
        return AdapterBank(self.a, self.b_t, self.rank_offset, self.scale, self.max_rank)


class LoridLinear(torch.nn.Module):
    """A frozen linear layer whose rows each take an adapter of a bank, for inference.

    Args:
        linear: whose weight and bias are copied, in the layout of our kernels.
        bank: of the same sizes and dtype.
        plan: shared by the layers of a model; its rows are x's, leading dimensions flattened.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: torch.nn.Linear, bank: LoridBank, plan: LoridPlan) -> None:
        super().__init__()
        packed = pack_linear(linear.weight.detach(), None if linear.bias is None else linear.bias.detach())
        self.in_features, self.out_features = packed.in_features, packed.out_features
        self.register_buffer("weight", packed.data)
        self.register_buffer("bias", packed.bias)
        self.bank, self.plan = bank, plan

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., I] to [..., O]; see lora_linear."""
        weight = PackedLinear(self.weight, self.out_features, self.in_features, self.bias)
        y = lora_linear(x.reshape(-1, x.shape[-1]), weight, self.bank.tensors(), self.plan.tensors())
        return y.view(*x.shape[:-1], self.out_features)
