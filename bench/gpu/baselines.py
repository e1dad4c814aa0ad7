"""Other ways to compute the linears of a step: cuBLAS for the base; and for the adapters a product per segment, or grouped ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from rig import Bank, Rig, Step

from lorid_engine.model.device_adapters import DeviceAdapters
from lorid_engine.model.device_forward import DeviceForward, DeviceModel, DeviceStep, Hidden
from lorid_engine.model.llama import FusedLinear

Segment = tuple[int, int, int]


def grouped_product() -> Callable[..., torch.Tensor] | None:
    """torch's product of groups of rows with a matrix each, where this torch has one."""
    return getattr(torch.nn.functional, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)


def add_by_segment(
    y: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b_t: torch.Tensor, scale: float, segments: list[Segment]
) -> None:
    """y += scale B A x, two products of torch's for each segment."""
    for begin, end, slot in segments:
        if slot >= 0:
            y[begin:end].addmm_(torch.mm(x[begin:end], a[slot].t()), b_t[slot], alpha=scale)


def add_by_groups(
    y: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b_t: torch.Tensor, scale: float, ends: torch.Tensor
) -> None:
    """y += scale B A x, two grouped products; the rows' slots are 0, 1, ... in turn."""
    product = grouped_product()
    assert product is not None
    count = len(ends)
    shrunk = product(x, a[:count].transpose(1, 2), offs=ends)
    y.add_(product(shrunk, b_t[:count], offs=ends), alpha=scale)


class CublasForward(DeviceForward):
    """Linears by torch.mm, all else as ours.

    Args:
        bank: the adapters, or None for the base alone.
        segments: of the step.
        groups: whether the adapters' products are grouped ones.
    """

    def __init__(
        self,
        model: DeviceModel,
        adapters: DeviceAdapters,
        step: DeviceStep,
        bank: Bank | None,
        segments: list[Segment],
        *,
        groups: bool,
    ) -> None:
        super().__init__(model, adapters, step)
        self._bank, self._segments = bank, segments
        ends = [end for _, end, _ in segments]
        self._ends = torch.tensor(ends, dtype=torch.int32, device=step.token_ids.device) if groups else None

    def lora_linear(self, x: torch.Tensor, linear: FusedLinear) -> torch.Tensor:
        """W x and the adapters' shares, [rows of x, O]: in the model's dtype, logits in float32."""
        if linear.targets:
            return self._product(x, linear)
        weight = linear.weight.data.t()
        if x.device.type == "cuda":
            try:
                return torch.mm(x, weight, out_dtype=torch.float32)
            except TypeError:  # torch before 2.8
                pass
        return torch.mm(x, weight).float()

    def lora_linear_add(self, x: torch.Tensor, linear: FusedLinear, residual: Hidden) -> Hidden:
        """residual + W x and the adapters' shares; the next norm does the addition."""
        residual.planes = self._product(x, linear).unsqueeze(0)
        return residual

    def _product(self, x: torch.Tensor, linear: FusedLinear) -> torch.Tensor:
        y = torch.mm(x, linear.weight.data.t())
        for target in linear.targets if self._bank is not None else ():
            if target.name not in self._bank.pairs:
                continue
            columns = y[:, target.col_begin : target.col_end]
            if self._ends is not None:
                add_by_groups(columns, x, *self._bank.pairs[target.name], self._bank.scale, self._ends)
            else:
                add_by_segment(columns, x, *self._bank.pairs[target.name], self._bank.scale, self._segments)
        return y


def cublas(rig: Rig, step: Step, bank: Bank | None = None, *, groups: bool = False) -> CublasForward:
    """A step of a rig by cuBLAS."""
    return CublasForward(rig.model, rig.adapters, step.tensors, bank, step.segments, groups=groups)


def reason(error: Any) -> str:
    """An error in short."""
    return f"{type(error).__name__}: {str(error)[:300]}"
