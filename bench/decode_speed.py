"""Decode and prefill speed over ranks and adapters, and against transformers + PEFT's mixed batch, in one run.

    python bench/decode_speed.py [--out bench/results/decode]

The default pack's base in bfloat16 with random adapters of q_proj and v_proj; prompt 128, decode 48, half of the rows each of two
adapters. PEFT runs the same base, rows and adapters' shapes through generate(adapter_names=...), after ours of each cell, once with two
tokens to warm up and then as often as ours.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from common import write_result
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from lorid_engine import env
from lorid_engine.benchmark.decode import DecodePlan, measure_decode, step_tokens
from lorid_engine.cli.bench import panels
from lorid_engine.engine import Engine
from lorid_engine.plots import write_plot
from lorid_engine.solver.base_source import resolve_base
from lorid_engine.solver.packs import load_pack

PROMPT, NEW, TARGETS = 128, 48, ["q_proj", "v_proj"]
RANKS, BATCHES, PEFT_RANKS = (0, 16, 64, 512), (1, 2, 8, 32), (16, 512)


def peft_model(folder: Path, rank: int) -> PeftModel:
    """The base with two random adapters, "ir" and "dr"."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = get_peft_model(base, config, adapter_name="ir")
    model.add_adapter("dr", config)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight.data, std=0.02)
    return model.to(torch.bfloat16).eval()


def measure_peft(model: PeftModel, batch: int, runs: int) -> dict[str, float]:
    """Medians of a decode step and of the prefill: generations of one token against those of 49."""
    ids = torch.randint(0, model.config.vocab_size, (batch, PROMPT))
    names = ["ir" if row % 2 == 0 else "dr" for row in range(batch)]

    def seconds(new: int) -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
                adapter_names=names,
            )
        return time.perf_counter() - start

    seconds(2)
    pairs = [(seconds(1), seconds(1 + NEW)) for _ in range(runs)]
    step = statistics.median((long - short) / NEW for short, long in pairs)
    prefill = statistics.median(short for short, _ in pairs)
    return {"ms_per_step": 1e3 * step, "tok_s": batch / step, "prefill_tok_s": batch * PROMPT / prefill}


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def over_ranks(engine: Engine) -> list[dict[str, Any]]:
    """Rank 0, 16, 64 and 512 at every batch, half of the rows each of two adapters."""
    plan = DecodePlan(ranks=tuple((rank,) for rank in RANKS), batches=BATCHES, spread="ir-dr", prompt=PROMPT, new=NEW)
    return measure_decode(engine, plan, print)


def over_adapters(engine: Engine) -> list[dict[str, Any]]:
    """1 to 64 adapters at 32 rows, of rank 16 and of mixed rank."""
    options = {"batches": (32,), "prompt": PROMPT, "new": NEW}
    same = DecodePlan(ranks=((0,), (16,)), adapters=(1, 4, 16, 64), **options)
    mixed = DecodePlan(ranks=((8, 16, 32, 64),), adapters=(4, 16, 64), **options)
    return [row for plan in (same, mixed) for row in measure_decode(engine, plan, print)]


def against_peft(engine: Engine, folder: Path, runs: int) -> list[dict[str, Any]]:
    """Ours and PEFT's mixed batch, cell by cell."""
    rows = []
    for rank in PEFT_RANKS:
        model = peft_model(folder, rank)
        for batch in BATCHES[1:]:
            plan = DecodePlan(ranks=((rank,),), batches=(batch,), spread="ir-dr", prompt=PROMPT, new=NEW)
            (ours,) = measure_decode(engine, plan)
            theirs = measure_peft(model, batch, runs)
            rows.append({"rank": rank, "batch": batch, "ours": ours, "peft": theirs})
            print(rows[-1])
        del model
    return rows


def _ratio(row: dict[str, Any], key: str) -> str:
    return f"{row['ours'][key] / row['peft'][key]:.2f}x"


def main() -> None:
    """Measures all of it and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench/results/decode"))
    parser.add_argument("--peft-runs", type=int, default=5)
    options = parser.parse_args()
    folder = resolve_base(load_pack().base, env.cache_dir())
    engine = Engine(folder, max_batch_rows=max(BATCHES), max_batch_tokens=step_tokens(max(BATCHES)))
    ranks, adapters = over_ranks(engine), over_adapters(engine)
    peft = against_peft(engine, folder, options.peft_runs)
    write_plot(options.out.with_suffix(".svg"), panels(adapters), "adapters loaded", "tokens/s")
    number: Callable[[float], str] = lambda value: f"{value:.0f}"  # noqa: E731
    parts = [
        "Two adapters, half of the rows each (medians of 5 runs):\n",
        table(
            ("rank", "rows", "ms a step", "lowest to highest", "tokens/s", "prefill tokens/s"),
            [
                (
                    row["rank"],
                    row["batch"],
                    f"{row['ms_per_step']:.2f}",
                    " to ".join(f"{value:.2f}" for value in row["ms_per_step_range"]),
                    number(row["tok_s"]),
                    number(row["prefill_tok_s"]),
                )
                for row in ranks
            ],
        ),
        f"\n32 rows over more adapters, in turn ([plot]({options.out.name}.svg)):\n",
        table(
            ("rank", "adapters loaded", "ms a step", "tokens/s"),
            [(row["rank"], row["adapters"], f"{row['ms_per_step']:.2f}", number(row["tok_s"])) for row in adapters],
        ),
        f"\nAgainst transformers + PEFT, `generate(adapter_names=...)`, tokens/s (medians of 5 and of {options.peft_runs} runs):\n",
        table(
            ("rank", "rows", "ours", "PEFT", "", "prefill ours", "PEFT", ""),
            [
                (
                    row["rank"],
                    row["batch"],
                    number(row["ours"]["tok_s"]),
                    number(row["peft"]["tok_s"]),
                    _ratio(row, "tok_s"),
                    number(row["ours"]["prefill_tok_s"]),
                    number(row["peft"]["prefill_tok_s"]),
                    _ratio(row, "prefill_tok_s"),
                )
                for row in peft
            ],
        ),
    ]
    write_result(options.out, {"ranks": ranks, "adapters": adapters, "peft": peft}, "\n".join(parts))


if __name__ == "__main__":
    main()
