"""Runner: a model on one device, its KV pages and its adapter banks; a batch in, tokens out."""

from __future__ import annotations

import math

import numpy as np
import torch

from lorid_engine.engine.batch import StepBatch, StepResult
from lorid_engine.engine.options import EngineOptions, free_memory
from lorid_engine.errors import CapacityError, CheckpointError
from lorid_engine.model.adapters import LoraAdapter
from lorid_engine.model.config import ModelConfig
from lorid_engine.model.llama import forward, load_llama
from lorid_engine.model.recorder import Recorder
from lorid_engine.model.weights import TensorSource
from lorid_engine.ops import AdapterBank, cpu
from lorid_engine.ops.kv_pages import PAGE_TOKENS, page_shapes


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
    ) -> None:
        try:
            weights = load_llama(checkpoint, config, dtype)
        except (MemoryError, RuntimeError) as error:  # torch's own class for it
            raise CapacityError(
                f"no memory for the weights of this base: {str(error).splitlines()[0][:200]}"
            ) from error
        max_positions = min(config.max_positions, num_pages * PAGE_TOKENS)  # no sequence reaches past all pages
        extension = cpu.extension()
        self._threads, self._dtype, self._num_slots = threads, dtype, num_slots
        self._adapters: dict[int, LoraAdapter] = {}
        self._banks: dict[str, AdapterBank | None] = {}
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
        """Puts an adapter into a free slot, in place of whatever an interrupted load or unload left there."""
        self._change({**self._adapters, slot: adapter}, slot)

    def unload_adapter(self, slot: int) -> None:
        """Empties a slot; no sequence may use it."""
        self._change({other: held for other, held in self._adapters.items() if other != slot}, slot)

    def _change(self, adapters: dict[int, LoraAdapter], slot: int) -> None:
        """Gives the program new banks for the modules of a slot's old and new adapter; if it is cut short, nothing changes."""
        before, held = self._banks, self._adapters
        modules = {name for each in (held, adapters) if slot in each for name in each[slot].modules}
        banks = {**before, **{name: self._make_bank(name, adapters) for name in modules}}
        try:
            for name in modules:
                self._set_target(name, banks[name])
            self._banks, self._adapters = banks, adapters
        except BaseException:
            for name in modules:  # the program holds addresses only: the new banks go when this returns
                self._set_target(name, before.get(name))
            self._banks, self._adapters = before, held
            raise

    def _set_target(self, name: str, bank: AdapterBank | None) -> None:
        tensors = None if bank is None else (bank.a, bank.b_t, bank.rank_offset, bank.scale)
        a, b_t, rank_offset, scale = (0, 0, 0, 0) if tensors is None else (t.data_ptr() for t in tensors)
        self._program.set_target(
            target=self._recorder.targets[name][0],
            a=a,
            b_t=b_t,
            rank_offset=rank_offset,
            scale=scale,
            max_rank=0 if bank is None else bank.max_rank,
        )

    def _make_bank(self, name: str, adapters: dict[int, LoraAdapter]) -> AdapterBank | None:
        """A module's bank with every slot's share; None if no adapter has the module."""
        shares = [adapters[slot].modules.get(name) if slot in adapters else None for slot in range(self._num_slots)]
        if not any(shares):
            return None
        given = [None if share is None else (share.a, share.b, share.scale) for share in shares]
        bank = AdapterBank.from_tensors(given, dtype=self._dtype)
        _, target, in_features = self._recorder.targets[name]
        assert bank.a.shape[1] == in_features and bank.b_t.shape[1] == target.col_end - target.col_begin
        return bank

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
    )
    return runner, num_pages
