"""DeviceForward: the forward's ops as launches of the Triton kernels, over one step's tensors on a device."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lorid_engine.model.config import ModelConfig
from lorid_engine.model.device_adapters import DeviceAdapters
from lorid_engine.model.llama import FusedLinear
from lorid_engine.model.weights import TensorSource
from lorid_engine.ops import PackedLinear
from lorid_engine.ops.kv_pages import PAGE_TOKENS


class DeviceSource:
    """A TensorSource whose tensors go from the mapped file straight to a device."""

    def __init__(self, source: TensorSource, device: torch.device) -> None:
        self._source, self._device = source, device

    @property
    def names(self) -> frozenset[str]:
        """What the source has."""
        return self._source.names

    def tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor of this shape, on the device."""
        return self._source.tensor(name, shape).to(self._device)


def plain(weight: torch.Tensor, bias: torch.Tensor | None) -> PackedLinear:
    """A weight as the kernels read it: [O, I] as it is."""
    return PackedLinear(weight.contiguous(), weight.shape[0], weight.shape[1], bias)


@dataclass(frozen=True)
class DeviceStep:
    """The rows of one step on the device; see engine.batch.StepBatch.

    Attributes:
        token_ids, positions: int32 [T].
        cache_slot: int64 [T], page times 16 plus the place in the page; -1 for padding, whose keys are not kept.
        query_offset: int32 [B + 1].
        block_table: int32 [B, M].
        seg_offset: int32 [S + 1]; seg_slot: int32 [S]; no segments where no row has an adapter.
        sample_rows: int32 [K].
        max_query: no sequence has more rows.
        max_context: no position is this large.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    cache_slot: torch.Tensor
    query_offset: torch.Tensor
    block_table: torch.Tensor
    seg_offset: torch.Tensor
    seg_slot: torch.Tensor
    sample_rows: torch.Tensor
    max_query: int
    max_context: int


@dataclass
class Hidden:
    """Hidden states float32 [T, E], and planes [P, T, E] that the next norm adds to them."""

    states: torch.Tensor
    planes: torch.Tensor | None = None


class DeviceModel:
    """What of a model lies on the device beside its weights: rotary tables and KV pages of every layer.

    Args:
        num_pages: KV pages of 16 tokens.
        max_positions: positions that a step can have.
    """

    def __init__(
        self, config: ModelConfig, dtype: torch.dtype, device: torch.device, num_pages: int, max_positions: int
    ) -> None:
        self.config, self.dtype = config, dtype
        cos, sin = (table.to(device) for table in config.rotary.tables(config.head_dim, max_positions))
        self.turned = cos, sin
        self.unturned = self.turned if all(config.rotated) else (torch.ones_like(cos), torch.zeros_like(sin))
        shape = (num_pages, PAGE_TOKENS, config.num_kv_heads, config.head_dim)
        self.kv_pages = [
            (torch.empty(shape, dtype=dtype, device=device), torch.empty(shape, dtype=dtype, device=device))
            for _ in range(config.num_layers)
        ]


class DeviceForward:
    """Implements model.llama.ForwardOps; made anew for every step, or once for a recorded one.

    Args:
        adapters: what the slots hold.
        step: its rows.
    """

    def __init__(self, model: DeviceModel, adapters: DeviceAdapters, step: DeviceStep) -> None:
        self._model, self._config, self._adapters, self._step = model, model.config, adapters, step

    def embed(self, weight: PackedLinear) -> Hidden:
        """The step's tokens as hidden states [T, E]."""
        from lorid_kernels.embed import embed

        states = weight.data.new_empty(self._step.token_ids.shape[0], weight.in_features, dtype=torch.float32)
        embed(self._step.token_ids, weight.data, states)
        return Hidden(states)

    def rms_norm(self, x: Hidden, weight: torch.Tensor) -> torch.Tensor:
        """Normalised rows [T, E]."""
        return self._rms_norm(x, weight, None)

    def rms_norm_sampled(self, x: Hidden, weight: torch.Tensor) -> torch.Tensor:
        """Normalised rows [K, E] of those that are sampled."""
        return self._rms_norm(x, weight, self._step.sample_rows)

    def _rms_norm(self, x: Hidden, weight: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
        from lorid_kernels.rms_norm import rms_norm

        count = x.states.shape[0] if rows is None else rows.shape[0]
        y = x.states.new_empty(count, weight.shape[0], dtype=self._model.dtype)
        rms_norm(x.states, weight, self._config.rms_norm_eps, y, planes=x.planes, rows=rows)
        x.planes = None
        return y

    def lora_linear(self, x: torch.Tensor, linear: FusedLinear) -> torch.Tensor:
        """W x and the adapters' shares, [rows of x, O]: in the model's dtype, logits in float32."""
        dtype = self._model.dtype if linear.targets else torch.float32
        y = x.new_empty(x.shape[0], linear.weight.out_features, dtype=dtype)
        self.linear_into(x, linear, y)
        return y

    def lora_linear_add(self, x: torch.Tensor, linear: FusedLinear, residual: Hidden) -> Hidden:
        """residual + W x and the adapters' shares; the next norm does the addition."""
        from lorid_kernels.lora_linear import num_splits

        weight = linear.weight
        splits = num_splits(weight.out_features, weight.in_features)
        planes = x.new_empty(splits, x.shape[0], weight.out_features, dtype=torch.float32)
        residual.planes = planes[: self.linear_into(x, linear, planes)]
        return residual

    def linear_into(self, x: torch.Tensor, linear: FusedLinear, y: torch.Tensor) -> int:
        """Writes W x and the adapters' shares into y as lorid_kernels' lora_linear does; returns how many planes."""
        from lorid_kernels.lora_linear import lora_linear
        from lorid_kernels.lora_shrink import shrink_for_linear
        from lorid_kernels.segments import Segments

        weight, adapters = linear.weight, self._adapters.of(linear)
        if adapters is None or self._step.seg_slot.shape[0] == 0:
            return lora_linear(x, weight.data, weight.bias, y)
        segments = Segments(self._step.seg_offset, self._step.seg_slot)
        shrunk = shrink_for_linear(x, adapters, segments)
        return lora_linear(x, weight.data, weight.bias, y, adapters, segments, shrunk, follows_shrink=True)

    def rope(
        self, qkv: torch.Tensor, layer: int, q_norm: torch.Tensor | None, k_norm: torch.Tensor | None
    ) -> torch.Tensor:
        """Rotated queries [T, H D]; keys and values go to the layer's pages."""
        from lorid_kernels.rope import rope

        config, step = self._config, self._step
        cos, sin = self._model.turned if config.rotated[layer] else self._model.unturned
        q = qkv.new_empty(qkv.shape[0], config.num_heads * config.head_dim)
        norms = {"q_norm": q_norm, "k_norm": k_norm, "norm_epsilon": config.rms_norm_eps}
        pages = self._model.kv_pages[layer]
        rope(qkv, cos, sin, step.positions, step.cache_slot, q, *pages, num_heads=config.num_heads, **norms)
        return q

    def paged_attention(self, q: torch.Tensor, layer: int) -> torch.Tensor:
        """Attention of every row over its sequence, [T, H D]."""
        from lorid_kernels.paged_attention import paged_attention

        config, step = self._config, self._step
        out = torch.empty_like(q)
        paged_attention(
            q,
            *self._model.kv_pages[layer],
            step.block_table,
            step.query_offset,
            step.positions,
            out,
            head_dim=config.head_dim,
            scale=config.head_dim**-0.5,
            window=config.windows[layer],
            max_query=step.max_query,
            max_context=step.max_context,
        )
        return out

    def silu_mul(self, x: torch.Tensor) -> torch.Tensor:
        """The gated half, [T, F]."""
        from lorid_kernels.silu_mul import silu_mul

        y = x.new_empty(x.shape[0], x.shape[1] // 2)
        silu_mul(x, y)
        return y
