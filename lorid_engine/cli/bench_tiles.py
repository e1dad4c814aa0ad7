"""`lorid bench tiles`: measures which tiles a model's linear layers run fastest with on this GPU, for the engine to use."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from rich.console import Console

from lorid_engine import env
from lorid_engine.benchmark.tiles import layers_of, measure_tiles
from lorid_engine.engine.options import EngineOptions, base_folder
from lorid_engine.errors import ConfigError
from lorid_engine.model.config import ModelConfig
from lorid_engine.model.random_model import shape_config


def run(options: argparse.Namespace) -> int:
    """Measures and records; returns the exit status."""
    from lorid_kernels import tuning

    engine = EngineOptions(dtype=options.dtype, device=options.device)
    if engine.device == "cpu":
        raise ConfigError("tiles are of the GPU's kernels: --device cuda")
    given = options.random_shape
    config = shape_config(given) if given else ModelConfig.from_folder(base_folder(options.base, options.revision))
    path = Path(options.out) if options.out else env.cache_dir() / "tiles.json"
    try:
        tuning.use_measured(path)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    console, rows = Console(stderr=True, highlight=False), []
    device = torch.device(engine.device)
    for row in measure_tiles(layers_of(config), options.rank, engine.torch_dtype, device):
        rows.append(row)
        tuning.record(path)  # what was measured stays if the next one is interrupted
        times = sorted(row["milliseconds"].items(), key=lambda item: item[1])
        said = "; ".join(f"{name}: {each * 1e3:.1f} us" for name, each in times)
        console.print(f"{row['layer']}, rank {row['rank']}, {row['rows']} rows: {said}", soft_wrap=True)
    if options.json:
        print(json.dumps(rows))
    console.print(f"Recorded in {path}; engines use it from now on." if not options.out else f"Recorded in {path}.")
    return 0
