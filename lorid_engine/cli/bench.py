"""`lorid bench decode`: tokens per second of the engine across adapters."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from lorid_engine import env
from lorid_engine.benchmark.decode import DecodePlan, measure_decode, step_tokens
from lorid_engine.cli.doctor import machine_facts
from lorid_engine.cli.trace import FetchProgress, plain
from lorid_engine.engine import Engine
from lorid_engine.engine.options import EngineOptions
from lorid_engine.engine.runner import page_bytes
from lorid_engine.engine.tokenizer import Tokenizer
from lorid_engine.errors import ConfigError
from lorid_engine.model.config import ModelConfig
from lorid_engine.model.random_model import RandomTensors, number_tokenizer, shape_config
from lorid_engine.model.weights import Checkpoint, TensorSource
from lorid_engine.ops.kv_pages import PAGE_TOKENS
from lorid_engine.plots import Panel, write_plot


def run(options: argparse.Namespace) -> int:
    """Measures; returns the exit status."""
    plan = DecodePlan(
        ranks=options.rank,
        batches=options.batch,
        adapters=options.adapters,
        spread=options.spread,
        targets=options.targets,
        prompt=options.prompt,
        new=options.new,
        runs=options.runs,
        seed=options.seed,
    )
    if options.plot:
        _check_plot(Path(options.plot))
    if options.revision and not options.base:
        raise ConfigError("--revision is for a hub's model, which --base names")
    console = Console(stderr=True, highlight=False)
    done: list[dict[str, Any]] = []

    def tell(row: dict[str, Any]) -> None:
        done.append(row)
        console.print(f"{len(done)} of {plan.cells}: {_say(row)}", soft_wrap=True)

    facts = machine_facts(options.threads)
    about = {
        "dtype": options.dtype,
        "device": _device_name(options.device),
        "threads": facts["threads"],
        "instruction_set": facts["instruction set"],
    }
    rows = [{**row, **about} for row in measure_decode(_engine(options, plan, console), plan, tell)]
    if options.json:
        print(json.dumps(rows), flush=True)
    else:
        _print(rows, facts)
    if options.plot:
        write_plot(Path(options.plot), panels(rows), "adapters loaded", "tokens/s")
    return 0


def _device_name(device: str) -> str:
    return device if device == "cpu" else torch.cuda.get_device_name(device)


def _check_plot(path: Path) -> None:
    if path.suffix not in (".svg", ".png", ".pdf"):
        raise ConfigError(f"the plot's name must end in .svg, .png or .pdf; got {path.name}")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"the plot {path} cannot be written; name a file in a folder that exists and may be written")


def _engine(options: argparse.Namespace, plan: DecodePlan, console: Console) -> Engine:
    """An engine with room for the plan's largest batch and the prompts that it shares."""
    largest = max(plan.batches)
    if options.random_shape:
        config = shape_config(options.random_shape)
        source: TensorSource = RandomTensors(plan.seed)
        tokenizer = Tokenizer(number_tokenizer(config.vocab_size), {})
    else:
        folder = _base_folder(options, console)
        config, tokenizer = ModelConfig.from_folder(folder), Tokenizer.from_folder(folder)
        source = Checkpoint(folder)
    if plan.tokens > config.max_positions:
        raise ConfigError(f"--prompt and --new pass the base's context of {config.max_positions} tokens")
    dtype = EngineOptions(dtype=options.dtype, device=options.device).torch_dtype
    pages = (2 * largest + 1) * -(-plan.tokens // PAGE_TOKENS)
    engine_options = EngineOptions(
        dtype=options.dtype,
        device=options.device,
        threads=options.threads,
        max_batch_rows=largest,
        max_batch_tokens=max(512, step_tokens(largest)),
        kv_memory=pages * page_bytes(config, dtype),
    )
    return Engine.from_tensors(source, config, tokenizer, engine_options)


def _base_folder(options: argparse.Namespace, console: Console) -> Path:
    from lorid_engine.engine.options import base_folder
    from lorid_engine.solver.base_source import resolve_base
    from lorid_engine.solver.packs import load_pack

    if options.base:
        return base_folder(options.base, options.revision)
    with FetchProgress(console) as report:
        return resolve_base(load_pack().base, env.cache_dir(), report)


def panels(rows: Sequence[dict[str, Any]]) -> list[Panel]:
    """Tokens/s against adapters, a line for each rank, a panel for each batch."""
    batches = sorted({row["batch"] for row in rows})
    return [Panel(f"{batch} rows", _lines([row for row in rows if row["batch"] == batch])) for batch in batches]


def _lines(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    counts = sorted({row["adapters"] for row in rows if row["adapters"]}) or [1]
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        if row["rank"] == 0:  # no adapters, whatever their number: a level
            lines["no adapters"] = ([counts[0], counts[-1]], [row["tok_s"]] * 2)
            continue
        x, y = lines.setdefault(f"rank {row['rank']}", ([], []))
        x.append(row["adapters"])
        y.append(row["tok_s"])
    return lines


def _say(row: dict[str, Any]) -> str:
    low, high = row["ms_per_step_range"]
    return (
        f"rank {row['rank']}, {row['batch']} rows, {row['adapters']} adapters: {row['ms_per_step']:.2f} ms a step "
        f"({low:.2f} to {high:.2f}), {row['tok_s']:.0f} tokens/s; prefill {row['prefill_tok_s']:.0f} tokens/s"
    )


def _print(rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> None:
    out = Console(highlight=False)
    if not out.is_terminal:
        out.width = 120
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("rank", "rows", "adapters", "ms a step", "lowest to highest", "tokens/s", "prefill tokens/s"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        low, high = row["ms_per_step_range"]
        numbers = (row["rank"], row["batch"], row["adapters"], f"{row['ms_per_step']:.2f}", f"{low:.2f} to {high:.2f}")
        table.add_row(*map(str, numbers), f"{row['tok_s']:.0f}", f"{row['prefill_tok_s']:.0f}")
    out.print(table)
    out.print(
        plain(f"Medians of {rows[0]['runs']} runs. " + ", ".join(f"{key} {value}" for key, value in facts.items()))
    )
