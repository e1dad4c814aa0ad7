"""vLLM's punica wrapper on the CPU over LoraAdd, behind ops that torch.compile takes as they are."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from lorid_engine.integrations.vllm.slots import GroupedRows, bank_of
from lorid_engine.ops import AdapterBank, LoraAdd, cpu, lora_expand


class LoridPunicaWrapperCPU(PunicaWrapperCPU):
    """Linear layers, embeddings and logits by our ops; adapters that are cut among processes and float16 by vLLM's own,
    but for the rows of the base: these stay as they are."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._slots: dict[str, list[int]] = {"tokens": [], "samples": []}
        self._rows: dict[tuple[str, int], GroupedRows | None] = {}

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Takes the slots of the coming step's rows."""
        super().update_metadata(*args, **kwargs)
        self._slots = {"tokens": self.token_lora_indices.tolist(), "samples": self.sampler_indices.tolist()}
        self._rows.clear()

    def take_slots(self, modules: Iterable[Any]) -> None:
        """Takes over what the slots of vLLM's LoRA layers hold now."""
        for module in modules:
            if module.punica_wrapper is not self or not hasattr(module, "lora_b_stacked"):
                continue
            a, b = module.lora_a_stacked, module.lora_b_stacked
            if isinstance(b, list):  # experts, which vLLM does not adapt on the CPU
                continue
            if isinstance(b, tuple):
                if a[0].shape[2] != b[0].shape[3]:  # cut among processes: vLLM's own
                    continue
                layer = _Layer(self, a, b, module.output_slices)
            elif a.dim() == b.dim():
                layer = _Layer(self, (a,), (b,), (b.shape[2],))
            else:  # an embedding, whose A is looked up: its ranks are B's
                layer = _Layer(self, (b.new_ones(b.shape[0], 1, b.shape[3], 1),), (b,), (b.shape[2],))
            key = layer.b[0].data_ptr()
            if key not in _layers:
                weakref.finalize(module, _layers.pop, key, None)
            _layers[key] = layer

    def add_lora_linear(
        self, y: torch.Tensor, x: torch.Tensor, lora_a_stacked: Any, lora_b_stacked: Any, *args: Any, **kwargs: Any
    ) -> None:
        """y += B A x in the columns of each slice; vLLM's scale is 1, its B has the adapter's in it."""
        torch.ops.lorid_vllm.add_linear(y, x, lora_b_stacked[0])

    def add_lora_embedding(
        self, y: torch.Tensor, x: torch.Tensor, lora_b_stacked: torch.Tensor, *args: Any, **kwargs: Any
    ) -> None:
        """y += B x, where x are rows of A's."""
        torch.ops.lorid_vllm.add_embedding(y, x, lora_b_stacked)

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """y += B A x, for the rows that are sampled from."""
        layer = _layers.get(lora_b_stacked.data_ptr())
        if layer is None or layer.takes(x):
            _add_linear(y, x, lora_b_stacked, "samples")
        else:
            with self.base_rows_kept("samples", y):
                super().add_lora_logits(y, x, lora_a_stacked, lora_b_stacked, *args, **kwargs)

    def add_expand(self, y: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """vLLM's own."""
        with self.base_rows_kept("tokens", y):
            super().add_expand(y, *args, **kwargs)

    def add_vllms_linear(self, y: torch.Tensor, x: torch.Tensor, layer: _Layer) -> None:
        """vLLM's own add_lora_linear, over add_expand."""
        super().add_lora_linear(y, x, layer.a, layer.b, 1.0, layer.columns)

    def add_vllms_embedding(self, y: torch.Tensor, x: torch.Tensor, layer: _Layer) -> None:
        """vLLM's own add_lora_embedding."""
        with self.base_rows_kept("tokens", y):
            super().add_lora_embedding(y, x, layer.b[0])

    def rows(self, kind: str, num_rows: int) -> GroupedRows | None:
        """The "tokens" or "samples" of the step that have adapters."""
        key = kind, num_rows
        if key not in self._rows:
            self._rows[key] = GroupedRows.of(self._slots[kind][:num_rows], num_rows)
        return self._rows[key]

    @contextmanager
    def base_rows_kept(self, kind: str, y: torch.Tensor) -> Iterator[None]:
        """vLLM's CPU path adds the last slot's adapter to rows of the base."""
        rows = y.view(-1, y.shape[-1])
        base = [row for row, slot in enumerate(self._slots[kind][: len(rows)]) if slot < 0]
        kept = rows[base]
        yield
        rows[base] = kept


class _Layer:
    """What the slots of one of vLLM's layers hold, from its first use on: several adapters may come before a step.

    Attributes:
        dtype_is_ours: whether the C++ backend takes the layer's dtype.
    """

    def __init__(
        self,
        wrapper: LoridPunicaWrapperCPU,
        a: Sequence[torch.Tensor],
        b: Sequence[torch.Tensor],
        columns: Sequence[int],
    ) -> None:
        self.wrapper, self.a, self.b, self.columns = wrapper, tuple(a), tuple(b), tuple(columns)
        self.dtype_is_ours = cpu.why_not_tensors(*self.a, *self.b) is None

    @cached_property
    def banks(self) -> list[tuple[int, AdapterBank]]:
        """Of the modules that some slot has ranks in, each with its first column."""
        begins = itertools.accumulate(self.columns, initial=0)
        banks = [(begin, bank_of(a[:, 0], b[:, 0])) for begin, a, b in zip(begins, self.a, self.b, strict=False)]
        return [(begin, bank) for begin, bank in banks if bank is not None]

    @cached_property
    def add(self) -> LoraAdd | None:
        """Of the banks, or None where there are none."""
        return LoraAdd(self.banks) if self.banks else None

    def takes(self, activations: torch.Tensor) -> bool:
        """Whether our ops multiply the layer's adapters with activations of this dtype."""
        return self.dtype_is_ours and activations.dtype == self.b[0].dtype


# By the address of vLLM's first B, which stays where it is: all that a traced call has to name its layer.
_layers: dict[int, _Layer] = {}
# Defined without torch.library.custom_op, whose calls take three times as long.
_library = torch.library.Library("lorid_vllm", "FRAGMENT")
for _name in ("add_linear", "add_embedding"):
    _library.define(f"{_name}(Tensor(a!) y, Tensor x, Tensor b) -> ()")
    torch.library.register_fake(f"lorid_vllm::{_name}", lambda *_: None, lib=_library)


@torch.library.impl(_library, "add_linear", "CPU")
def _add_linear(y: torch.Tensor, x: torch.Tensor, b: torch.Tensor, kind: str = "tokens") -> None:
    layer = _layers.get(b.data_ptr())
    if layer is None:  # no adapter has come yet
        return
    if not layer.takes(x):
        layer.wrapper.add_vllms_linear(y, x, layer)
        return
    if layer.add is None:  # as for most layers of adapters of q and v
        return
    if y.ndim > 2:
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
    rows = layer.wrapper.rows(kind, x.shape[0])
    if rows is None:
        return
    if rows.order is None and y.dtype == x.dtype:
        layer.add(y, x, rows.plan)
        return
    order = slice(None) if rows.order is None else rows.order
    if y.dtype == x.dtype:
        part = y[order].contiguous()
        layer.add(part, x[order], rows.plan)
        y[order] = part
    else:  # such as logits in float32, which must not be rounded on the way
        share = x.new_zeros(int(rows.plan.seg_offset[-1]), y.shape[1])
        layer.add(share, x[order], rows.plan)
        y[order] += share.to(y.dtype)


@torch.library.impl(_library, "add_embedding", "CPU")
def _add_embedding(y: torch.Tensor, x: torch.Tensor, b: torch.Tensor) -> None:
    layer = _layers.get(b.data_ptr())
    if layer is None:
        return
    if not layer.takes(y):
        layer.wrapper.add_vllms_embedding(y, x, layer)
        return
    rows = layer.wrapper.rows("tokens", x.shape[0])
    if rows is not None and layer.banks:
        order = slice(None) if rows.order is None else rows.order
        part = y[order].contiguous()
        lora_expand(part, x[order].float(), layer.banks[0][1], rows.plan)
        y[order] = part
