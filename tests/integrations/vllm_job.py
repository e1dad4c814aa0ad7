"""Generates with vLLM's CPU build and prints the tokens as JSON; run by test_vllm.py, since vLLM reads its plugins once a process.

python vllm_job.py FOLDER    FOLDER/model, FOLDER/adapters/NAME; FOLDER/batches.json: [[prompt's tokens, adapter or null], ...] each
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_USE_AOT_COMPILE": "0"}
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")


def main() -> None:
    """Writes [[tokens, logprobs], ...] of each batch to FOLDER/answers.json."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    folder = Path(sys.argv[1])
    adapters = sorted(path.name for path in (folder / "adapters").iterdir())
    requests = {name: LoRARequest(name, at + 1, str(folder / "adapters" / name)) for at, name in enumerate(adapters)}
    model = LLM(
        model=str(folder / "model"),
        skip_tokenizer_init=True,
        dtype="float32",
        max_model_len=64,
        max_num_seqs=8,
        enable_prefix_caching=False,
        enable_lora=True,
        max_loras=2,
        max_lora_rank=16,
        seed=0,
    )
    sampling = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, detokenize=False, logprobs=0)
    answers = []
    for batch in json.loads((folder / "batches.json").read_text()):
        prompts = [{"prompt_token_ids": tokens} for tokens, _ in batch]
        which = [requests.get(name) for _, name in batch]
        outputs = [each.outputs[0] for each in model.generate(prompts, sampling, lora_request=which, use_tqdm=False)]
        answers.append(
            [[list(o.token_ids), [next(iter(step.values())).logprob for step in o.logprobs]] for o in outputs]
        )
    (folder / "answers.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
