"""Recorder: the forward's ops as instructions of a C++ step program, with one set of buffers for all layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from lorid_engine.model.config import ModelConfig
from lorid_engine.model.llama import FusedLinear, Target
from lorid_engine.ops import PackedLinear, cpu
from lorid_engine.ops.kv_pages import page_shapes


@dataclass(frozen=True)
class Buffer:
    """A program's buffer: its number, and whether its rows are the sampled ones only."""

    index: int
    sampled: bool = False


@dataclass(frozen=True)
class RecordedTarget:
    """An adaptable module: its number in the program, its columns, and the fused weight that they belong to."""

    number: int
    target: Target
    weight: PackedLinear


@dataclass
class Recorder:
    """Implements model.llama.ForwardOps by recording.

    Attributes:
        program: the C++ program that is recorded into.
        max_positions: positions that a step can have.
        targets: every adaptable module by its name.
        kv_pages: key and value pages of each layer.
    """

    config: ModelConfig
    dtype: torch.dtype
    program: Any
    num_pages: int
    max_positions: int
    targets: dict[str, RecordedTarget] = field(default_factory=dict)
    kv_pages: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    _buffers: dict[tuple[str, int], Buffer] = field(default_factory=dict)
    _kept: list[torch.Tensor] = field(default_factory=list)  # the program holds addresses only

    def __post_init__(self) -> None:
        cos, sin = self.config.rotary.tables(self.config.head_dim, self.max_positions)
        self._tables = cos, sin
        self._no_turn = self._tables if all(self.config.rotated) else (torch.ones_like(cos), torch.zeros_like(sin))

    def _buffer(self, kind: str, width: int, *, wide: bool, sampled: bool = False) -> Buffer:
        """One buffer per use and width: float32 where wide, else in the model's dtype."""
        key = (kind, width)
        if key not in self._buffers:
            half = not wide and self.dtype == torch.bfloat16
            dtype = cpu.extension().DType.bf16 if half else cpu.extension().DType.f32
            self._buffers[key] = Buffer(self.program.add_buffer(width=width, dtype=dtype, sampled=sampled), sampled)
        return self._buffers[key]

    def _address(self, tensor: torch.Tensor | None) -> int:
        if tensor is None:
            return 0
        self._kept.append(tensor)
        return tensor.data_ptr()

    def embed(self, weight: PackedLinear) -> Buffer:
        out = self._buffer("hidden", weight.in_features, wide=True)
        self.program.embed(weight=self._address(weight.data), out=out.index)
        return out

    def rms_norm(self, x: Buffer, weight: torch.Tensor) -> Buffer:
        return self._rms_norm(x, weight, self._buffer("normed", weight.numel(), wide=False))

    def rms_norm_sampled(self, x: Buffer, weight: torch.Tensor) -> Buffer:
        return self._rms_norm(x, weight, self._buffer("normed sampled", weight.numel(), wide=False, sampled=True))

    def _rms_norm(self, x: Buffer, weight: torch.Tensor, out: Buffer) -> Buffer:
        epsilon = self.config.rms_norm_eps
        self.program.rms_norm(
            x=x.index, weight=self._address(weight), epsilon=epsilon, out=out.index, sampled=out.sampled
        )
        return out

    def lora_linear(self, x: Buffer, linear: FusedLinear) -> Buffer:
        kind = "linear sampled" if x.sampled else "linear"
        out = self._buffer(kind, linear.weight.out_features, wide=True, sampled=x.sampled)
        return self._linear(x, linear, out, add=False)

    def lora_linear_add(self, x: Buffer, linear: FusedLinear, residual: Buffer) -> Buffer:
        return self._linear(x, linear, residual, add=True)

    def _linear(self, x: Buffer, linear: FusedLinear, out: Buffer, *, add: bool) -> Buffer:
        numbers = []
        for target in linear.targets:
            number = self.program.add_target(col_begin=target.col_begin, col_end=target.col_end)
            self.targets[target.name] = RecordedTarget(number, target, linear.weight)
            numbers.append(number)
        self.program.linear(
            x=x.index,
            weight=self._address(linear.weight.data),
            bias=self._address(linear.weight.bias),
            out_features=linear.weight.out_features,
            out=out.index,
            add=add,
            targets=numbers,
            sampled=x.sampled,
        )
        return out

    def rope(self, qkv: Buffer, layer: int, q_norm: torch.Tensor | None, k_norm: torch.Tensor | None) -> Buffer:
        config = self.config
        cos, sin = self._tables if config.rotated[layer] else self._no_turn
        shapes = page_shapes(config.num_kv_heads, config.head_dim, self.dtype)
        k_pages, v_pages = (torch.empty(self.num_pages, *shape, dtype=self.dtype) for shape in shapes)
        assert layer == len(self.kv_pages)
        self.kv_pages.append((k_pages, v_pages))
        out = self._buffer("q", config.num_heads * config.head_dim, wide=False)
        self.program.rope(
            qkv=qkv.index,
            cos=self._address(cos),
            sin=self._address(sin),
            q_norm=self._address(q_norm),
            k_norm=self._address(k_norm),
            norm_epsilon=config.rms_norm_eps,
            q_out=out.index,
            k_pages=k_pages.data_ptr(),
            v_pages=v_pages.data_ptr(),
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
        )
        return out

    def paged_attention(self, q: Buffer, layer: int) -> Buffer:
        config = self.config
        out = self._buffer("attended", config.num_heads * config.head_dim, wide=False)
        k_pages, v_pages = self.kv_pages[layer]
        self.program.attention(
            q=q.index,
            out=out.index,
            k_pages=k_pages.data_ptr(),
            v_pages=v_pages.data_ptr(),
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            window=config.windows[layer],
        )
        return out

    def silu_mul(self, x: Buffer) -> Buffer:
        out = self._buffer("gated", self.config.intermediate_size, wide=False)
        self.program.silu_mul(x=x.index, out=out.index)
        return out
