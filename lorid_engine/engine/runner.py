"""Runner: a model on one device, its KV pages and its adapters; a batch in, tokens out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from lorid_engine.engine.batch import StepBatch, StepResult
from lorid_engine.engine.options import EngineOptions, free_memory
from lorid_engine.errors import CapacityError, CheckpointError
from lorid_engine.model.adapter_form import HeldLora, can_merge, hold_low_rank, hold_merged, is_merged
from lorid_engine.model.adapters import LoraAdapter
from lorid_engine.model.config import ModelConfig
from lorid_engine.model.large_pages import LargePages
from lorid_engine.model.llama import forward, load_llama
from lorid_engine.model.recorder import Recorder
from lorid_engine.model.weights import TensorSource
from lorid_engine.ops import PackedLinear, cpu, pack_linear
from lorid_engine.ops.kv_pages import PAGE_TOKENS, page_shapes
from lorid_engine.ops.peft_adapter import LoraWeights


def _share(held: HeldLora) -> dict[str, Any]:
    a, b, merged = (0 if tensor is None else tensor.data_ptr() for tensor in (held.a, held.b, held.merged))
    return {"a": a, "b": b, "merged": merged, "rank": held.rank, "scale": held.scale}


def page_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of one page of 16 tokens over all layers, keys and values."""
    elements = sum(math.prod(shape) for shape in page_shapes(config.num_kv_heads, config.head_dim, dtype))
    return config.num_layers * elements * dtype.itemsize


