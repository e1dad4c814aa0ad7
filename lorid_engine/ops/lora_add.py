"""lora_add: the adapters' shares of a linear layer, added to an output that is there already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lorid_engine.errors import ShapeError
from lorid_engine.ops import cpu, gpu
from lorid_engine.ops.adapter_bank import AdapterBank, lists_of
from lorid_engine.ops.checks import (
    check_modules,
    expect_apart,
    expect_device,
    expect_dtype,
    expect_floating,
    expect_rows,
    expect_shape,
)
from lorid_engine.ops.dispatch import op
from lorid_engine.ops.lora_products import modules_of
from lorid_engine.ops.prepared import PreparedLora, extension_call
from lorid_engine.ops.segment_plan import SegmentPlan


def _check(y, x, a, b_t, rank_offset, scale, max_rank, col_begin, seg_offset, seg_slot) -> None:
    expect_shape("x", x, None, None)
    expect_floating("x", x)
    expect_rows("x", x)
    expect_shape("y", y, x.shape[0], None)
    expect_dtype("y", y, x.dtype)
    expect_rows("y", y)
    expect_apart("y", y)
    expect_device(x, y=y)
    modules = (a, b_t, rank_offset, scale, max_rank, col_begin)
    check_modules("lora_add", x, y.shape[1], *modules, seg_offset, seg_slot)


@op(check=_check, fake=lambda *_: None, mutates=("y",))
def _lora_add(
    y: torch.Tensor,
    x: torch.Tensor,
    a: list[torch.Tensor],
    b_t: list[torch.Tensor],
    rank_offset: list[torch.Tensor],
    scale: list[torch.Tensor],
    max_rank: list[int],
    col_begin: list[int],
    seg_offset: torch.Tensor,
    seg_slot: torch.Tensor,
) -> None:
    """lora_add over the tensors of modules' banks and of a plan."""
    a, b_t = ([tensor.double() for tensor in each] for each in (a, b_t))
    for module in modules_of(x.double(), a, b_t, rank_offset, scale, col_begin, None, [], 0.0):
        for factor, rows, ranks in module.segments(seg_offset, seg_slot):
            share = module.x[rows] @ module.a[ranks].t() @ module.b_t[ranks]
            y[rows, module.columns] = (y[rows, module.columns].double() + factor * share).to(y.dtype)


@_lora_add.backend("cpu", why_not=lambda y, x, *_: cpu.why_not_tensors(x))
def _cpu(y, x, a, b_t, rank_offset, scale, max_rank, col_begin, seg_offset, seg_slot) -> None:
    call = extension_call(a, b_t, rank_offset, scale, max_rank, col_begin)
    plan = cpu.segments(x.shape[0], seg_offset, seg_slot)
    call.run(x.data_ptr(), x.stride(0), y.data_ptr(), y.stride(0), y.shape[1], plan, cpu.op_threads())


def _why_not_triton(y, x, a, b_t, rank_offset, scale, max_rank, col_begin, seg_offset, seg_slot) -> str | None:
    if any(tensor.device != x.device for tensor in (seg_offset, seg_slot, *rank_offset, *scale)):
        return f"it takes the plan and the banks' tables on {x.device}, where its kernels read them"
    return gpu.why_not_tensors(x)


@_lora_add.backend("triton", why_not=_why_not_triton)
def _triton(y, x, a, b_t, rank_offset, scale, max_rank, col_begin, seg_offset, seg_slot) -> None:
    from lorid_kernels.lora_expand import lora_expand
    from lorid_kernels.lora_shrink import shrink_summed
    from lorid_kernels.segments import Adapters, Segments

    segments = Segments(seg_offset, seg_slot)
    for m, begin in enumerate(col_begin):
        if max_rank[m] == 0:
            continue
        columns = b_t[m].shape[1]
        adapters = Adapters(a[m], b_t[m], rank_offset[m], scale[m], (columns,), max_rank[m])
        lora_expand(y[:, begin : begin + columns], shrink_summed(x, adapters, segments), adapters, segments)


def lora_add(y: torch.Tensor, x: torch.Tensor, banks: Sequence[tuple[int, AdapterBank]], plan: SegmentPlan) -> None:
    """Adds each row's adapter to outputs of a linear layer in place: lora_linear for stacks that keep their own W x,
    which may be quantised.

        y[t, begin:begin + O'] += scale_n B_n (A_n x[t])    with n the slot of row t, for each module's begin and bank
        y[t] keeps its bits                                 where n is -1

    Args:
        y: [T, O] outputs of the base; rows may be strided, the last dimension is contiguous. Written.
        x: [T, I] activations in y's dtype; rows may be strided, the last dimension is contiguous.
        banks: (first column of the module, its bank [O' outputs]), such as q, k and v of one fused product; columns
            without a bank keep their bits. All have as many slots.
        plan: segments that cover the T rows.

    Each share is summed in float32 and added with one rounding. A row's bits do not depend on the other rows.

    Raises:
        ShapeError: shapes, dtypes or devices disagree.
    """
    _lora_add(y, x, *lists_of(banks), plan.seg_offset, plan.seg_slot)


class LoraAdd:
    """lora_add for banks that stay as they are: they are checked once, so that on the CPU, under torch.no_grad() or
    inference_mode(), a call takes a fraction of the time in Python. LORID_THREADS is read once, too. Values of A, B and scale may
    change in place; sizes and storage must not.

    Args:
        banks: as in lora_add.

    Raises:
        ShapeError: there is none, or their sizes, dtypes or devices disagree.
    """

    def __init__(self, banks: Sequence[tuple[int, AdapterBank]]) -> None:
        self._banks = list(banks)
        if not self._banks:
            raise ShapeError("LoraAdd needs a bank of adapters; got none")
        a = self._banks[0][1].a
        self._out_features = max(begin + bank.b_t.shape[1] for begin, bank in self._banks)
        no_rows = SegmentPlan.from_slots([], device=a.device)
        lora_add(a.new_empty(0, self._out_features), a.new_empty(0, a.shape[1]), self._banks, no_rows)  # for its checks
        self._prepared = PreparedLora.of(self._banks)

    def __reduce__(self) -> tuple[type[LoraAdd], tuple[Any, ...]]:
        return LoraAdd, (self._banks,)

    def __call__(self, y: torch.Tensor, x: torch.Tensor, plan: SegmentPlan) -> None:
        """lora_add(y, x, banks, plan)."""
        prepared = self._prepared
        if prepared is not None and prepared.takes(x, plan) and self._takes(y, x) and prepared.run(y, x, plan):
            return
        lora_add(y, x, self._banks, plan)

    def _takes(self, y: torch.Tensor, x: torch.Tensor) -> bool:
        shape = y.shape
        return (
            y.dtype is x.dtype
            and len(shape) == 2
            and shape[0] == x.shape[0]
            and shape[1] >= self._out_features
            and y.is_contiguous()
            and y.is_cpu
            and type(y) is torch.Tensor
        )
