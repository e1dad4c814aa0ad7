"""DeviceRunner: a model on a GPU, its KV pages and its adapters; a batch in, tokens out.

Steps in which every row decodes are recorded as CUDA graphs, one for each of a few shapes, the first time that the shape
comes; other steps are launched one by one. Both run the same kernels, so that a row's bits are the same.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lorid_engine import env
from lorid_engine.engine.batch import StepBatch, StepResult
from lorid_engine.engine.options import EngineOptions
from lorid_engine.engine.step_buffers import Sampling, StepBuffers, StepShape
from lorid_engine.errors import CapacityError, ConfigError
from lorid_engine.model.adapters import LoraAdapter
from lorid_engine.model.config import ModelConfig
from lorid_engine.model.device_adapters import DeviceAdapters, Kind
from lorid_engine.model.device_forward import DeviceForward, DeviceModel, DeviceSource, DeviceStep, plain
from lorid_engine.model.llama import ForwardOps, LlamaWeights, forward, load_llama
from lorid_engine.model.weights import TensorSource
from lorid_engine.ops import gpu
from lorid_engine.ops.kv_pages import PAGE_TOKENS

GRAPH_ROWS = (4, 8, 16, 32, 64, 128, 256)
GRAPH_SEGMENTS = (0, 4, 16, 64, 128, 256)
CHUNK_PAGES = 16  # a graph has room for so many pages of a sequence, times a power of two: chunks of attention
MOST_GRAPHS = 48
KV_SHARE = 0.85  # of the memory that is free beside the weights, for KV pages by default


@dataclass(frozen=True)
class _Graph:
    """A recorded step: replaying it reads the step's buffers and writes these."""

    graph: Any
    logits: torch.Tensor
    token_ids: torch.Tensor


