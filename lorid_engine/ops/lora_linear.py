"""lora_linear: a linear layer and the adapters of its rows, forward in one accumulator, and backward segment by segment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from lorid_engine.errors import ShapeError
from lorid_engine.ops import cpu, gpu, plain_torch
from lorid_engine.ops.adapter_bank import AdapterBank, lists_of
from lorid_engine.ops.checks import (
    check_modules,
    expect_contiguous,
    expect_device,
    expect_dtype,
    expect_floating,
    expect_rows,
    expect_shape,
)
from lorid_engine.ops.dispatch import op
from lorid_engine.ops.lora_dropout import LoraDropout
from lorid_engine.ops.lora_dropout import check as check_dropout
from lorid_engine.ops.lora_products import Module, modules_of
from lorid_engine.ops.pack_linear import PackedLinear, packed_shape, unpack
from lorid_engine.ops.prepared import PreparedLora, extension_call
from lorid_engine.ops.segment_plan import SegmentPlan


def _check(
    x,
    weight,
    out_features,
    a,
    b_t,
    rank_offset,
    scale,
    max_rank,
    col_begin,
    seg_offset,
    seg_slot,
    bias,
    dropout_key,
    dropout_module,
    dropout_p,
) -> None:
    expect_shape("x", x, None, None)
    expect_floating("x", x)
    expect_rows("x", x)
    expect_dtype("weight", weight, x.dtype)
    expect_contiguous("weight", weight)
    plain, packed = (out_features, x.shape[1]), packed_shape(x.dtype, out_features, x.shape[1])
    if tuple(weight.shape) not in (plain, packed):
        raise ShapeError(f"weight must be [O, I] = {list(plain)} or packed as {list(packed)}; got {list(weight.shape)}")
    expect_device(x, weight=weight)
    modules = (a, b_t, rank_offset, scale, max_rank, col_begin)
    check_modules("lora_linear", x, out_features, *modules, seg_offset, seg_slot)
    if bias is not None:
        expect_shape("bias", bias, out_features)
        expect_dtype("bias", bias, torch.float64 if x.dtype == torch.float64 else torch.float32)
        expect_contiguous("bias", bias)
        expect_device(x, bias=bias)
    if len(dropout_module) != len(a):
        raise ShapeError(f"dropout needs a number for each of {len(a)} modules; got {len(dropout_module)}")
    if dropout_key is not None:
        for module in dropout_module:
            check_dropout(x, dropout_key, module, dropout_p)


def _fake(x, weight, out_features, *_) -> torch.Tensor:
    return x.new_empty(x.shape[0], out_features)


@op(check=_check, fake=_fake)
def _lora_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    out_features: int,
    a: list[torch.Tensor],
    b_t: list[torch.Tensor],
    rank_offset: list[torch.Tensor],
    scale: list[torch.Tensor],
    max_rank: list[int],
    col_begin: list[int],
    seg_offset: torch.Tensor,
    seg_slot: torch.Tensor,
    bias: torch.Tensor | None,
    dropout_key: torch.Tensor | None,
    dropout_module: list[int],
    dropout_p: float,
) -> torch.Tensor:
    """lora_linear over the tensors of a weight, of its modules' banks, of a plan and a dropout."""
    y = x.double() @ unpack(weight, out_features, x.shape[1]).double().t()
    if bias is not None:
        y += bias.double()
    a, b_t = ([tensor.double() for tensor in each] for each in (a, b_t))
    modules = modules_of(x.double(), a, b_t, rank_offset, scale, col_begin, dropout_key, dropout_module, dropout_p)
    for module in modules:
        module.add_shares(y, seg_offset, seg_slot)
    return y.to(x.dtype)