class Runner:
    """Runs steps of a Llama model on the CPU.

    The forward is recorded once into a C++ program; a step is one call that holds no lock of the interpreter.

    Args:
        checkpoint: the weights.
        config: of the checkpoint.
        dtype: torch.bfloat16 (float32 accumulation) or torch.float32.
        threads: how many threads a step uses.
        num_pages: KV pages of 16 tokens.
        max_batch_tokens: rows of a step at most.
        max_samples: rows that a step samples at most.
        num_slots: adapter slots.
        active_adapters: how many of them a step is expected to use; see model.adapter_form.

    Raises:
        CheckpointError: the checkpoint does not fit its config.
        CapacityError: the KV pages do not fit into memory.
    """

    def __init__(
        self,
        checkpoint: TensorSource,
        config: ModelConfig,
        *,
        dtype: torch.dtype,
        threads: int,
        num_pages: int,
        max_batch_tokens: int,
        max_samples: int,
        num_slots: int,
        active_adapters: int,
    ) -> None:
        memory = LargePages()

        def pack(weight: torch.Tensor, bias: torch.Tensor | None) -> PackedLinear:
            return pack_linear(weight, bias, allocate=memory.take)

        try:
            weights = load_llama(checkpoint, config, dtype, pack)
        except (MemoryError, RuntimeError) as error:  # torch's own class for it
            raise CapacityError(
                f"no memory for the weights of this base: {str(error).splitlines()[0][:200]}"
            ) from error
        max_positions = min(config.max_positions, num_pages * PAGE_TOKENS)  # no sequence reaches past all pages
        extension = cpu.extension()
        self._threads, self._dtype, self._active_adapters = threads, dtype, active_adapters
        self._held: dict[int, tuple[dict[str, HeldLora], Any]] = {}  # the program holds addresses only
        try:
            self._program = extension.Program(
                dtype=extension.DType.bf16 if dtype == torch.bfloat16 else extension.DType.f32,
                max_rows=max_batch_tokens,
                max_samples=max_samples,
                vocabulary=config.vocab_size,
                max_positions=max_positions,
                num_pages=num_pages,
                num_slots=num_slots,
            )
            self._recorder = Recorder(config, dtype, self._program, num_pages, max_positions)
            self._logits = forward(self._recorder, weights)
        except ValueError as error:
            raise CheckpointError(f"the C++ backend cannot run this model: {error}") from error
        except (MemoryError, RuntimeError) as error:
            total = num_pages * page_bytes(config, dtype) / 2**30
            raise CapacityError(
                f"no memory for {num_pages} KV pages ({total:.1f} GiB) and the buffers of {max_batch_tokens} rows; "
                "lower kv_memory, max_batch_tokens or max_batch_rows"
            ) from error
        self._program.sample(logits=self._logits.index)

    def load_adapter(self, slot: int, adapter: LoraAdapter) -> None:
        """Puts an adapter into a free slot, in place of whatever an interrupted load or unload left there.

        Raises:
            CapacityError: there is no memory for it.
        """
        memory = LargePages(4 * 2**20)  # of this adapter alone, so that it goes with it
        try:
            held = {name: self._hold(name, lora, memory) for name, lora in adapter.modules.items() if lora.a.shape[0]}
        except (MemoryError, RuntimeError) as error:  # torch's own class for it
            raise CapacityError(
                f"no memory for the adapter {adapter.name!r} beside the base: {str(error).splitlines()[0][:200]}"
            ) from error
        self._set(slot, held)

    def unload_adapter(self, slot: int) -> None:
        """Empties a slot; no sequence may use it."""
        self._set(slot, {})
        del self._held[slot]

    def _hold(self, name: str, lora: LoraWeights, memory: LargePages) -> HeldLora:
        recorded = self._recorder.targets[name]
        columns, weight = slice(recorded.target.col_begin, recorded.target.col_end), recorded.weight
        out_features, rank = columns.stop - columns.start, lora.a.shape[0]
        if can_merge(columns, weight.out_features) and is_merged(
            out_features, weight.in_features, rank, self._active_adapters
        ):
            return hold_merged(lora, weight, columns, self._dtype, memory.take)
        return hold_low_rank(lora, self._dtype, memory.take)

    def _set(self, slot: int, modules: dict[str, HeldLora]) -> None:
        """Makes these the slot's modules; the ones before stay in memory until no address of theirs is left."""
        self._held[slot] = (modules, self._held.get(slot))
        for name, recorded in self._recorder.targets.items():
            held = modules.get(name)
            share = {} if held is None else _share(held)
            self._program.set_share(target=recorded.number, slot=slot, **share)
        self._held[slot] = (modules, None)

    def run(self, batch: StepBatch) -> StepResult:
        """Runs one step: every row's keys and values are written, the sampled rows' tokens returned."""
        samples, count = len(batch.sample_rows), max(batch.num_logprobs, 0)
        result = StepResult(
            token_ids=np.empty(samples, np.int32),
            logprob=np.empty(samples, np.float32),
            rank=np.empty(samples, np.int32),
            top_ids=np.empty((samples, count), np.int32),
            top_logprobs=np.empty((samples, count), np.float32),
        )
        written = {f"out_{name}": array for name, array in vars(result).items()}
        self._program.run(step={**vars(batch), **written}, threads=self._threads)
        return result if batch.num_logprobs >= 0 else StepResult(result.token_ids)

    def start_profile(self) -> None:
        """Times the phases of every step from now on."""
        self._program.start_profile()

    def profile(self) -> dict[str, float]:
        """Seconds by kind of phase since start_profile."""
        return self._program.profile()

    def logits(self, count: int) -> np.ndarray:
        """The last step's logits [count, V] float32 of its first sampled rows."""
        return self._program.read_buffer(buffer=self._logits.index, rows=count)


def build_runner(
    source: TensorSource, config: ModelConfig, options: EngineOptions, *, num_slots: int
) -> tuple[Runner, int]:
    """A runner with as many KV pages as the options allow, and their number.

    Raises:
        CheckpointError: the tensors do not fit the config.
        CapacityError: the memory for KV holds no page, or is not to be had.
    """
    bytes_a_page, kv_memory = page_bytes(config, options.torch_dtype), options.kv_memory
    if kv_memory is None:
        contexts = options.max_batch_rows * -(-config.max_positions // PAGE_TOKENS) * bytes_a_page
        kv_memory = min(free_memory() // 2, contexts, 2 * 2**30)
    num_pages = min(kv_memory // bytes_a_page, 2**31 // PAGE_TOKENS - 1)
    if num_pages < 1:
        raise CapacityError(f"kv_memory of {kv_memory} bytes holds no page; one takes {bytes_a_page}")
    runner = Runner(
        source,
        config,
        dtype=options.torch_dtype,
        threads=options.threads or cpu.threads(),
        num_pages=num_pages,
        max_batch_tokens=options.max_batch_tokens,
        max_samples=options.max_batch_rows,
        num_slots=num_slots,
        active_adapters=options.active_adapters,
    )
    return runner, num_pages
