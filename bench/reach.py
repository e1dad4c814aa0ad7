"""What else the CPU path is to do: many adapters, threads, a busy neighbour, starting, memory, Python's share of a step.

    python bench/reach.py [--parts adapters,threads,neighbour,start,python] [--out bench/results/reach]

The default pack's base in bfloat16, random adapters of q_proj and v_proj, prompts of 32 tokens, 24 decode steps, medians of 5 runs. Each
part is written as soon as it is measured; the other parts of an earlier run stay.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import write_result

from lorid_engine import env
from lorid_engine.benchmark.decode import DecodePlan, measure_decode, step_tokens
from lorid_engine.benchmark.limits import step_layers
from lorid_engine.engine import Engine
from lorid_engine.model.adapters import module_shapes
from lorid_engine.ops import cpu
from lorid_engine.solver.base_source import resolve_base
from lorid_engine.solver.packs import load_pack

BATCHES = (1, 2, 8, 32)
RUNS = {"prompt": 32, "new": 24, "runs": 5}
_START = """
import json, resource, sys, time
from lorid_engine.engine import Engine
from lorid_engine.engine.options import EngineOptions
from lorid_engine.engine.tokenizer import Tokenizer
from lorid_engine.model.config import ModelConfig
from lorid_engine.model.random_model import random_adapter
from lorid_engine.model.weights import Checkpoint

def anonymous():
    with open("/proc/self/smaps_rollup", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))

folder = sys.argv[1]
config, tokenizer = ModelConfig.from_folder(folder), Tokenizer.from_folder(folder)
idle, start = anonymous(), time.perf_counter()
engine = Engine.from_tensors(Checkpoint(folder), config, tokenizer, EngineOptions())
seconds = time.perf_counter() - start
for number in range(2):
    adapter = random_adapter(str(number), config, 16, ("q_proj", "v_proj"), number)
    engine.load_adapter(adapter.name, adapter)
    del adapter
print(json.dumps({"seconds": seconds, "anonymous": anonymous() - idle}))
"""


def make_engine(folder: Path, threads: int | None = None) -> Engine:
    return Engine(folder, max_batch_rows=max(BATCHES), max_batch_tokens=step_tokens(max(BATCHES)), threads=threads)


def adapter_bytes(engine: Engine, rank: int) -> int:
    """Bytes of one adapter of q_proj and v_proj in bfloat16, all layers."""
    shapes = module_shapes(engine.config)
    sizes = (sum(shapes[f"self_attn.{name}"]) for name in ("q_proj", "v_proj"))
    return engine.config.num_layers * 2 * rank * sum(sizes)


def over_adapters(folder: Path) -> dict[str, Any]:
    """8, 32 and 64 adapters of rank 16 at 32 rows, against 2 and the time that their further bytes take to read."""
    engine = make_engine(folder)
    speed = cpu.extension().measure_machine(threads=cpu.threads())["read_bytes_per_s"]
    plan = DecodePlan(ranks=((16,),), batches=(32,), adapters=(2, 8, 32, 64), **RUNS)
    steps = {row["adapters"]: row["ms_per_step"] for row in measure_decode(engine, plan)}
    each = adapter_bytes(engine, 16)
    rows = []
    for adapters, step in steps.items():
        read = min(adapters, 32)  # a step of 32 rows reads no more than 32 of them
        allowed = steps[2] + 1e3 * (read - 2) * each / speed
        rows.append({"adapters": adapters, "ms": step, "allowed_ms": allowed, "times": step / allowed})
    return {"read_gb_s": speed / 1e9, "mb_an_adapter": each / 1e6, "rows": rows}


def over_threads(folder: Path) -> dict[str, Any]:
    """All threads against one at 32 rows, and what one thread reads of its weights at one row against a core's bandwidth."""
    found = {}
    for threads in (1, cpu.threads()):
        plan = DecodePlan(ranks=((0,),), batches=(1, 32), **RUNS)
        found[threads] = {
            row["batch"]: row["ms_per_step"] for row in measure_decode(make_engine(folder, threads), plan)
        }
    machine = cpu.extension().measure_machine(threads=1)
    config = make_engine(folder).config

    read = sum(2 * i * o for i, o in step_layers(config)) / (1e-3 * found[1][1])
    return {
        "threads": cpu.threads(),
        "ms_at_32_rows": {str(threads): steps[32] for threads, steps in found.items()},
        "times": found[1][32] / found[cpu.threads()][32],
        "one_thread_gb_s": read / 1e9,
        "one_core_gb_s": machine["read_bytes_per_s"] / 1e9,
        "share": read / machine["read_bytes_per_s"],
    }


