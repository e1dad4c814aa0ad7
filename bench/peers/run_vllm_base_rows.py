"""vLLM's rows of the base in a batch with adapters' rows, beside the same rows in a batch of the base alone. Run by bench/vllm_lora.py.

Prints a JSON line: how many tokens of the rows of the base are others than those of the base alone, and by how much the
logarithms of their probabilities differ at most. With LORID_VLLM=1 the plugin computes the adapters' shares.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
from job import ADAPTERS, Job
from run_vllm import engine_options

ROWS, PROMPT, NEW = 8, 24, 16


def main() -> None:
    """Generates both batches."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print what they like
    job, rank = Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), int(sys.argv[2])
    options = engine_options(job, rank, ROWS)
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    model = LLM(**options)
    requests = [LoRARequest(ADAPTERS[at], at + 1, folder) for at, folder in enumerate(job.adapters_of(rank))]
    random, vocab_size = np.random.default_rng(0), model.get_tokenizer().vocab_size
    prompts = [{"prompt_token_ids": each} for each in random.integers(0, vocab_size, (ROWS, PROMPT)).tolist()]
    sampling = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True, detokenize=False, logprobs=0)
    mixture = [(None, requests[0], None, requests[1])[row % 4] for row in range(ROWS)]

    def generate(adapters: list[LoRARequest | None]) -> list[tuple[list[int], list[float]]]:
        outputs = [each.outputs[0] for each in model.generate(prompts, sampling, lora_request=adapters, use_tqdm=False)]
        return [
            (list(each.token_ids), [next(iter(step.values())).logprob for step in each.logprobs]) for each in outputs
        ]

    alone, mixed = generate([None] * ROWS), generate(mixture)
    base = [row for row, adapter in enumerate(mixture) if adapter is None]
    adapted = [row for row, adapter in enumerate(mixture) if adapter is not None]
    others = sum(a != b for row in base for a, b in zip(alone[row][0], mixed[row][0], strict=True))
    first = max(abs(alone[row][1][0] - mixed[row][1][0]) for row in base)
    answer = {
        "rank": rank,
        "base_rows": len(base),
        "tokens": len(base) * NEW,
        "other_tokens": others,
        "first_logprob_difference": first,
        "adapted_rows_that_differ": sum(alone[row][0] != mixed[row][0] for row in adapted),
    }
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
