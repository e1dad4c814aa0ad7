"""Runner: a model on one device, its KV pages and its adapter banks; a batch in, tokens out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lorid_engine.engine.batch import StepBatch, StepResult
from lorid_engine.errors import CapacityError
from lorid_engine.model.adapters import LoraAdapter
from lorid_engine.model.config import ModelConfig
from lorid_engine.model.llama import forward, load_llama
from lorid_engine.model.recorder import Recorder
from lorid_engine.model.weights import Checkpoint
from lorid_engine.ops import AdapterBank, cpu
from lorid_engine.ops.kv_pages import page_shapes


def page_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of one page of 16 tokens over all layers, keys and values."""
    elements = sum(int(np.prod(shape)) for shape in page_shapes(config.num_kv_heads, config.head_dim, dtype))
    return config.num_layers * elements * dtype.itemsize


class Runner:
    """Runs steps of a Llama model on the CPU.

    The forward is recorded once into a C++ program; a step is one call that holds no lock of the interpreter.

    Args:
        folder: the checkpoint, in Hugging Face's format.
        config: of the checkpoint.
        dtype: torch.bfloat16 (float32 accumulation) or torch.float32.
        threads: how many threads a step uses.
        num_pages: KV pages of 16 tokens.
        max_batch_tokens: rows of a step at most.
        max_samples: rows that a step samples at most.
        num_slots: adapter slots.

    Raises:
        CheckpointError: the checkpoint does not fit its config.
        CapacityError: the KV pages do not fit into memory.
    """

    def __init__(
        self,
        folder: Path,
        config: ModelConfig,
        *,
        dtype: torch.dtype,
        threads: int,
        num_pages: int,
        max_batch_tokens: int,
        max_samples: int,
        num_slots: int,
    ) -> None:
        weights = load_llama(Checkpoint(folder), config, dtype)
        extension = cpu.extension()
        self._threads, self._dtype, self._num_slots = threads, dtype, num_slots
        self._adapters: dict[int, LoraAdapter] = {}
        self._banks: dict[str, AdapterBank] = {}
        try:
            self._program = extension.Program(
                dtype=extension.DType.bf16 if dtype == torch.bfloat16 else extension.DType.f32,
                max_rows=max_batch_tokens,
                max_samples=max_samples,
                vocabulary=config.vocab_size,
                max_positions=config.max_positions,
                num_pages=num_pages,
                num_slots=num_slots,
            )
            self._recorder = Recorder(config, dtype, self._program, num_pages)
            self._logits = forward(self._recorder, weights)
        except (MemoryError, RuntimeError) as error:
            total = num_pages * page_bytes(config, dtype) / 2**30
            raise CapacityError(
                f"no memory for {num_pages} KV pages ({total:.1f} GiB) and the buffers of {max_batch_tokens} rows; "
                "lower kv_memory, max_batch_tokens or max_batch_rows"
            ) from error
        self._program.sample(logits=self._logits.index)

    def load_adapter(self, slot: int, adapter: LoraAdapter) -> None:
        """Puts an adapter into a free slot."""
        self._adapters[slot] = adapter
        self._rebuild(adapter)

    def unload_adapter(self, slot: int) -> None:
        """Empties a slot; no sequence may use it."""
        self._rebuild(self._adapters.pop(slot))

    def _rebuild(self, changed: LoraAdapter) -> None:
        """Builds the banks of the modules that an adapter has, with every slot's share."""
        for name in changed.modules:
            number, target, in_features = self._recorder.targets[name]
            shares = [
                self._adapters[slot].modules.get(name) if slot in self._adapters else None
                for slot in range(self._num_slots)
            ]
            if not any(shares):
                self._banks.pop(name, None)
                self._program.set_target(target=number, a=0, b_t=0, rank_offset=0, scale=0, max_rank=0)
                continue
            bank = AdapterBank.from_tensors(
                [None if share is None else (share.a, share.b, share.scale) for share in shares], dtype=self._dtype
            )
            assert bank.a.shape[1] == in_features and bank.b_t.shape[1] == target.col_end - target.col_begin
            self._banks[name] = bank
            self._program.set_target(
                target=number,
                a=bank.a.data_ptr(),
                b_t=bank.b_t.data_ptr(),
                rank_offset=bank.rank_offset.data_ptr(),
                scale=bank.scale.data_ptr(),
                max_rank=bank.max_rank,
            )

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

    def logits(self, count: int) -> np.ndarray:
        """The last step's logits [count, V] float32 of its first sampled rows."""
        return self._program.read_buffer(buffer=self._logits.index, rows=count)
