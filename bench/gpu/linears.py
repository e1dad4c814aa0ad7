"""The base's linears alone: cuBLAS, the tile that is the default, and others, which shows what bits that never change cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rig import WEIGHT_STD
from session import Session
from triton.runtime.errors import OutOfResources

from lorid_kernels import tuning
from lorid_kernels.lora_linear import MOST_MIXED_ROWS, lora_linear, num_splits
from lorid_kernels.tuning import Tile, tile_for

Measured = dict[tuple[int, int, int], dict[Tile, float]]  # seconds of each tile, by O, I and rows

# Beside what tuning tries, by its buckets. Shared memory up to Hopper's 227 KiB.
OTHER_TILES = {
    16: (Tile(64, 16, 64, 4, 6),),
    64: (Tile(64, 64, 64, 4, 5),),
    128: (Tile(64, 128, 128, 4, 3),),
    tuning.MOST_ROWS: (Tile(64, 256, 64, 4, 4),),
}


def tile_name(tile: Tile) -> str:
    """A tile as it is reported."""
    return f"{tile.block_o}x{tile.block_t}x{tile.block_k} w{tile.warps} s{tile.stages}"


def time_linears(session: Session) -> None:
    """Every shape and number of rows: cuBLAS, the default tile and others."""
    measured: Measured = {}
    for out_features, in_features in session.sizes.linears:
        session.guard("linears", lambda o=out_features, i=in_features: _time_linear(session, o, i, measured))
        session.free()
    if session.job.tiles and not session.warms:
        session.guard("tiles", lambda: _write_tiles(session, measured))


def _write_tiles(session: Session, measured: Measured) -> None:
    """The fastest tiles of base linears, by what tuning itself would choose from them; larger numbers of rows come last."""
    path = Path(session.job.tiles)
    path.unlink(missing_ok=True)
    tuning.use_measured()
    try:
        for (out_features, in_features, rows), seconds in measured.items():
            splits = num_splits(out_features, in_features)
            tuning.measure(
                out_features, in_features, 0, rows, splits, lambda tile, given=seconds: _seconds(given, tile)
            )
        tuning.record(path)
    finally:
        session.use_tiles()


def _seconds(measured: dict[Tile, float], tile: Tile) -> float:
    if tile not in measured:
        raise OutOfResources(0, 0, "whatever it lacked")
    return measured[tile]


def _tiles(rows: int, splits: int, default: Tile, few: bool) -> list[Tile]:
    """The default, what tuning tries, and others."""
    bucket = tuning.bucket(rows)
    tiles = dict.fromkeys(
        (default, tuning.default_tile(rows, splits), *tuning.CANDIDATES[bucket], *OTHER_TILES.get(bucket, ()))
    )
    return list(tiles)[: 2 if few else None]


def _time_linear(session: Session, out_features: int, in_features: int, measured: Measured) -> None:
    sizes, dtype, device = session.sizes, session.dtype, session.device
    copies = 1 if session.warms else max(2, -(-sizes.rotated // (out_features * in_features * dtype.itemsize)))
    weights = [
        torch.empty(out_features, in_features, dtype=dtype, device=device).normal_(0, WEIGHT_STD) for _ in range(copies)
    ]
    is_head = (out_features, in_features) == sizes.linears[-1]
    for rows in sizes.linear_rows:
        seconds = _time_rows(session, weights, rows, is_head)
        if seconds:
            measured[out_features, in_features, rows] = seconds


def _time_rows(session: Session, weights: list[torch.Tensor], rows: int, is_head: bool) -> dict[Tile, float]:
    """Seconds of each tile that fits."""
    out_features, in_features = weights[0].shape
    x = torch.empty(rows, in_features, dtype=session.dtype, device=session.device).normal_()
    y = torch.empty(rows, out_features, dtype=session.dtype, device=session.device)
    flops = 2 * rows * out_features * in_features
    byte_limit = (weights[0].nbytes + x.nbytes + y.nbytes) / session.bandwidth()
    flop_limit = flops / session.matmul_rate()

    def facts(seconds: float) -> dict[str, Any]:
        shares = {"byte_share": byte_limit / seconds, "peak_share": flop_limit / seconds}
        return {**shares, "limit_share": max(byte_limit, flop_limit) / seconds}

    about = {"out_features": out_features, "in_features": in_features, "rows": rows, "calls": len(weights)}
    if not session.warms:
        session.measure("linear", "cublas", _cublas(x, weights, y), facts=facts, form="cublas", tile="", **about)
    sums = _sums(session, rows, out_features, in_features, is_head)
    splits = num_splits(out_features, in_features)
    default = tile_for(rows, out_features, in_features, 0, splits)
    seconds: dict[Tile, float] = {}
    first: torch.Tensor | None = None
    for tile in _tiles(rows, splits, default, session.job.dry):
        timing = session.measure(
            "linear",
            f"{tile} {splits} {sums.dtype} {rows <= MOST_MIXED_ROWS}",
            _linears(x, weights, sums, tile),
            facts=facts,
            optional=tile != default,  # it may need more of something than there is
            form="ours",
            tile=tile_name(tile),
            is_default=tile == default,
            **about,
        )
        if timing is None:
            continue
        seconds[tile] = timing.median
        first = sums.clone() if first is None else first
        if not session.job.dry and not torch.equal(sums, first):  # numpy's products round by the tile
            session.failures += 1
            about_tile = {
                "tile": tile_name(tile),
                "out_features": out_features,
                "in_features": in_features,
                "rows": rows,
            }
            session.record("bits of tiles", **about_tile, ok=False, detail="other bits than with the default tile")
    return seconds


def _sums(session: Session, rows: int, out_features: int, in_features: int, is_head: bool) -> torch.Tensor:
    """Where a model lets the sums be written: as activations, as planes for the next norm, or as logits."""
    splits = num_splits(out_features, in_features)
    if splits > 1:
        return torch.empty(splits, rows, out_features, dtype=torch.float32, device=session.device)
    dtype = torch.float32 if is_head else session.dtype
    return torch.empty(rows, out_features, dtype=dtype, device=session.device)


def _linears(x: torch.Tensor, weights: list[torch.Tensor], y: torch.Tensor, tile: Tile) -> Callable[[], Any]:
    return lambda: [lora_linear(x, weight, None, y, tile=tile) for weight in weights]


def _cublas(x: torch.Tensor, weights: list[torch.Tensor], y: torch.Tensor) -> Callable[[], Any]:
    return lambda: [torch.mm(x, weight.t(), out=y) for weight in weights]
