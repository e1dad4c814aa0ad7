"""transformers with PEFT: the rows of both adapters in one batch, by generate(adapter_names=...). Run by bench/compare.py."""

from __future__ import annotations

import time
from typing import Any

import torch
from job import ADAPTERS, Job, Measure, run
from peft import PeftModel
from transformers import AutoModelForCausalLM, StoppingCriteria


class Clock(StoppingCriteria):
    """Stops nothing; notes when each token was there."""

    def __init__(self) -> None:
        self.ticks: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """False for every row."""
        self.ticks.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def load(job: Job, rank: int, max_rows: int) -> Measure:
    """The base in bfloat16, with two adapters unless the rank is 0."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(job.base, dtype=torch.bfloat16)
    for name, folder in zip(ADAPTERS, job.adapters_of(rank), strict=False):
        if isinstance(model, PeftModel):
            model.load_adapter(folder, adapter_name=name, autocast_adapter_dtype=False)
        else:
            model = PeftModel.from_pretrained(model, folder, adapter_name=name, autocast_adapter_dtype=False)
    model.eval()

    def measure(rows: int, new: int) -> tuple[float, float]:
        ids, clock = torch.randint(0, model.config.vocab_size, (rows, job.prompt)), Clock()
        mixed = {"adapter_names": [ADAPTERS[row % 2] for row in range(rows)]} if rank else {}
        start = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new + 1,
                min_new_tokens=new + 1,  # no row ends early
                do_sample=False,
                stopping_criteria=[clock],
                **mixed,
            )
        return clock.ticks[0] - start, (clock.ticks[-1] - clock.ticks[0]) / new

    return measure


if __name__ == "__main__":
    run("peft", ["transformers", "peft", "torch"], load)
