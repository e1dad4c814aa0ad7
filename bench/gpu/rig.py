"""A model with random weights on the device, and steps of it as the engine makes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from lorid_engine.engine.adapter_slots import NUM_SLOTS
from lorid_engine.engine.batch import StepBatch
from lorid_engine.engine.device_runner import GRAPH_ROWS, GRAPH_SEGMENTS, _bucket, _power_of_chunks
from lorid_engine.engine.step_buffers import Sampling, StepBuffers, StepShape
from lorid_engine.model.adapters import module_shapes
from lorid_engine.model.config import ModelConfig
from lorid_engine.model.device_adapters import DeviceAdapters
from lorid_engine.model.device_forward import DeviceForward, DeviceModel, DeviceStep, plain
from lorid_engine.model.llama import FusedLinear, LlamaWeights, forward, load_llama
from lorid_engine.ops.kv_pages import PAGE_TOKENS
from lorid_engine.ops.peft_adapter import LoraWeights

WEIGHT_STD = 0.02
TARGETS = ("self_attn.q_proj", "self_attn.v_proj")


class DeviceTensors:
    """A TensorSource that draws every tensor where it is used; norms are ones."""

    def __init__(self, device: torch.device, dtype: torch.dtype, seed: int = 0) -> None:
        self._device, self._dtype = device, dtype
        self._random = torch.Generator(device).manual_seed(seed)

    @property
    def names(self) -> frozenset[str]:
        """None are known beforehand."""
        return frozenset()

    def tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor of this shape."""
        if name.endswith("norm.weight"):
            return torch.ones(shape, dtype=self._dtype, device=self._device)
        empty = torch.empty(shape, dtype=self._dtype, device=self._device)
        return empty.normal_(0, WEIGHT_STD, generator=self._random)


@dataclass(frozen=True)
class Bank:
    """Adapters of one rank as other ways of computing want them: by module, A [N, R, I] and B transposed [N, R, O]."""

    rank: int
    scale: float
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]

    def adapter(self, number: int) -> dict[str, LoraWeights]:
        """One of them as the engine's slots take it."""
        return {name: LoraWeights(a[number], b_t[number].t(), self.scale) for name, (a, b_t) in self.pairs.items()}


def random_bank(config: ModelConfig, rank: int, count: int, dtype: torch.dtype, device: torch.device) -> Bank:
    """Adapters of q_proj and v_proj in every layer."""
    random = torch.Generator(device).manual_seed(rank)
    pairs = {}
    for layer in range(config.num_layers):
        for target in TARGETS:
            out_features, in_features = module_shapes(config)[target]
            pairs[f"layers.{layer}.{target}"] = tuple(
                torch.empty(count, rank, width, dtype=dtype, device=device).normal_(0, WEIGHT_STD, generator=random)
                for width in (in_features, out_features)
            )
    return Bank(rank, 2.0, pairs)


