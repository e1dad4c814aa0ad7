"""DeviceAdapters: what the adapter slots hold on a device, as tables that the kernels look their matrices up in.

Loading and unloading change the tables' contents, never their addresses, so that a recorded step sees them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from lorid_engine.model.adapter_form import is_merged
from lorid_engine.model.llama import FusedLinear, LlamaWeights
from lorid_engine.ops.peft_adapter import LoraWeights

_UNIT = 16  # elements that the tables count in
LOW_RANK, HIGH_RANK = 64, 512


@dataclass(frozen=True)
class Kind:
    """What adapters are there, as far as kernels are chosen by it.

    Attributes:
        max_rank: the largest rank that there is room for.
        has_merged: whether any module is merged into a copy of its weight.
        adapted: the fused linears, by their place in a layer, that some adapter has matrices for, in whatever layer.
    """

    max_rank: int
    has_merged: bool
    adapted: frozenset[str]


@dataclass(frozen=True)
class _Held:
    """A slot's matrices, their largest rank, and the rest as in Kind."""

    memory: torch.Tensor
    rank: int
    has_merged: bool
    adapted: frozenset[str]


@dataclass(frozen=True)
class _Place:
    """Where a module's entries lie: its fused linear's tables, and its number there."""

    linear: FusedLinear
    tables: Any
    module: int


class DeviceAdapters:
    """The slots of a model's adapters on one device.

    Args:
        weights: the model's, which say what can be adapted.
        num_slots: N.
        active_adapters: how many of them a step is expected to use; see model.adapter_form.
    """

    def __init__(
        self, weights: LlamaWeights, dtype: torch.dtype, device: torch.device, num_slots: int, active_adapters: int
    ) -> None:
        from lorid_kernels.segments import Adapters

        self._dtype, self._device, self._active_adapters = dtype, device, active_adapters
        self._anchor = torch.empty(_UNIT, dtype=dtype, device=device)
        self._held: dict[int, _Held] = {}
        self._update_kind()
        self._places: dict[str, _Place] = {}
        self._tables: dict[str, Adapters] = {}
        for linear in _adaptable(weights):
            count = len(linear.targets)

            def table(dtype: torch.dtype, count: int = count) -> torch.Tensor:
                return torch.zeros(count, num_slots, dtype=dtype, device=device)

            tables = Adapters(
                a=table(torch.int64),
                b_t=table(torch.int64),
                rank=table(torch.int32),
                scale=table(torch.float32),
                column_ends=tuple(target.col_end for target in linear.targets),
                max_rank=HIGH_RANK,
                merged=table(torch.int64),
                anchor=self._anchor,
            )
            self._tables[linear.targets[0].name] = tables
            for module, target in enumerate(linear.targets):
                self._places[target.name] = _Place(linear, tables, module)

    def _update_kind(self) -> None:
        most = max((held.rank for held in self._held.values()), default=0)
        has_merged = any(held.has_merged for held in self._held.values())
        adapted = frozenset().union(*(held.adapted for held in self._held.values()))
        self.kind = Kind(room_for(most), has_merged, adapted)  # what a recorded step depends on beside the tables

    def of(self, linear: FusedLinear) -> Any:
        """A fused linear's tables for the kernels; None where no slot adapts its kind."""
        kind = self.kind
        if not linear.targets or _place_in_layer(linear) not in kind.adapted:
            return None
        tables = self._tables[linear.targets[0].name]
        return replace(tables, max_rank=kind.max_rank, merged=tables.merged if kind.has_merged else None)

    def load(self, slot: int, modules: Mapping[str, LoraWeights]) -> None:
        """Fills a slot; what was there is let go.

        Raises:
            torch.OutOfMemoryError: there is no memory for it; the slot is then empty.
        """
        self.unload(slot)
        given = {name: lora for name, lora in modules.items() if lora.a.shape[0]}
        merged = {name for name, lora in given.items() if self._is_merged(name, lora)}
        shapes = [shape for name, lora in given.items() for shape in self._shapes(name, lora, name in merged)]
        memory = torch.zeros(sum(map(_padded, shapes)), dtype=self._dtype, device=self._device)
        pieces = iter(_cut(memory, shapes))
        for name, lora in given.items():
            self._fill(self._places[name], slot, lora, pieces, name in merged)
        rank = max((lora.a.shape[0] for name, lora in given.items() if name not in merged), default=0)
        adapted = frozenset(_place_in_layer(self._places[name].linear) for name in given)
        self._held[slot] = _Held(memory, rank, bool(merged), adapted)
        self._update_kind()

    def unload(self, slot: int) -> None:
        """Empties a slot; no sequence may use it."""
        for tables in self._tables.values():
            for table in (tables.rank, tables.merged):
                table[:, slot] = 0
        self._held.pop(slot, None)
        self._update_kind()

    def _is_merged(self, name: str, lora: LoraWeights) -> bool:
        rank, in_features = lora.a.shape
        return is_merged(lora.b.shape[0], in_features, rank, self._active_adapters)

    def _shapes(self, name: str, lora: LoraWeights, merged: bool) -> list[tuple[int, int]]:
        if merged:
            return [(lora.b.shape[0], lora.a.shape[1])]
        return [(lora.a.shape[0], lora.a.shape[1]), (lora.b.shape[1], lora.b.shape[0])]

    def _fill(self, place: _Place, slot: int, lora: LoraWeights, pieces: Iterator[torch.Tensor], merged: bool) -> None:
        tables, module = place.tables, place.module
        if merged:
            target = place.linear.targets[module]
            copy = next(pieces)
            base = place.linear.weight.data[target.col_begin : target.col_end].double()
            share = lora.b.to(self._device).double() @ lora.a.to(self._device).double()
            copy.copy_(base.add_(share, alpha=lora.scale))
            tables.merged[module, slot] = self._offset(copy)
            return
        a, b_t = next(pieces), next(pieces)
        a.copy_(lora.a)
        b_t.copy_(lora.b.t())
        tables.a[module, slot] = self._offset(a)
        tables.b_t[module, slot] = self._offset(b_t)
        tables.scale[module, slot] = lora.scale
        tables.rank[module, slot] = lora.a.shape[0]

    def _offset(self, tensor: torch.Tensor) -> int:
        offset, rest = divmod(tensor.data_ptr() - self._anchor.data_ptr(), _UNIT * tensor.element_size())
        assert rest == 0, "device memory is aligned to far more than 16 elements"
        return offset


def room_for(rank: int) -> int:
    """The ranks that kernels have room for where the largest is this one: few sizes, so that few steps are recorded."""
    return LOW_RANK if rank <= LOW_RANK else -(-rank // HIGH_RANK) * HIGH_RANK


def _adaptable(weights: LlamaWeights) -> Iterable[FusedLinear]:
    for layer in weights.layers:
        yield from (layer.qkv, layer.output, layer.gate_up, layer.down)


def _place_in_layer(linear: FusedLinear) -> str:
    return linear.targets[0].name.split(".", 2)[2]


def _padded(shape: tuple[int, int]) -> int:
    return -(-shape[0] * shape[1] // 256) * 256


def _cut(memory: torch.Tensor, shapes: list[tuple[int, int]]) -> Iterator[torch.Tensor]:
    begin = 0
    for shape in shapes:
        yield memory[begin : begin + shape[0] * shape[1]].view(shape)
        begin += _padded(shape)