def _be_busy(core: int) -> None:
    os.sched_setaffinity(0, {core})
    while True:
        pass


def beside_neighbour(folder: Path) -> list[dict[str, Any]]:
    """Tokens/s with a busy process pinned to the last core, against none."""
    engine = make_engine(folder)
    plan = DecodePlan(ranks=((16,),), batches=BATCHES, **RUNS)
    quiet = measure_decode(engine, plan)
    neighbour = multiprocessing.get_context("spawn").Process(
        target=_be_busy, args=(max(os.sched_getaffinity(0)),), daemon=True
    )
    neighbour.start()
    try:
        busy = measure_decode(engine, plan)
    finally:
        neighbour.kill()
    pairs = zip(quiet, busy, strict=True)
    return [
        {"rows": q["batch"], "quiet_tok_s": q["tok_s"], "busy_tok_s": b["tok_s"], "share": b["tok_s"] / q["tok_s"]}
        for q, b in pairs
    ]


def start(folder: Path) -> dict[str, Any]:
    """Seconds from a mapped file to an engine, after imports and tokenizer, and memory above that; the best of three."""
    runs = []
    for _ in range(3):
        command = [sys.executable, "-c", _START, str(folder)]
        runs.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    engine = make_engine(folder)

    held = sum(2 * i * o for i, o in step_layers(engine.config)) + 2 * adapter_bytes(engine, 16)
    best = min(runs, key=lambda run: run["seconds"])
    return {**best, "runs": runs, "held": held, "times": best["anonymous"] / held}


def python_share(folder: Path) -> list[dict[str, Any]]:
    """What of a step is not spent in kernels."""
    rows = measure_decode(make_engine(folder), DecodePlan(ranks=((16,),), batches=BATCHES, **RUNS))
    return [
        {"rows": row["batch"], "ms": row["ms_per_step"], "share": 1 - row["ms_in_kernels"] / row["ms_per_step"]}
        for row in rows
    ]


def markdown(parts: dict[str, Any]) -> str:
    """A sentence or a table for each part that was measured."""
    lines = []
    if found := parts.get("adapters"):
        lines += ["| adapters of rank 16, 32 rows | ms a step | what their bytes allow | times |", "| --- " * 4 + "|"]
        for row in found["rows"]:
            lines.append(f"| {row['adapters']} | {row['ms']:.1f} | {row['allowed_ms']:.1f} | {row['times']:.2f} |")
    if found := parts.get("threads"):
        steps = ", ".join(f"{ms:.1f} ms with {threads}" for threads, ms in found["ms_at_32_rows"].items())
        lines += ["", f"Threads, 32 rows: {steps}: {found['times']:.2f}x."]
        lines.append(
            f"One thread at one row reads {found['one_thread_gb_s']:.1f} GB/s of weights, {100 * found['share']:.0f} % of the "
            f"{found['one_core_gb_s']:.1f} GB/s that one core reads."
        )
    if found := parts.get("neighbour"):
        lines += ["", "| rows | tokens/s | with a busy process on one core | share |", "| --- " * 4 + "|"]
        for row in found:
            cells = (
                row["rows"],
                f"{row['quiet_tok_s']:.0f}",
                f"{row['busy_tok_s']:.0f}",
                f"{100 * row['share']:.0f} %",
            )
            lines.append(f"| {' | '.join(map(str, cells))} |")
    if found := parts.get("start"):
        lines += [
            "",
            f"Start: {found['seconds']:.2f} s from the mapped file to an engine; {found['anonymous'] / 1e6:.0f} MB of anonymous "
            f"memory above an idle process, {found['times']:.2f} times base and adapters ({found['held'] / 1e6:.0f} MB).",
        ]
    if found := parts.get("python"):
        shares = ", ".join(f"{100 * row['share']:.1f} % at {row['rows']}" for row in found)
        lines += ["", f"Python and scheduler, of a step: {shares} rows."]
    return "\n".join(lines).strip()


PARTS: dict[str, Callable[[Path], Any]] = {
    "adapters": over_adapters,
    "threads": over_threads,
    "neighbour": beside_neighbour,
    "start": start,
    "python": python_share,
}


def main() -> None:
    """Measures the parts that are asked for, and writes each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--out", type=Path, default=Path("bench/results/reach"))
    options = parser.parse_args()
    folder = resolve_base(load_pack().base, env.cache_dir())
    record = options.out.with_suffix(".json")
    parts = json.loads(record.read_text()) if record.exists() else {}
    for part in options.parts.split(","):
        parts[part] = PARTS[part](folder)
        kept = {name: parts[name] for name in PARTS if name in parts}
        write_result(options.out, kept, markdown(kept))


if __name__ == "__main__":
    main()