def _why_not_triton(
    x,
    weight,
    out_features,
    a,
    b_t,
    rank_offset,
    scale,
    max_rank,
    col_begin,
    seg_offset,
    seg_slot,
    bias,
    dropout_key,
    *_,
) -> str | None:
    if weight.dim() != 2:
        return "it takes a plain [O, I] weight; got a packed one"
    if any(tensor.device != x.device for tensor in (seg_offset, seg_slot, *rank_offset, *scale)):
        return f"it takes the plan and the bank's tables on {x.device}, where its kernels read them"
    return _why_not_modules(out_features, b_t, dropout_key) or gpu.why_not_tensors(x, weight, a[0])


def _why_not_modules(out_features, b_t, dropout_key) -> str | None:
    if dropout_key is not None:
        return "it has no dropout"
    if len(b_t) != 1 or b_t[0].shape[1] != out_features:
        return "it takes one module, as wide as the weight"
    return None


@_lora_linear.backend("triton", why_not=_why_not_triton)
def _triton(
    x, weight, out_features, a, b_t, rank_offset, scale, max_rank, col_begin, seg_offset, seg_slot, bias, *_
) -> torch.Tensor:
    from lorid_kernels.lora_linear import lora_linear as launch
    from lorid_kernels.lora_shrink import shrink_for_linear
    from lorid_kernels.segments import Adapters, Segments

    y = x.new_empty(x.shape[0], out_features)
    if max_rank[0] == 0:
        launch(x, weight, bias, y)
        return y
    adapters = Adapters(a[0], b_t[0], rank_offset[0], scale[0], (out_features,), max_rank[0])
    segments = Segments(seg_offset, seg_slot)
    shrunk = shrink_for_linear(x, adapters, segments)
    launch(x, weight, bias, y, adapters, segments, shrunk, follows_shrink=True)
    return y


def _why_not_torch(x: torch.Tensor, weight: torch.Tensor) -> str | None:
    if weight.dim() != 2:
        return "it takes a plain [O, I] weight; got a packed one"
    return plain_torch.why_not_tensors(x)


@_lora_linear.backend("torch", why_not=lambda x, weight, *_: _why_not_torch(x, weight))
def _torch(
    x,
    weight,
    out_features,
    a,
    b_t,
    rank_offset,
    scale,
    max_rank,
    col_begin,
    seg_offset,
    seg_slot,
    bias,
    dropout_key,
    dropout_module,
    dropout_p,
) -> torch.Tensor:
    y = torch.nn.functional.linear(x, weight, None if bias is None else bias.to(x.dtype))
    for module in modules_of(x, a, b_t, rank_offset, scale, col_begin, dropout_key, dropout_module, dropout_p):
        module.add_shares(y, seg_offset, seg_slot)
    return y


def _why_not(
    x,
    weight,
    out_features,
    a,
    b_t,
    rank_offset,
    scale,
    max_rank,
    col_begin,
    seg_offset,
    seg_slot,
    bias,
    dropout_key,
    *_,
) -> str | None:
    if weight.dim() == 2:
        return "it takes weights from pack_linear; got a plain [O, I]"
    if x.shape[1] == 0:
        return "it takes no weights without inputs"
    return _why_not_modules(out_features, b_t, dropout_key) or cpu.why_not_tensors(x, weight, a[0])


@_lora_linear.backend("cpu", why_not=_why_not)
def _cpu(
    x, weight, out_features, a, b_t, rank_offset, scale, max_rank, col_begin, seg_offset, seg_slot, bias, *_
) -> torch.Tensor:
    y = x.new_empty(x.shape[0], out_features)
    call = extension_call(a, b_t, rank_offset, scale, max_rank, [0], weight, bias)
    plan = cpu.segments(x.shape[0], seg_offset, seg_slot)
    call.run(x.data_ptr(), x.stride(0), y.data_ptr(), out_features, out_features, plan, cpu.op_threads())
    return y


def _check_backward(dy, x, *_) -> None:
    expect_shape("dy", dy, x.shape[0], None)
    expect_dtype("dy", dy, x.dtype)
    expect_device(x, dy=dy)


def _fake_backward(dy, x, weight, a, b_t, *_) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    return (
        x.new_empty(x.shape),
        [each.new_empty(each.shape) for each in a],
        [each.new_empty(each.shape) for each in b_t],
    )


