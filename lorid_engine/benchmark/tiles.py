"""Which tiles a model's linear layers run fastest with on this GPU; kept for the engine in the cache."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lorid_engine.model.config import ModelConfig
from lorid_engine.model.device_adapters import room_for

BUCKETS = {16: 16, 32: 32, 64: 64, 128: 128, 1 << 31: 4096}  # of rows, and how many stand for each
_ROTATED_BYTES = 1 << 28  # several times the L2 cache: weights come from memory, as in a step
_REPEATS = 7


@dataclass(frozen=True)
class Layer:
    """A fused linear layer.

    Attributes:
        name: of its place in the model.
        column_ends: one past the last column of each module.
        in_features: I.
    """

    name: str
    column_ends: tuple[int, ...]
    in_features: int


def layers_of(config: ModelConfig) -> list[Layer]:
    """The distinct linear layers of a model, the head included."""
    heads, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    hidden, wide = config.hidden_size, config.intermediate_size
    return [
        Layer("qkv", (heads, heads + kv, heads + 2 * kv), hidden),
        Layer("output", (hidden,), heads),
        Layer("gate_up", (wide, 2 * wide), hidden),
        Layer("down", (hidden,), wide),
        Layer("head", (config.vocab_size,), hidden),
    ]


def measure_tiles(
    layers: Sequence[Layer], ranks: Sequence[int], dtype: torch.dtype, device: torch.device
) -> Iterator[dict[str, Any]]:
    """Times every tile for every layer, rank and bucket of rows, in CUDA graphs over weights that no cache holds.

    Yields:
        layer, rank, rows, and milliseconds by tile (the fastest is used from now on; lorid_kernels.tuning.record keeps it).
    """
    from lorid_kernels import tuning
    from lorid_kernels.lora_linear import num_splits
    from lorid_kernels.lora_shrink import shrink_for_linear
    from lorid_kernels.segments import Segments

    for layer in layers:
        out_features = layer.column_ends[-1]
        size = out_features * layer.in_features * dtype.itemsize
        weights = [
            torch.randn(out_features, layer.in_features, device=device).to(dtype)
            for _ in range(-(-_ROTATED_BYTES // size))
        ]
        for rank in ranks if layer.name != "head" else (0,):
            adapters, matrices = _adapters(layer, rank, dtype, device) if rank else (None, [])
            for bucket, rows in BUCKETS.items():
                x = torch.randn(rows, layer.in_features, device=device).to(dtype)
                splits = num_splits(out_features, layer.in_features)
                y = (
                    x.new_empty(splits, rows, out_features, dtype=torch.float32)
                    if splits > 1
                    else x.new_empty(rows, out_features)
                )
                segments = shrunk = None
                if adapters is not None:
                    half = torch.tensor([0, rows // 2, rows], dtype=torch.int32, device=device)
                    segments = Segments(half, torch.tensor([0, 1], dtype=torch.int32, device=device))
                    shrunk = shrink_for_linear(x, adapters, segments)

                arguments = {"y": y, "adapters": adapters, "segments": segments, "shrunk": shrunk}
                seconds = functools.partial(_seconds, x, weights, arguments)
                width = adapters.width if adapters is not None else 0
                found = tuning.measure(out_features, layer.in_features, width, bucket, splits, seconds)
                yield {
                    "layer": layer.name,
                    "rank": rank,
                    "rows": rows,
                    "milliseconds": {_name(tile): 1e3 * each for tile, each in found.items()},
                }
            matrices.clear()  # until here: the tables hold their places only


def _seconds(x: torch.Tensor, weights: Sequence[torch.Tensor], arguments: dict[str, Any], tile: Any) -> float:
    """What one of the weights takes with a tile."""
    from lorid_kernels.lora_linear import lora_linear

    def launch() -> None:
        for weight in weights:
            lora_linear(x, weight, None, tile=tile, **arguments)

    return graph_seconds(launch) / len(weights)


def graph_seconds(launch: Callable[[], None]) -> float:
    """The median seconds of what `launch` launches, replayed as a CUDA graph."""
    launch()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch()
    graph.replay()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(_REPEATS)]
    for begin, end in events:
        begin.record()
        graph.replay()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in events) / 1e3


def _adapters(layer: Layer, rank: int, dtype: torch.dtype, device: torch.device) -> tuple[Any, list[torch.Tensor]]:
    """Two adapters of every module in tables, as an engine holds them, and what their matrices lie in."""
    from lorid_kernels.segments import Adapters

    anchor = torch.zeros(16, dtype=dtype, device=device)
    widths = [end - begin for begin, end in zip((0, *layer.column_ends[:-1]), layer.column_ends, strict=True)]
    matrices: list[torch.Tensor] = []

    def offset(*shape: int) -> int:
        matrices.append((torch.randn(shape, device=device) / shape[-1] ** 0.5).to(dtype))
        return (matrices[-1].data_ptr() - anchor.data_ptr()) // (16 * dtype.itemsize)

    a = torch.tensor([[offset(rank, layer.in_features) for _ in range(2)] for _ in widths], device=device)
    b_t = torch.tensor([[offset(rank, width) for _ in range(2)] for width in widths], device=device)
    adapters = Adapters(
        a,
        b_t,
        torch.full(a.shape, rank, dtype=torch.int32, device=device),
        torch.ones(a.shape, device=device),
        layer.column_ends,
        room_for(rank),
        anchor=anchor,
    )
    return adapters, matrices


def _name(tile: Any) -> str:
    return f"{tile.block_o}x{tile.block_t}x{tile.block_k}, {tile.warps} warps, {tile.stages} stages"
