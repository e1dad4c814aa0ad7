"""Decode speed of transformers' generate with mixed adapters, by PEFT's own layers and after lorid_engine.integrations.peft.accelerate.

    python bench/peft_generate.py [--ranks 16,64,512] [--rows 2,8,32] [--targets q_proj,v_proj] [--out bench/results/peft-generate]

The default pack's base in bfloat16 with two random adapters, whose rows alternate; prompt 128, decode --new. The two ways are
interleaved, run by run.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import write_result
from decode_speed import measure_peft, peft_model, table

from lorid_engine import env
from lorid_engine.integrations.peft import accelerate, restore
from lorid_engine.solver.base_source import resolve_base
from lorid_engine.solver.packs import load_pack

ALL = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"


def measure(base: Path, rank: int, rows: list[int], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Tokens/s of both ways for every number of rows."""
    model = peft_model(base, rank, options.targets.split(","))
    for count in rows:
        speeds: dict[str, list[float]] = {"peft": [], "accelerated": []}
        for _ in range(options.runs):
            restore(model)
            speeds["peft"].append(measure_peft(model, count, 1, options.new)["tok_s"])
            accelerate(model)
            speeds["accelerated"].append(measure_peft(model, count, 1, options.new)["tok_s"])
        times = statistics.median(a / b for a, b in zip(speeds["accelerated"], speeds["peft"], strict=True))
        yield {"rank": rank, "rows": count, **speeds, "times": times}


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="16,64,512")
    parser.add_argument("--rows", default="2,8,32")
    parser.add_argument("--targets", default=ALL, help="default: %(default)s")
    parser.add_argument("--new", type=int, default=16, help="decode steps; default: %(default)s")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench/results/peft-generate"))
    options = parser.parse_args()
    base = resolve_base(load_pack().base, env.cache_dir())
    rows = [int(count) for count in options.rows.split(",")]
    cells: list[dict[str, Any]] = []

    def shown(speeds: list[float]) -> str:
        return f"{statistics.median(speeds):.1f} ({min(speeds):.1f} to {max(speeds):.1f})"

    def write() -> None:
        lines = [(c["rank"], c["rows"], shown(c["peft"]), shown(c["accelerated"]), f"{c['times']:.2f}") for c in cells]
        header = ("rank", "rows", "PEFT, tokens/s", "accelerated", "times")
        about = f"Adapters of {options.targets}; prompt 128, {options.new} decode steps, medians of {options.runs} interleaved runs; times: the median of their ratios."
        named = {name: str(value) for name, value in vars(options).items() if name != "out"}
        write_result(options.out, {"options": named, "cells": cells}, f"{about}\n\n{table(header, lines)}")

    for rank in options.ranks.split(","):
        for cell in measure(base, int(rank), rows, options):
            cells.append(cell)
            write()  # after every cell: PEFT takes minutes for one


if __name__ == "__main__":
    main()