@op(check=_check_backward, fake=_fake_backward)
def _lora_linear_backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    a: list[torch.Tensor],
    b_t: list[torch.Tensor],
    rank_offset: list[torch.Tensor],
    scale: list[torch.Tensor],
    col_begin: list[int],
    seg_offset: torch.Tensor,
    seg_slot: torch.Tensor,
    dropout_key: torch.Tensor | None,
    dropout_module: list[int],
    dropout_p: float,
    needs_dx: bool,
) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """dx, da and db_t of lora_linear; dx is zero where it is not needed."""
    a, b_t = ([tensor.double() for tensor in each] for each in (a, b_t))
    modules = modules_of(x.double(), a, b_t, rank_offset, scale, col_begin, dropout_key, dropout_module, dropout_p)
    plain = unpack(weight, dy.shape[1], x.shape[1]).double()
    dx, da, db_t = _gradients(dy.double(), plain, modules, seg_offset, seg_slot, needs_dx)
    da, db_t = ([tensor.to(x.dtype) for tensor in each] for each in (da, db_t))
    return x.new_zeros(x.shape) if dx is None else dx.to(x.dtype), da, db_t


def _gradients(
    dy: torch.Tensor,
    weight: torch.Tensor,
    modules: Iterable[Module],
    seg_offset: torch.Tensor,
    seg_slot: torch.Tensor,
    needs_dx: bool,
) -> tuple[torch.Tensor | None, list[torch.Tensor], list[torch.Tensor]]:
    dx = dy @ weight if needs_dx else None
    pairs = [module.gradients(dy, dx, seg_offset, seg_slot) for module in modules]
    return dx, [da for da, _ in pairs], [db_t for _, db_t in pairs]


@_lora_linear_backward.backend("torch", why_not=lambda dy, x, weight, *_: _why_not_torch(x, weight))
def _torch_backward(
    dy,
    x,
    weight,
    a,
    b_t,
    rank_offset,
    scale,
    col_begin,
    seg_offset,
    seg_slot,
    dropout_key,
    dropout_module,
    dropout_p,
    needs_dx,
) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    modules = modules_of(x, a, b_t, rank_offset, scale, col_begin, dropout_key, dropout_module, dropout_p)
    dx, da, db_t = _gradients(dy, weight, modules, seg_offset, seg_slot, needs_dx)
    return x.new_zeros(x.shape) if dx is None else dx, da, db_t


def _save(ctx, inputs, output) -> None:
    x, weight, _, a, b_t, rank_offset, scale, _, ctx.col_begin, seg_offset, seg_slot, bias, key, *ctx.dropout = inputs
    for name, tensor in (("weight", weight), ("bias", bias), *(("scale", each) for each in scale)):
        if tensor is not None and tensor.requires_grad:
            raise ShapeError(f"lora_linear has no gradient for its {name}, which must not require one")
    ctx.count = len(a)
    ctx.save_for_backward(x, weight, *a, *b_t, *rank_offset, *scale, seg_offset, seg_slot, key)


def _backward(ctx, dy):
    x, weight, *banks, seg_offset, seg_slot, key = ctx.saved_tensors
    lists = [banks[start : start + ctx.count] for start in range(0, 4 * ctx.count, ctx.count)]
    needs_dx = ctx.needs_input_grad[0]
    segments = (ctx.col_begin, seg_offset, seg_slot)
    dx, da, db_t = _lora_linear_backward(dy.contiguous(), x, weight, *lists, *segments, key, *ctx.dropout, needs_dx)
    return dx if needs_dx else None, None, None, da, db_t, [None] * ctx.count, [None] * ctx.count, *[None] * 8


_lora_linear.differentiable(_backward, _save)


