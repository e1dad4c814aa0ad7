"""llama.cpp through llama-cpp-python: GGUF files of the base and of the adapters. Run by bench/compare.py.

Its adapters belong to a context, so a step of rows with two adapters is one decode in each of two contexts of the same model. One
context whose adapter is switched would plan its graph again at every switch, and be slower.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from typing import Any

import llama_cpp
import numpy as np
from job import Job, Measure, run


@llama_cpp.llama_log_callback
def _log_nothing(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    """llama.cpp prints pages while it loads."""


class Group:
    """The rows of one adapter: a context, and the sequences in it."""

    def __init__(self, model: Any, adapter: Any | None, rows: int, job: Job) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_seq_max = rows
        params.n_ctx = rows * (job.prompt + job.new + 1)
        params.n_batch = rows * job.prompt
        params.n_threads = params.n_threads_batch = job.threads
        self.context = llama_cpp.llama_init_from_model(model, params)
        if not self.context:
            raise MemoryError(f"no context for {rows} rows")
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self.rows, self.tokens = rows, np.zeros(rows, dtype=np.int64)
        if adapter is not None:
            adapters, scales = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter), (ctypes.c_float * 1)(1.0)
            if llama_cpp.llama_set_adapters_lora(self.context, adapters, 1, scales) != 0:
                raise RuntimeError("the adapter could not be applied")

    def decode(self, tokens: np.ndarray, first_position: int) -> None:
        """Runs tokens [rows, length] on top of what the sequences hold, and keeps each row's likeliest next token."""
        length = tokens.shape[1]
        batch = llama_cpp.llama_batch_init(tokens.size, 0, 1)
        try:
            batch.n_tokens = tokens.size
            for at, token in enumerate(tokens.ravel().tolist()):
                row, place = divmod(at, length)
                batch.token[at], batch.pos[at] = token, first_position + place
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, row
                batch.logits[at] = place == length - 1
            status = llama_cpp.llama_decode(self.context, batch)
        finally:
            llama_cpp.llama_batch_free(batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")
        logits = llama_cpp.llama_get_logits(self.context)
        self.tokens = np.ctypeslib.as_array(logits, (self.rows, self.vocab_size)).argmax(axis=1)


def measure_groups(groups: Sequence[Group], job: Job, new: int) -> tuple[float, float]:
    """Seconds of the prefill of all rows, and of a decode step of all rows."""
    random = np.random.default_rng(0)
    prompts = [random.integers(0, group.vocab_size, (group.rows, job.prompt)) for group in groups]
    start = time.perf_counter()
    for group, prompt in zip(groups, prompts, strict=True):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(group.context), True)
        group.decode(prompt, 0)
    begun = time.perf_counter()
    for step in range(new):
        for group in groups:
            group.decode(group.tokens[:, None], job.prompt + step)
    return begun - start, (time.perf_counter() - begun) / new


def load(job: Job, rank: int, max_rows: int) -> Measure:
    """The base and its adapters; contexts are made for each number of rows, and kept."""
    llama_cpp.llama_log_set(_log_nothing, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(job.base.encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise OSError(f"{job.base} could not be loaded")
    adapters = [llama_cpp.llama_adapter_lora_init(model, path.encode()) for path in job.adapters_of(rank)]
    if not all(adapters):
        raise OSError(f"the adapters of rank {rank} could not be loaded")
    groups: dict[int, list[Group]] = {}

    def measure(rows: int, new: int) -> tuple[float, float]:
        if rows not in groups:
            shared = [(adapter, len(range(at, rows, len(adapters)))) for at, adapter in enumerate(adapters)]
            groups[rows] = [Group(model, adapter, share, job) for adapter, share in shared or [(None, rows)] if share]
        return measure_groups(groups[rows], job, new)

    return measure


if __name__ == "__main__":
    run("llama_cpp", ["llama-cpp-python"], load)
