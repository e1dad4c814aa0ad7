"""`lorid bench limits`: what this machine can do at best."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lorid_engine.benchmark.limits import measure_limits
from lorid_engine.cli.doctor import machine_facts
from lorid_engine.cli.trace import plain
from lorid_engine.model.config import ModelConfig
from lorid_engine.model.random_model import shape_config
from lorid_engine.ops import cpu


def run(options: argparse.Namespace) -> int:
    """Measures; returns the exit status."""
    config = ModelConfig.from_folder(Path(options.base)) if options.base else shape_config(options.shape)
    threads = options.threads or cpu.threads()
    limits = measure_limits(config, options.rows, threads, options.runs)
    facts = machine_facts(threads)
    if options.json:
        print(json.dumps({**limits, "machine": facts}), flush=True)
    else:
        _print(limits, facts)
    return 0


def _print(limits: dict[str, Any], facts: dict[str, Any]) -> None:
    out = Console(highlight=False)
    if not out.is_terminal:
        out.width = 120
    bf16 = f", {limits['bf16_gflop_s']:.0f} GFLOP/s bfloat16" if limits["bf16_gflop_s"] else ""
    out.print(
        f"{limits['read_gb_s']:.1f} GB/s read, {limits['fp32_gflop_s']:.0f} GFLOP/s float32{bf16}, "
        f"{limits['barrier_us']:.2f} us from a phase to the next; {limits['weight_mb']:.0f} MB of linear layers in a step"
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("rows", "ms a step", "without head", "GB/s", "GFLOP/s", "tokens/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in limits["probe"]:
        numbers = (row["ms"], row["ms_without_head"], row["gb_s"], row["gflop_s"])
        tokens = f"{1e3 * row['rows'] / row['ms']:.0f}"
        table.add_row(str(row["rows"]), *(f"{number:.2f}" for number in numbers), tokens)
    out.print(table)
    out.print(plain("The best of the runs. " + ", ".join(f"{key} {value}" for key, value in facts.items())))
