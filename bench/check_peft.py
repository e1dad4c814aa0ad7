"""Greedy tokens of the default pack's adapters in float32, against transformers + PEFT.

    python bench/check_peft.py --data gsm8k/test.jsonl [--limit 20] [--out bench/results/peft-tokens]

Our greedy text is fed to PEFT in one forward pass. Where at every position our token is PEFT's likeliest, PEFT's own greedy
decoding would say the same. A position whose two best logits in PEFT differ by less than 1e-4 of the largest is a near tie: there
the text may part for good reason, and what follows is not compared.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from common import read_questions, write_result
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lorid_engine import Engine, Request, SamplingParams, env
from lorid_engine.solver.base_source import resolve_base
from lorid_engine.solver.packs import load_pack


def compare(model: PeftModel, prompt: list[int], tokens: list[int]) -> tuple[int, int, int]:
    """Positions that agree, near ties, and positions that differ without being one."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    agreed = ties = wrong = 0
    for token, row in zip(tokens, logits, strict=True):
        best = row.topk(2)
        tie = float(best.values[0] - best.values[1]) < 1e-4 * float(row.abs().max())
        ties += tie
        if int(best.indices[0]) != token:
            wrong += not tie
            break
        agreed += 1
    return agreed, ties, wrong


def main() -> None:
    """Runs the comparison and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("bench/results/peft-tokens"))
    options = parser.parse_args()
    questions, digest = read_questions(options.data, options.limit)
    pack = load_pack()
    base = resolve_base(pack.base, env.cache_dir())
    engine = Engine(base, {name: role.adapter for name, role in pack.roles.items()}, dtype="float32")
    params = SamplingParams(temperature=0, max_tokens=options.max_tokens)
    prompts = {
        name: [
            role.template.encode(engine.tokenizer, question=question, knowledge="1. Add the parts to find the total.")
            for question in questions
        ]
        for name, role in pack.roles.items()
    }
    rows = [(name, prompt) for name in prompts for prompt in prompts[name]]
    outputs = engine.generate([Request(prompt, adapter=name, sampling=params) for name, prompt in rows])
    totals = {}
    for name, role in pack.roles.items():
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = PeftModel.from_pretrained(model, role.adapter).eval()
        found = [
            compare(model, prompt, list(output.outputs[0].token_ids))
            for (adapter, prompt), output in zip(rows, outputs, strict=True)
            if adapter == name
        ]
        totals[name] = dict(zip(("agreed", "near_ties", "different"), map(sum, zip(*found, strict=True)), strict=True))
    lines = [
        "| adapter | tokens equal to PEFT's | near ties among them or at the end | different |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | {t['agreed']} | {t['near_ties']} | {t['different']} |" for name, t in totals.items()]
    result = {"questions": len(questions), "data_sha256": digest, "adapters": totals}
    write_result(options.out, result, "\n".join(lines))
    assert not any(t["different"] for t in totals.values()), "tokens differ from PEFT's where it is no near tie"


if __name__ == "__main__":
    main()
