"""vLLM's punica wrapper on the CPU over lora_add, behind ops that torch.compile takes as they are."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from lorid_engine.integrations.vllm.slots import GroupedRows, bank_of, changes
from lorid_engine.ops import AdapterBank, LoraAdd, cpu, lora_expand


@dataclass(frozen=True)
class _Layer:
    """What the slots of a layer held when adapters had changed so often."""

    changes: int
    banks: list[tuple[int, AdapterBank]]  # of the modules that some slot has ranks in, with their first columns
    add: LoraAdd | None  # of the banks, if there are any


_wrappers: weakref.WeakValueDictionary[int, LoridPunicaWrapperCPU] = weakref.WeakValueDictionary()


class LoridPunicaWrapperCPU(PunicaWrapperCPU):
    """Linear layers, embeddings and logits by our ops; adapters that are cut among processes and float16 by vLLM's own,
    but for the rows of the base: these stay as they are."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._number = len(_wrappers)
        _wrappers[self._number] = self
        self._slots: dict[str, list[int]] = {"tokens": [], "samples": []}
        self._rows: dict[tuple[str, int], GroupedRows | None] = {}
        self._layers: dict[int, _Layer] = {}

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Takes the slots of the coming step's rows."""
        super().update_metadata(*args, **kwargs)
        self._slots = {"tokens": self.token_lora_indices.tolist(), "samples": self.sampler_indices.tolist()}
        self._rows.clear()

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **kwargs: Any,
    ) -> None:
        """y += scale B A x in the columns of each slice."""
        lists = list(lora_a_stacked), list(lora_b_stacked), list(output_slices)
        torch.ops.lorid_vllm.add_linear(y, x, *lists, scale, self._number)

    def add_lora_embedding(
        self, y: torch.Tensor, x: torch.Tensor, lora_b_stacked: torch.Tensor, *args: Any, **kwargs: Any
    ) -> None:
        """y += B x, where x are rows of A's."""
        torch.ops.lorid_vllm.add_embedding(y, x, lora_b_stacked, self._number)

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **kwargs: Any,
    ) -> None:
        """y += scale B A x, for the rows that are sampled from."""
        if cpu.why_not_tensors(x) is None:
            self._add("samples", y, x, (lora_a_stacked,), (lora_b_stacked,), (y.shape[-1],), scale)
        else:
            with self._base_rows_kept("samples", y):
                super().add_lora_logits(y, x, lora_a_stacked, lora_b_stacked, scale, **kwargs)

    def add_expand(self, y: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """vLLM's own."""
        with self._base_rows_kept("tokens", y):
            super().add_expand(y, *args, **kwargs)

    def run_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        a: Sequence[torch.Tensor],
        b: Sequence[torch.Tensor],
        columns: Sequence[int],
        scale: float,
    ) -> None:
        """What lorid_vllm.add_linear does."""
        if cpu.why_not_tensors(x) is None:
            self._add("tokens", y, x, a, b, columns, scale)
        else:
            super().add_lora_linear(y, x, tuple(a), tuple(b), scale, tuple(columns))

    def run_embedding(self, y: torch.Tensor, x: torch.Tensor, b: torch.Tensor) -> None:
        """What lorid_vllm.add_embedding does."""
        if cpu.why_not_tensors(y) is not None:
            with self._base_rows_kept("tokens", y):
                super().add_lora_embedding(y, x, b)
            return
        rows = self._grouped("tokens", x.shape[0])
        layer = self._layer_of([b.new_ones(b.shape[0], 1, b.shape[3], 1)], [b], [y.shape[1]], 1.0)
        if rows is not None and layer.banks:
            order = slice(None) if rows.order is None else rows.order
            part = y[order].contiguous()
            lora_expand(part, x[order].float(), layer.banks[0][1], rows.plan)
            y[order] = part

    def _add(
        self,
        kind: str,
        y: torch.Tensor,
        x: torch.Tensor,
        a: Sequence[torch.Tensor],
        b: Sequence[torch.Tensor],
        columns: Sequence[int],
        scale: float,
    ) -> None:
        add = self._layer_of(a, b, columns, scale).add
        if add is None:  # as for most layers of an adapter of q and v
            return
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        rows = self._grouped(kind, x.shape[0])
        if rows is None:
            return
        if rows.order is None and y.dtype == x.dtype:
            add(y, x, rows.plan)
            return
        order = slice(None) if rows.order is None else rows.order
        part = y[order].to(x.dtype)
        add(part, x[order], rows.plan)
        y[order] = part.to(y.dtype)

    def _grouped(self, kind: str, num_rows: int) -> GroupedRows | None:
        key = kind, num_rows
        if key not in self._rows:
            self._rows[key] = GroupedRows.of(self._slots[kind][:num_rows], num_rows)
        return self._rows[key]

    def _layer_of(
        self, a: Sequence[torch.Tensor], b: Sequence[torch.Tensor], columns: Sequence[int], scale: float
    ) -> _Layer:
        """What a layer's slots hold, made anew once adapters have changed."""
        key = b[0].data_ptr()
        layer = self._layers.get(key)
        if layer is None or layer.changes != changes():
            begins = itertools.accumulate(columns, initial=0)
            made = [
                (begin, bank_of(each_a[:, 0], each_b[:, 0, :width], scale))
                for begin, width, each_a, each_b in zip(begins, columns, a, b, strict=False)
            ]
            banks = [(begin, bank) for begin, bank in made if bank is not None]
            layer = self._layers[key] = _Layer(changes(), banks, LoraAdd(banks) if banks else None)
        return layer

    @contextmanager
    def _base_rows_kept(self, kind: str, y: torch.Tensor) -> Iterator[None]:
        """vLLM's CPU path adds the last slot's adapter to rows of the base."""
        rows = y.view(-1, y.shape[-1])
        base = [row for row, slot in enumerate(self._slots[kind][: len(rows)]) if slot < 0]
        kept = rows[base]
        yield
        rows[base] = kept


# Defined without torch.library.custom_op, whose calls take three times as long.
_library = torch.library.Library("lorid_vllm", "FRAGMENT")
_library.define(
    "add_linear(Tensor(a!) y, Tensor x, Tensor[] a, Tensor[] b, int[] columns, float scale, int wrapper) -> ()"
)
_library.define("add_embedding(Tensor(a!) y, Tensor x, Tensor b, int wrapper) -> ()")
for _name in ("add_linear", "add_embedding"):
    torch.library.register_fake(f"lorid_vllm::{_name}", lambda *_: None, lib=_library)


@torch.library.impl(_library, "add_linear", "CPU")
def _add_linear(y, x, a, b, columns, scale, wrapper) -> None:
    _wrappers[wrapper].run_linear(y, x, a, b, columns, scale)


@torch.library.impl(_library, "add_embedding", "CPU")
def _add_embedding(y, x, b, wrapper) -> None:
    _wrappers[wrapper].run_embedding(y, x, b)
