"""PreparedLora: the C++ backend's calls for weights and banks that stay as they are, without an op's checks at each call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lorid_engine import env
from lorid_engine.ops import cpu
from lorid_engine.ops.adapter_bank import AdapterBank, lists_of
from lorid_engine.ops.asked import asked_backend
from lorid_engine.ops.dispatch import is_watched
from lorid_engine.ops.pack_linear import PackedLinear
from lorid_engine.ops.segment_plan import SegmentPlan


def extension_call(
    a: list[torch.Tensor],
    b_t: list[torch.Tensor],
    rank_offset: list[torch.Tensor],
    scale: list[torch.Tensor],
    max_rank: list[int],
    col_begin: list[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> Any:
    """The extension's PreparedLora over the addresses of modules' banks, as lists_of has them, and of a packed weight. The tensors
    must outlive it."""
    module = cpu.extension().LoraModule
    modules = [
        module(
            a=a[m].data_ptr(),
            b_t=b_t[m].data_ptr(),
            rank_offset=rank_offset[m].data_ptr(),
            scale=scale[m].data_ptr(),
            num_slots=scale[m].numel(),
            max_rank=max_rank[m],
            col_begin=col_begin[m],
            columns=b_t[m].shape[1],
        )
        for m in range(len(a))
    ]
    return cpu.extension().PreparedLora(
        dtype=cpu.dtype(a[0]),
        in_features=a[0].shape[1],
        modules=modules,
        weight=0 if weight is None else weight.data_ptr(),
        bias=0 if bias is None else bias.data_ptr(),
    )


class PreparedLora:
    """What lora_add, or lora_linear with a packed weight, does on the CPU. What is wrong with arguments is for these to say.

    Args:
        banks: of the modules, with their first columns; they fit each other.
        weight: packed; None = the shares are added to what is in y.
    """

    def __init__(self, banks: Sequence[tuple[int, AdapterBank]], weight: PackedLinear | None) -> None:
        self._banks, self._weight = banks, weight
        self._dtype, self._in_features = banks[0][1].a.dtype, banks[0][1].a.shape[1]
        self._threads = env.threads() or 0
        self._segments = cpu.extension().Segments
        self._call: Any = None

    def _prepare(self) -> None:
        """At the first call that torch need not see: before, tensors may be no memory."""

        def held(value: Any) -> Any:  # an alias, so that the storage stays whatever becomes of the caller's tensor
            return value.detach() if isinstance(value, torch.Tensor) else value

        a, b_t, rank_offset, scale, max_rank, col_begin = (
            [held(each) for each in values] for values in lists_of(self._banks)
        )
        data, bias = (None, None) if self._weight is None else (held(self._weight.data), held(self._weight.bias))
        self._held = a, b_t, rank_offset, scale, data, bias
        self._call = extension_call(a, b_t, rank_offset, scale, max_rank, col_begin, data, bias)

    @classmethod
    def of(cls, banks: Sequence[tuple[int, AdapterBank]], weight: PackedLinear | None = None) -> PreparedLora | None:
        """None where the ops would not use the C++ backend."""
        tensors = [each for _, bank in banks for each in (bank.a, bank.b_t, bank.rank_offset, bank.scale)]
        tensors += [] if weight is None else [weight.data]
        plain = all(type(each) in (torch.Tensor, torch.nn.Parameter) for each in tensors)
        if not plain or cpu.why_not_tensors(*(each for each in tensors if each.is_floating_point())):
            return None
        if weight is not None and (weight.data.dim() == 2 or weight.in_features == 0):
            return None
        return cls(banks, weight)

    def takes(self, x: torch.Tensor, plan: SegmentPlan) -> bool:
        """Whether x [T, I] and a plan are what the op would pass on to the C++ backend."""
        if is_watched():
            return False
        if self._call is None:
            self._prepare()
        shape, offset, slot = x.shape, plan.seg_offset, plan.seg_slot
        return (
            x.dtype is self._dtype
            and len(shape) == 2
            and shape[1] == self._in_features
            and x.is_contiguous()
            and x.is_cpu
            and offset.dtype is slot.dtype is torch.int32
            and offset.numel() == slot.numel() + 1
            and offset.is_contiguous()
            and slot.is_contiguous()
            and offset.is_cpu
            and slot.is_cpu
            and not torch.is_grad_enabled()
            and type(x) is torch.Tensor
            and asked_backend() in (None, "cpu")
        )

    def run(self, y: torch.Tensor, x: torch.Tensor, plan: SegmentPlan) -> bool:
        """Writes y [T, O], contiguous, from x and a plan that it takes; False, and nothing is written, where the plan or changed
        ranks do not fit."""
        offset, slot, columns = plan.seg_offset, plan.seg_slot, y.shape[1]
        segments = self._segments(rows=x.shape[0], count=slot.numel(), offset=offset.data_ptr(), slot=slot.data_ptr())
        try:
            self._call.run(x.data_ptr(), self._in_features, y.data_ptr(), columns, columns, segments, self._threads)
        except ValueError:
            return False
        return True
