"""Decode and prefill speed over ranks and adapters, and against transformers + PEFT's mixed batch, in one run.

    python bench/decode_speed.py [--parts ranks,adapters,peft] [--out bench/results/decode]

The default pack's base in bfloat16 with random adapters of q_proj and v_proj; prompt 128, decode 48, half of the rows each of two
adapters. PEFT runs the same base, rows and adapters' shapes through generate(adapter_names=...), after ours of each cell. Each part is
written as soon as it is measured; the other parts of an earlier run stay.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
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
RANKS, BATCHES = (0, 16, 64, 512), (1, 2, 8, 32)


def peft_model(folder: Path, rank: int, targets: Sequence[str] = TARGETS) -> PeftModel:
    """The base with two random adapters, "ir" and "dr"."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets), task_type="CAUSAL_LM")
    model = get_peft_model(base, config, adapter_name="ir")
    model.add_adapter("dr", config)
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight.data, std=0.02)
    return model.to(torch.bfloat16).eval()


def measure_peft(model: PeftModel, batch: int, runs: int, new: int = NEW) -> dict[str, float]:
    """Medians of a decode step and of the prefill: generations of one token against those of 1 + new."""
    ids = torch.randint(0, model.config.vocab_size, (batch, PROMPT))
    names = ["ir" if row % 2 == 0 else "dr" for row in range(batch)]

    def seconds(count: int, rows: int = batch) -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                input_ids=ids[:rows],
                attention_mask=torch.ones_like(ids[:rows]),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
                adapter_names=names[:rows],
            )
        return time.perf_counter() - start

    seconds(2, rows=2)  # warms up
    pairs = [(seconds(1), seconds(1 + new)) for _ in range(runs)]
    step = statistics.median((long - short) / new for short, long in pairs)
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


def against_peft(engine: Engine, folder: Path, ranks: Sequence[int], runs: int) -> list[dict[str, Any]]:
    """Ours and PEFT's mixed batch, cell by cell."""
    rows = []
    for rank in ranks:
        model = peft_model(folder, rank)
        for batch in BATCHES[1:]:
            plan = DecodePlan(ranks=((rank,),), batches=(batch,), spread="ir-dr", prompt=PROMPT, new=NEW)
            (ours,) = measure_decode(engine, plan)
            theirs = measure_peft(model, batch, runs)
            rows.append({"rank": rank, "batch": batch, "ours": ours, "peft": {**theirs, "runs": runs}})
            print(rows[-1])
        del model
    return rows


def _tables(parts: dict[str, Any], plot: str) -> Iterator[str]:
    """The parts that there are, in Markdown."""
    yield "Each part is measured by `python bench/decode_speed.py --parts NAME` (ranks, adapters, peft); the command below is the last one.\n"
    if rows := parts.get("ranks"):
        yield "Two adapters, half of the rows each (medians of 5 runs):\n"
        header = ("rank", "rows", "ms a step", "lowest to highest", "tokens/s", "prefill tokens/s")
        yield table(header, [_rank_row(row) for row in rows])
    if rows := parts.get("adapters"):
        yield f"\n32 rows over more adapters, in turn ([plot]({plot}); medians of 5 runs):\n"
        header = ("rank", "adapters loaded", "ms a step", "lowest to highest", "tokens/s")
        yield table(header, [(row["rank"], row["adapters"], *_rank_row(row)[2:5]) for row in rows])
    if rows := parts.get("peft"):
        runs = rows[0]["peft"]["runs"]
        yield f"\nAgainst transformers + PEFT, `generate(adapter_names=...)`, tokens/s (medians of 5 and of {runs} runs):\n"
        header = ("rank", "rows", "ours", "PEFT", "", "prefill ours", "PEFT", "")
        yield table(header, [_peft_row(row) for row in rows])


def _rank_row(row: dict[str, Any]) -> tuple[object, ...]:
    span = " to ".join(f"{value:.2f}" for value in row["ms_per_step_range"])
    step = f"{row['ms_per_step']:.2f}"
    return row["rank"], row["batch"], step, span, f"{row['tok_s']:.0f}", f"{row['prefill_tok_s']:.0f}"


def _peft_row(row: dict[str, Any]) -> tuple[object, ...]:
    cells: list[object] = [row["rank"], row["batch"]]
    for key in ("tok_s", "prefill_tok_s"):
        ours, theirs = row["ours"][key], row["peft"][key]
        cells += [f"{ours:.0f}", f"{theirs:.0f}", f"{ours / theirs:.2f}x"]
    return tuple(cells)


def main() -> None:
    """Measures the parts that are asked for, and writes each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="ranks,adapters,peft")
    parser.add_argument("--out", type=Path, default=Path("bench/results/decode"))
    parser.add_argument("--peft-ranks", default="16,512")
    parser.add_argument("--peft-runs", type=int, default=5)
    options = parser.parse_args()
    folder = resolve_base(load_pack().base, env.cache_dir())
    engine = Engine(folder, max_batch_rows=max(BATCHES), max_batch_tokens=step_tokens(max(BATCHES)))
    peft_ranks = [int(rank) for rank in options.peft_ranks.split(",")]
    measures = {
        "ranks": lambda: over_ranks(engine),
        "adapters": lambda: over_adapters(engine),
        "peft": lambda: against_peft(engine, folder, peft_ranks, options.peft_runs),
    }
    record = options.out.with_suffix(".json")
    parts = json.loads(record.read_text()) if record.exists() else {}
    for part in options.parts.split(","):
        parts[part] = measures[part]()
        kept = {name: parts[name] for name in measures if name in parts}
        write_result(options.out, kept, "\n".join(_tables(kept, f"{options.out.name}.svg")))
        if part == "adapters":
            write_plot(options.out.with_suffix(".svg"), panels(parts[part]), "adapters loaded", "tokens/s")


if __name__ == "__main__":
    main()
