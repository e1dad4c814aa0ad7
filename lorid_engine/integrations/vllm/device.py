"""The adapters' shares on a GPU from tables that recorded graphs read: an op that torch.compile and CUDA graphs take as it is."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lorid_engine.errors import ShapeError
from lorid_engine.integrations.vllm.slots import used_ranks
from lorid_engine.ops.checks import expect_contiguous, expect_dtype, expect_rows, expect_shape

_ELEMENTS = 16  # the kernels' offsets count so many elements
_MOST_MODULES = 3  # that one launch takes


class DeviceRows:
    """The rows of the coming step in the order of their slots, in tensors that stay where they are.

    Args:
        num_slots: N.
        max_rows: of a step.
    """

    def __init__(self, num_slots: int, max_rows: int, device: torch.device | str) -> None:
        self.order = torch.arange(max_rows, device=device)
        self.seg_offset = torch.zeros(num_slots + 1, dtype=torch.int32, device=device)
        self.seg_slot = torch.arange(num_slots, dtype=torch.int32, device=device)

    def set(self, slots: torch.Tensor) -> None:
        """Takes the slot of each of the first rows, int64 [T'] on the device, -1 for the base; nothing waits for the device."""
        base_last = torch.where(slots < 0, self.seg_slot.numel(), slots)
        grouped, order = base_last.sort(stable=True)
        count = slots.numel()
        self.order[:count].copy_(order)
        self.order[count:].copy_(torch.arange(count, self.order.numel(), device=slots.device))
        bounds = torch.arange(self.seg_offset.numel(), device=slots.device)
        self.seg_offset.copy_(torch.searchsorted(grouped, bounds))


@dataclass(frozen=True)
class _Layer:
    """One layer's tables: module m's slot n has its A at a[m, n] and its B transposed at b_t[m, n], in 16 elements from the anchor."""

    a: list[torch.Tensor]
    b: list[torch.Tensor]
    b_t: list[torch.Tensor]
    tables: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]  # a, b_t, rank, scale

    @classmethod
    def of(cls, a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> _Layer:
        a, b = [each[:, 0] for each in a], [each[:, 0] for each in b]
        for name, tensor in (*(("lora_a_stacked", each) for each in a), *(("lora_b_stacked", each) for each in b)):
            expect_contiguous(name, tensor)
        shape, anchor = (len(a), a[0].shape[0]), a[0]
        b_t = [each.new_zeros(each.shape[0], _up(each.shape[1] * each.shape[2])) for each in b]
        at = [[_offset(each[n], anchor) for n in range(shape[1])] for each in a]
        b_at = [[_offset(each[n], anchor) for n in range(shape[1])] for each in b_t]
        rank = torch.zeros(shape, dtype=torch.int32, device=anchor.device)
        scale = torch.ones(shape, dtype=torch.float32, device=anchor.device)
        a_at, b_t_at = (torch.tensor(each, dtype=torch.int64, device=anchor.device) for each in (at, b_at))
        layer = cls(a, b, b_t, (a_at, b_t_at, rank, scale))
        layer.refresh()
        return layer

    def refresh(self) -> None:
        """Takes over what the slots hold now, in place."""
        for m, (a, b, b_t) in enumerate(zip(self.a, self.b, self.b_t, strict=True)):
            slots, columns, ranks = b.shape
            b_t[:, : columns * ranks].view(slots, ranks, columns).copy_(b.transpose(1, 2))
            self.tables[2][m].copy_(used_ranks(a, b))


def _up(elements: int) -> int:
    return -(-elements // _ELEMENTS) * _ELEMENTS


def _offset(tensor: torch.Tensor, anchor: torch.Tensor) -> int:
    """How many times 16 elements a tensor lies after the anchor."""
    steps, rest = divmod(tensor.data_ptr() - anchor.data_ptr(), _ELEMENTS * tensor.element_size())
    if rest or anchor.data_ptr() % 16:
        raise ShapeError(
            f"an adapter of shape {list(tensor.shape)} does not begin at a multiple of {_ELEMENTS} elements: "
            "its rank times its features must be one"
        )
    return steps


_layers: dict[int, _Layer] = {}  # by the address of the first A, as long as the module lives that holds it
_modules: weakref.WeakSet[Any] = weakref.WeakSet()


def refresh_layers(modules: Iterable[Any]) -> None:
    """Has all layers take over what their slots hold, once an adapter has changed.

    Args:
        modules: vLLM's LoRA layers; those with lora_a_stacked own the tables of these tensors.
    """
    for module in modules:
        stacked = getattr(module, "lora_a_stacked", None)
        if isinstance(stacked, tuple) and module not in _modules:
            _modules.add(module)
            weakref.finalize(module, _layers.pop, stacked[0].data_ptr(), None)
    for layer in [*_layers.values()]:
        layer.refresh()


@torch.library.custom_op("lorid_vllm::add_shares", mutates_args=("y",))
def add_shares(
    y: torch.Tensor,
    x: torch.Tensor,
    a: list[torch.Tensor],
    b: list[torch.Tensor],
    columns: list[int],
    order: torch.Tensor,
    seg_offset: torch.Tensor,
    seg_slot: torch.Tensor,
) -> None:
    """y += B A x of each row's slot, module by module side by side in y.

    Args:
        y: [T, sum O]. Written, but for rows of the base.
        x: [T, I].
        a, b: of each module, vLLM's [N, 1, R, I] and [N, 1, O, R].
        columns: O of each module.
        order, seg_offset, seg_slot: of DeviceRows.

    Raises:
        ShapeError: shapes or dtypes disagree.
    """
    from lorid_kernels.lora_expand import lora_expand
    from lorid_kernels.lora_shrink import shrink_summed
    from lorid_kernels.segments import Adapters, Segments

    expect_shape("x", x, None, a[0].shape[-1])
    expect_rows("x", x)
    expect_shape("y", y, x.shape[0], sum(columns))
    for name, tensor in (("lora_a_stacked", a[0]), ("lora_b_stacked", b[0])):
        expect_dtype(name, tensor, x.dtype)
    rows = x.shape[0]
    if rows > order.numel():
        raise ShapeError(f"x has {rows} rows, more than the {order.numel()} of DeviceRows")
    if rows == 0:
        return
    key = a[0].data_ptr()
    if key not in _layers:
        _layers[key] = _Layer.of(a, b)
    layer, segments = _layers[key], Segments(seg_offset, seg_slot)
    mine = order[:rows]
    # In another dtype, such as a router's float32, what is there must not be rounded on the way.
    part, taken = y[mine] if y.dtype == x.dtype else x.new_zeros(y.shape), x[mine]
    begin = 0
    for first in range(0, len(columns), _MOST_MODULES):
        modules = slice(first, min(first + _MOST_MODULES, len(columns)))
        ends = tuple(itertools.accumulate(columns[modules]))
        tables = (table[modules] for table in layer.tables)
        adapters = Adapters(*tables, ends, a[0].shape[2], anchor=layer.a[0])
        lora_expand(part[:, begin : begin + ends[-1]], shrink_summed(taken, adapters, segments), adapters, segments)
        begin += ends[-1]
    y[mine] = part if y.dtype == x.dtype else y[mine] + part.to(y.dtype)


@add_shares.register_fake
def _(y, x, a, b, columns, order, seg_offset, seg_slot) -> None:
    return None
