"""What this machine can do at best: memory, arithmetic, the pool's barrier, and a model's linear layers alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lorid_engine.model.config import ModelConfig
from lorid_engine.ops import cpu


def step_layers(config: ModelConfig) -> list[tuple[int, int]]:
    """(in_features, out_features) of the linear layers of a step as they are fused, the head last."""
    heads, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    hidden, wide = config.hidden_size, config.intermediate_size
    layer = [(hidden, heads + 2 * kv), (heads, hidden), (hidden, 2 * wide), (wide, hidden)]
    return layer * config.num_layers + [(hidden, config.vocab_size)]


def measure_limits(config: ModelConfig, rows: Sequence[int], threads: int, runs: int) -> dict[str, Any]:
    """Measures with the instruction set in use; the best of the runs, since a limit is what happens undisturbed.

    Args:
        config: whose linear layers are probed, in bfloat16.
        rows: how many rows a step has, each a probe.
        threads: that take part.
        runs: of each probe.

    Returns:
        read_gb_s of memory; fp32_gflop_s and bf16_gflop_s of multiply-adds in registers (None without a bf16 product);
        barrier_us from the end of a phase to the start of the next; weight_mb of a step; and for each number of rows the
        probe's {rows, ms, ms_without_head, gb_s, gflop_s}: prepacked weights, columns divided once, a spinning barrier, and
        nothing else.
    """
    extension = cpu.extension()
    machine = extension.measure_machine(threads=threads)
    probe = extension.LinearProbe(layers=step_layers(config))
    results = []
    for count in rows:
        seconds, layer_seconds = probe.measure(rows=count, threads=threads, runs=runs)
        results.append(
            {
                "rows": count,
                "ms": 1e3 * seconds,
                "ms_without_head": 1e3 * layer_seconds,
                "gb_s": probe.bytes / seconds / 1e9,
                "gflop_s": probe.bytes * count / seconds / 1e9,  # two bytes and two operations to a weight
            }
        )
    bf16 = machine["bf16_flop_per_s"]
    return {
        "instruction_set": extension.active_isa(),
        "threads": threads,
        "read_gb_s": machine["read_bytes_per_s"] / 1e9,
        "fp32_gflop_s": machine["fp32_flop_per_s"] / 1e9,
        "bf16_gflop_s": bf16 / 1e9 if bf16 else None,
        "barrier_us": 1e6 * machine["barrier_s"],
        "weight_mb": probe.bytes / 1e6,
        "probe": results,
    }