class DeviceRunner:
    """Runs steps of a Llama model on one device.

    Args:
        checkpoint: the weights.
        config: of the checkpoint.
        options: the engine's.
        num_slots: adapter slots.

    Raises:
        CheckpointError: the checkpoint does not fit its config.
        CapacityError: weights or KV pages do not fit into the device's memory.
    """

    def __init__(
        self, checkpoint: TensorSource, config: ModelConfig, options: EngineOptions, *, num_slots: int
    ) -> None:
        self._device, self._dtype = torch.device(options.device), options.torch_dtype
        with gpu.current(self._device):
            self._build(checkpoint, config, options, num_slots)

    def _build(self, checkpoint: TensorSource, config: ModelConfig, options: EngineOptions, num_slots: int) -> None:
        _use_measured_tiles()
        source = DeviceSource(checkpoint, self._device)
        with self._memory("the weights of this base", "use a smaller base"):
            self.weights: LlamaWeights = load_llama(source, config, self._dtype, plain)
        self.adapters = DeviceAdapters(self.weights, self._dtype, self._device, num_slots, options.active_adapters)
        self.num_pages = self._count_pages(config, options)
        max_positions = min(config.max_positions, self.num_pages * PAGE_TOKENS)
        with self._memory(f"{self.num_pages} KV pages and the step's arrays", "lower kv_memory or max_batch_tokens"):
            self.model = DeviceModel(config, self._dtype, self._device, self.num_pages, max_positions)
            most = StepShape(
                rows=max(options.max_batch_tokens, _bucket(options.max_batch_rows, GRAPH_ROWS) or 0),
                samples=max(options.max_batch_rows, _bucket(options.max_batch_rows, GRAPH_ROWS) or 0),
                sequences=max(options.max_batch_rows, _bucket(options.max_batch_rows, GRAPH_ROWS) or 0),
                segments=max(options.max_batch_rows, _bucket(options.max_batch_rows, GRAPH_SEGMENTS) or 0),
                pages=_power_of_chunks(-(-max_positions // PAGE_TOKENS)),
                max_query=options.max_batch_tokens,
            )
            self._buffers = StepBuffers(most, self._device, pinned=self._records)
        self._graphs: dict[tuple[StepShape, Kind | None], _Graph] = {}
        self._logits: torch.Tensor | None = None
        self._profile: dict[str, float] | None = None

    @property
    def _records(self) -> bool:
        return self._device.type == "cuda"

    @contextlib.contextmanager
    def _memory(self, what: str, advice: str) -> Iterator[None]:
        """Turns running out of the device's memory into an error that names what did not fit."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            free, total = torch.cuda.mem_get_info(self._device)
            raise CapacityError(
                f"no memory on {self._device} for {what}: {free / 2**30:.1f} of {total / 2**30:.1f} GiB are free; {advice}"
            ) from error

    def _count_pages(self, config: ModelConfig, options: EngineOptions) -> int:
        page = config.num_layers * 2 * PAGE_TOKENS * config.num_kv_heads * config.head_dim * self._dtype.itemsize
        kv_memory = options.kv_memory
        if kv_memory is None:
            free = torch.cuda.mem_get_info(self._device)[0] if self._records else 2**28
            contexts = options.max_batch_rows * -(-config.max_positions // PAGE_TOKENS) * page
            kv_memory = min(int(KV_SHARE * free), contexts)
        num_pages = min(kv_memory // page, 2**31 // PAGE_TOKENS - 1)
        if num_pages < 1:
            raise CapacityError(f"kv_memory of {kv_memory} bytes holds no page; one takes {page}")
        return num_pages

    # Adapters

    def load_adapter(self, slot: int, adapter: LoraAdapter) -> None:
        """Puts an adapter into a free slot, in place of whatever an interrupted load or unload left there.

        Raises:
            CapacityError: there is no memory for it.
        """
        advice = "unload another, or lower kv_memory"
        with gpu.current(self._device), self._memory(f"the adapter {adapter.name!r}", advice):
            self.adapters.load(slot, adapter.modules)

    def unload_adapter(self, slot: int) -> None:
        """Empties a slot; no sequence may use it."""
        with gpu.current(self._device):
            self.adapters.unload(slot)

    # Steps

    def run(self, batch: StepBatch) -> StepResult:
        """Runs one step: every row's keys and values are written, the sampled rows' tokens returned."""
        advice = "lower max_batch_tokens, max_batch_rows or kv_memory"
        with gpu.current(self._device), self._memory("a step", advice):
            return self._run(batch)

    def _run(self, batch: StepBatch) -> StepResult:
        begin = time.perf_counter()
        self._copy_pages(batch.page_copies)
        shape, is_recorded = self._shape(batch)
        self._buffers.fill(batch, shape)
        if is_recorded:
            graph = self._graph(shape)
            graph.graph.replay()
            logits, token_ids = graph.logits, graph.token_ids
        else:
            logits, token_ids = self._launch(*self._buffers.view(shape))
        samples = len(batch.sample_rows)
        self._logits = logits[:samples]
        result = self._result(batch, token_ids[:samples])
        if self._profile is not None:
            self._profile["step"] = self._profile.get("step", 0.0) + time.perf_counter() - begin
        return result

    def _result(self, batch: StepBatch, token_ids: torch.Tensor) -> StepResult:
        if batch.num_logprobs < 0 or not len(batch.sample_rows):
            return StepResult(token_ids.cpu().numpy())
        from lorid_kernels.sample import log_probs

        entries = log_probs(self._logits, token_ids, batch.num_logprobs)
        return StepResult(token_ids.cpu().numpy(), *(tensor.cpu().numpy() for tensor in entries))

    def _shape(self, batch: StepBatch) -> tuple[StepShape, bool]:
        """The step's shape, and whether it is one to record: every row decodes, and there is a bucket that holds it."""
        rows, has_adapter = len(batch.token_ids), bool((batch.seg_slot >= 0).any())
        pages = _power_of_chunks(int(batch.positions.max()) // PAGE_TOKENS + 1)
        segments = len(batch.seg_slot) if has_adapter else 0
        decodes = rows == len(batch.block_table) == len(batch.sample_rows)
        row_bucket, segment_bucket = _bucket(rows, GRAPH_ROWS), _bucket(segments, GRAPH_SEGMENTS)
        if self._records and decodes and row_bucket is not None and segment_bucket is not None:
            shape = StepShape(row_bucket, row_bucket, row_bucket, segment_bucket, pages, 1)
            return shape, True
        longest = int(np.diff(batch.query_offset).max())
        sequences = len(batch.block_table)
        return StepShape(rows, len(batch.sample_rows), sequences, segments, pages, longest), False

    def _graph(self, shape: StepShape) -> _Graph:
        """The recorded step of a shape; recorded now if it is new."""
        key = (shape, self.adapters.kind if shape.segments else None)
        if key not in self._graphs:
            if len(self._graphs) >= MOST_GRAPHS:
                del self._graphs[next(iter(self._graphs))]  # the oldest
            step, sampling = self._buffers.view(shape)
            self._launch(step, sampling)  # compiles what is not compiled yet
            torch.cuda.synchronize(self._device)
            graph = torch.cuda.CUDAGraph()
            shared = next(iter(self._graphs.values()), None)  # they never run at once: one pool holds what all need
            with torch.cuda.graph(graph, pool=shared.graph.pool() if shared else None):
                logits, token_ids = self._launch(step, sampling)
            self._graphs[key] = _Graph(graph, logits, token_ids)
        return self._graphs[key]

    def _launch(self, step: DeviceStep, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
        """The forward and the draw: logits [K, V] float32 and tokens [K] int32."""
        from lorid_kernels.sample import sample

        with torch.inference_mode():
            ops: ForwardOps[Any] = DeviceForward(self.model, self.adapters, step)
            logits = forward(ops, self.weights)
            token_ids = torch.empty(logits.shape[0], dtype=torch.int32, device=self._device)
            if logits.shape[0]:
                sample(logits, *vars(sampling).values(), token_ids)
        return logits, token_ids

    def _copy_pages(self, copies: np.ndarray) -> None:
        if not len(copies):
            return
        source, to = (
            torch.from_numpy(np.ascontiguousarray(part)).to(self._device) for part in copies.T.astype(np.int64)
        )
        for pages in self.model.kv_pages:
            for tensor in pages:
                tensor[to] = tensor[source]

    def start_profile(self) -> None:
        """Times every step from now on."""
        self._profile = {}

    def profile(self) -> dict[str, float]:
        """Seconds since start_profile; a step's kernels are not told apart."""
        return dict(self._profile or {})

    def logits(self, count: int) -> np.ndarray:
        """The last step's logits [count, V] float32 of its first sampled rows."""
        assert self._logits is not None, "no step has run"
        return self._logits[:count].cpu().numpy()


def _use_measured_tiles() -> None:
    from lorid_kernels import tuning

    try:
        tuning.use_measured(env.cache_dir() / "tiles.json")
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _bucket(count: int, buckets: tuple[int, ...]) -> int | None:
    return next((bucket for bucket in buckets if count <= bucket), None)


def _power_of_chunks(pages: int) -> int:
    """So many pages, up to a power of two of attention's chunks."""
    return CHUNK_PAGES * 2 ** math.ceil(math.log2(max(-(-pages // CHUNK_PAGES), 1)))