def slots_of(rows: int, adapters: int) -> list[int]:
    """The slot of each row: equal runs of the adapters in turn; 0 adapters = all base."""
    return [row * adapters // rows if adapters else -1 for row in range(rows)]


def segments_of(slots: Sequence[int]) -> list[tuple[int, int, int]]:
    """(first row, end, slot) of each run of rows with one slot."""
    found: list[tuple[int, int, int]] = []
    for row, slot in enumerate(slots):
        if found and found[-1][2] == slot:
            found[-1] = (found[-1][0], row + 1, slot)
        else:
            found.append((row, row + 1, slot))
    return found


@dataclass(frozen=True)
class Step:
    """A step's tensors, and its segments on the host."""

    tensors: DeviceStep
    sampling: Sampling
    segments: list[tuple[int, int, int]]
    rows: int


class Rig:
    """A model, its KV pages full of random keys and values, and its adapters.

    Args:
        rows: sequences of `context` tokens that there are pages for.
        tokens: of a step at most.
    """

    def __init__(
        self, config: ModelConfig, dtype: torch.dtype, device: torch.device, *, rows: int, context: int, tokens: int = 0
    ) -> None:
        self.config, self.dtype, self.device, self.context = config, dtype, device, context
        self.weights = load_llama(DeviceTensors(device, dtype), config, dtype, plain)
        self.adapters = DeviceAdapters(self.weights, dtype, device, NUM_SLOTS, 2)
        self.pages = -(-context // PAGE_TOKENS)
        num_pages = max(rows * self.pages, -(-tokens // PAGE_TOKENS) + 1)
        self.model = DeviceModel(config, dtype, device, num_pages, min(config.max_positions, max(context, tokens)))
        for pages in self.model.kv_pages:
            for tensor in pages:
                tensor.normal_()

    def load(self, bank: Bank | None) -> None:
        """Puts a bank's adapters into the slots 0, 1, ..., in place of all that were there."""
        for slot in tuple(self.adapters._held):
            self.adapters.unload(slot)
        count = len(next(iter(bank.pairs.values()))[0]) if bank is not None else 0
        for slot in range(count):
            self.adapters.load(slot, bank.adapter(slot))

    def decode(self, slots: Sequence[int], *, first: int = 0, padded: bool = True) -> Step:
        """One row of each of the sequences from `first` on, at the last place of its context.

        Args:
            padded: up to the shapes that the engine records; else no row is padding.
        """
        rows = len(slots)
        tables = np.arange(first * self.pages, (first + rows) * self.pages, dtype=np.int32).reshape(rows, -1)
        positions = np.full(rows, self.context - 1, np.int32)
        return self._step(slots, tables, positions, np.arange(rows + 1, dtype=np.int32), padded=padded, first=first)

    def prefill(self, lengths: Sequence[int], slots: Sequence[int]) -> Step:
        """Whole sequences, from pages that decode's first rows have too."""
        pages = -(-max(lengths) // PAGE_TOKENS)
        tables = np.arange(len(lengths) * pages, dtype=np.int32).reshape(len(lengths), -1)
        positions = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
        offset = np.cumsum([0, *lengths]).astype(np.int32)
        by_row = [slot for length, slot in zip(lengths, slots, strict=True) for _ in range(length)]
        return self._step(by_row, tables, positions, offset, padded=False, first=0)

    def _step(
        self,
        slots: Sequence[int],
        tables: np.ndarray,
        positions: np.ndarray,
        offset: np.ndarray,
        *,
        padded: bool,
        first: int,
    ) -> Step:
        rows, sequences, segments = len(slots), len(tables), segments_of(slots)
        vocabulary = self.config.vocab_size
        batch = StepBatch(
            token_ids=((np.arange(rows) + first) * 7919 % vocabulary).astype(np.int32),
            positions=positions,
            query_offset=offset,
            block_table=tables,
            seg_offset=np.array([0, *(end for _, end, _ in segments)], np.int32),
            seg_slot=np.array([slot for *_, slot in segments], np.int32),
            sample_rows=(offset[1:] - 1).astype(np.int32),
            philox_key=np.arange(sequences, dtype=np.uint64),
            philox_counter=np.zeros((sequences, 2), np.uint32),
            temperature=np.zeros(sequences, np.float32),
            top_k=np.zeros(sequences, np.int32),
            top_p=np.ones(sequences, np.float32),
            num_logprobs=-1,
            page_copies=np.zeros((0, 2), np.int32),
        )
        shape = self._shape(batch, padded=padded)
        buffers = StepBuffers(shape, self.device, pinned=self.device.type == "cuda")
        buffers.fill(batch, shape)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return Step(*buffers.view(shape), segments, rows)

    def _shape(self, batch: StepBatch, *, padded: bool) -> StepShape:
        """As DeviceRunner chooses it."""
        rows, sequences = len(batch.token_ids), len(batch.block_table)
        segments = len(batch.seg_slot) if (batch.seg_slot >= 0).any() else 0
        pages = _power_of_chunks(int(batch.positions.max()) // PAGE_TOKENS + 1)
        if padded:
            bucket = _bucket(rows, GRAPH_ROWS)
            return StepShape(bucket, bucket, bucket, _bucket(segments, GRAPH_SEGMENTS), pages, 1)
        longest = int(np.diff(batch.query_offset).max())
        return StepShape(rows, sequences, sequences, segments, pages, longest)

    def launch(self, step: Step, ops: DeviceForward | None = None, weights: LlamaWeights | None = None) -> Any:
        """The forward and the draw, as DeviceRunner launches them: logits and tokens."""
        from lorid_kernels.sample import sample

        logits = forward(ops or self.ours(step), weights or self.weights)
        token_ids = torch.empty(logits.shape[0], dtype=torch.int32, device=self.device)
        sample(logits, *vars(step.sampling).values(), token_ids)
        return logits, token_ids

    def ours(self, step: Step) -> DeviceForward:
        """The forward by our kernels."""
        return DeviceForward(self.model, self.adapters, step.tensors)

    def launcher(
        self, step: Step, ops: DeviceForward | None = None, weights: LlamaWeights | None = None
    ) -> Callable[[], Any]:
        """launch with these arguments, for a timer."""
        return lambda: self.launch(step, ops, weights)


def copied_weights(weights: LlamaWeights) -> LlamaWeights:
    """Copies of all linears of the layers, as adapters merged into them need; embedding and head, which none has, are shared."""

    def copied(linear: FusedLinear) -> FusedLinear:
        return replace(linear, weight=replace(linear.weight, data=linear.weight.data.clone()))

    layers = (
        replace(
            layer,
            qkv=copied(layer.qkv),
            output=copied(layer.output),
            gate_up=copied(layer.gate_up),
            down=copied(layer.down),
        )
        for layer in weights.layers
    )
    return replace(weights, layers=tuple(layers))


def linear_shapes(config: ModelConfig) -> list[tuple[int, int]]:
    """[O, I] of a layer's fused linears."""
    heads, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    hidden, wide = config.hidden_size, config.intermediate_size
    return [(heads + 2 * kv, hidden), (hidden, heads), (2 * wide, hidden), (hidden, wide)]


def weight_bytes(config: ModelConfig, itemsize: int) -> int:
    """Of the layers' linears and the head, which a step reads."""
    layer = sum(math.prod(shape) for shape in linear_shapes(config))
    return itemsize * (config.num_layers * layer + config.vocab_size * config.hidden_size)


def adapter_bytes(config: ModelConfig, rank: int, itemsize: int) -> int:
    """Of one adapter's A and B."""
    shapes = module_shapes(config)
    return itemsize * config.num_layers * sum(rank * sum(shapes[target]) for target in TARGETS)


def kv_bytes(config: ModelConfig, tokens: int, itemsize: int) -> int:
    """Of the keys and values of so many tokens."""
    return itemsize * tokens * config.num_layers * 2 * config.num_kv_heads * config.head_dim
