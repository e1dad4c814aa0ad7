"""vLLM's punica wrapper on a GPU over our Triton kernels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_gpu import PunicaWrapperGPU

from lorid_engine.integrations.vllm.device import DeviceRows, add_shares, refresh_layers


class LoridPunicaWrapperGPU(PunicaWrapperGPU):
    """Linear layers by our kernels; logits, embeddings, experts and adapters cut among processes stay vLLM's own."""

    def __init__(
        self, max_num_batched_tokens: int, max_batches: int, device: torch.device | str, **kwargs: Any
    ) -> None:
        super().__init__(max_num_batched_tokens, max_batches, device, **kwargs)
        self._rows = DeviceRows(self.max_loras, max_num_batched_tokens, device)

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Takes the slots of the coming step's rows."""
        super().update_metadata(*args, **kwargs)
        self._rows.set(self.token_lora_indices)

    def take_slots(self, modules: Iterable[Any]) -> None:
        """An adapter has come into a slot: the tables that recorded graphs read take it over in place."""
        refresh_layers(modules)

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
        """y += scale B A x in the columns of each slice; vLLM's scale is 1, its B has the adapter's in it."""
        rows = self._rows
        lists = list(lora_a_stacked), list(lora_b_stacked), list(output_slices)
        add_shares(y, x, *lists, rows.order, rows.seg_offset, rows.seg_slot)