def lora_linear(
    x: torch.Tensor,
    weight: PackedLinear,
    bank: AdapterBank,
    plan: SegmentPlan,
    dropout: LoraDropout | None = None,
) -> torch.Tensor:
    """A linear layer with each row's own adapter (Hu et al., LoRA, arXiv 2106.09685), rounded once.

        y[t] = W x[t] + bias + scale_n B_n (A_n x[t])    with n the slot of row t
        y[t] = W x[t] + bias, bit for bit                where n is -1

    Args:
        x: [T, I] activations; rows may be strided, the last dimension is contiguous.
        weight: W [O, I] and perhaps a bias from pack_linear, in x's dtype; or a plain one, which training needs.
        bank: N slots for this layer, in x's dtype.
        plan: segments that cover the T rows. With x on a GPU, torch's backend reads the plan, and the bank's rank_offset and
            scale: on the CPU they make it wait for nothing.
        dropout: of A's input, in training; plain weights only.

    Returns:
        [T, O] in x's dtype, summed in float32. With a packed weight a row's bits do not depend on the other rows. A plain one is
        multiplied by torch, which promises no such thing, and in 16 bits W x and the bias are rounded before the adapters' shares are added.
        Gradients go to x and to the bank's a and b_t, never to W, bias or scale.

    Raises:
        ShapeError: shapes, dtypes or devices disagree.
    """
    expect_shape("b_t", bank.b_t, bank.a.shape[0], weight.out_features)
    drop = None if dropout is None else (dropout.p, dropout.key, [dropout.module])
    return lora_fused_linear(x, weight, [(0, bank)], plan, drop)


def lora_fused_linear(
    x: torch.Tensor,
    weight: PackedLinear,
    banks: Sequence[tuple[int, AdapterBank]],
    plan: SegmentPlan,
    dropout: tuple[float, torch.Tensor, Sequence[int]] | None = None,
) -> torch.Tensor:
    """lora_linear for modules that read the same input, such as q, k and v, whose weights are rows of one.

    Args:
        x, weight, plan: as in lora_linear; the weight is plain unless there is one bank that is as wide as it.
        banks: (first column of the module, its bank), all of as many slots; modules without adapters are left out.
        dropout: (p, key [T], a number for each bank), as in LoraDropout.

    Returns:
        [T, O], as lora_linear.

    Raises:
        ShapeError: shapes, dtypes or devices disagree.
    """
    if x.dim() == 2 and x.shape[1] != weight.in_features:
        raise ShapeError(f"x must have shape [T, {weight.in_features}]; got {list(x.shape)}")
    p, key, modules = dropout or (0.0, None, [0] * len(banks))
    return _lora_linear(
        x,
        weight.data,
        weight.out_features,
        *lists_of(banks),
        plan.seg_offset,
        plan.seg_slot,
        weight.bias,
        key,
        list(modules),
        p,
    )


class LoraLinear:
    """lora_linear for a weight and a bank that stay as they are: they are checked once, so that on the CPU, under torch.no_grad() or
    inference_mode(), a call takes a fraction of the time in Python. LORID_THREADS is read once, too. Values may change in place; sizes
    and storage must not.

    Args:
        weight, bank: as in lora_linear; only with a packed weight is it faster.

    Raises:
        ShapeError: their sizes, dtypes or devices disagree.
        BackendUnavailableError: the backend that was asked for cannot take them.
    """

    def __init__(self, weight: PackedLinear, bank: AdapterBank) -> None:
        self._weight, self._bank = weight, bank
        no_rows = SegmentPlan.from_slots([], device=bank.a.device)
        lora_linear(bank.a.new_empty(0, weight.in_features), weight, bank, no_rows)  # for its checks
        self._prepared = PreparedLora.of([(0, bank)], weight)

    def __reduce__(self) -> tuple[type[LoraLinear], tuple[Any, ...]]:
        return LoraLinear, (self._weight, self._bank)

    def __call__(self, x: torch.Tensor, plan: SegmentPlan) -> torch.Tensor:
        """lora_linear(x, weight, bank, plan)."""
        prepared = self._prepared
        if prepared is not None and prepared.takes(x, plan):
            y = x.new_empty(x.shape[0], self._weight.out_features)
            if prepared.run(y, x, plan):
                return y
        return lora_linear(x, self._weight, self._bank, plan)
