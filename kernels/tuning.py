"""Which tile a linear layer takes: one that was measured on this device, or a default.

All tiles add up an element's products in the same order (tile sizes only group them), so tuning never changes a bit.
Measured tiles lie in JSON files, {device: {Triton version: {"O x I, rank R": {rows: tile}}}}; the package brings one.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton


@dataclass(frozen=True)
class Tile:
    """A tile of block_o columns by block_t rows, block_k features at a time."""

    block_o: int
    block_t: int
    block_k: int
    warps: int
    stages: int


# By the most rows that they are for; shared memory of each is below 99 KiB, so that they run everywhere.
DEFAULTS = {
    16: Tile(64, 16, 128, 4, 4),
    32: Tile(64, 32, 128, 4, 4),
    64: Tile(64, 64, 64, 8, 4),
    128: Tile(64, 128, 64, 8, 4),
}
MANY = Tile(128, 128, 64, 8, 3)
MANY_OF_PARTS = Tile(128, 64, 64, 8, 4)  # two sums of a larger tile do not fit into the registers of every GPU
MOST_ROWS = 1 << 31  # the bucket of all larger numbers of rows
# What tuning tries beside the default, by bucket; those with more shared memory than a device has are skipped.
CANDIDATES = {
    16: (Tile(64, 16, 128, 4, 6), Tile(128, 16, 128, 8, 4), Tile(128, 16, 64, 4, 6), Tile(64, 16, 256, 4, 3)),
    32: (Tile(64, 32, 128, 4, 6), Tile(128, 32, 128, 8, 4), Tile(128, 32, 64, 4, 6), Tile(64, 32, 64, 4, 6)),
    64: (
        Tile(64, 64, 128, 4, 3),
        Tile(64, 64, 64, 4, 6),
        Tile(128, 64, 64, 4, 4),
        Tile(128, 64, 128, 8, 3),
        Tile(64, 64, 128, 4, 4),
    ),
    128: (
        Tile(64, 128, 64, 4, 4),
        Tile(128, 128, 64, 8, 4),
        Tile(64, 128, 64, 4, 5),
        Tile(128, 128, 128, 8, 3),
        Tile(64, 64, 128, 4, 4),
    ),
    MOST_ROWS: (Tile(128, 128, 64, 8, 4), Tile(128, 256, 64, 8, 3), Tile(256, 128, 64, 8, 3), Tile(128, 256, 64, 8, 4)),
}
_SHIPPED = Path(__file__).with_name("tuned.json")
_found: dict[tuple[int, int, int, int], Tile] = {}  # by this process, to be recorded
_measured: dict[tuple[int, int, int, int], Tile] = {}  # by rank, O, I and bucket


def bucket(rows: int) -> int:
    """The bucket of a number of rows."""
    return next((most for most in DEFAULTS if rows <= most), MOST_ROWS)


def default_tile(rows: int, splits: int) -> Tile:
    """The tile that is good for a number of rows, and a weight in so many parts, where nothing was measured."""
    return DEFAULTS.get(bucket(rows), MANY_OF_PARTS if splits > 1 else MANY)


def tile_for(rows: int, out_features: int, in_features: int, max_rank: int, splits: int) -> Tile:
    """The tile of a linear layer [O, I] in so many parts, with adapters of up to max_rank (0 = none)."""
    place = (out_features, in_features, bucket(rows))
    return _measured.get((max_rank, *place)) or _measured.get((0, *place)) or default_tile(rows, splits)


def use_measured(path: Path | None = None) -> None:
    """Takes from now on the tiles that were measured on this device with this Triton: the package's, then those of a file.

    Raises:
        ValueError: the file is not one that `record` wrote; it names the file.
    """
    _measured.clear()
    _found.clear()
    for file in (_SHIPPED, path):
        if file is not None and file.exists():
            for layer, tiles in _read(file).get(_device(), {}).get(triton.__version__, {}).items():
                for rows, tile in tiles.items():
                    out_features, in_features, max_rank = _numbers(layer)
                    _measured[max_rank, out_features, in_features, int(rows)] = Tile(**tile)


def measure(
    out_features: int, in_features: int, max_rank: int, rows: int, splits: int, seconds: Callable[[Tile], float]
) -> dict[Tile, float]:
    """Times the default tile and the candidates of a bucket, and takes the fastest from now on.

    Args:
        seconds: how long the layer takes with a tile; it raises triton.runtime.errors.OutOfResources where it does not fit.

    Returns:
        The seconds of each tile that fits.
    """
    found: dict[Tile, float] = {}
    for tile in dict.fromkeys((default_tile(rows, splits), *CANDIDATES[bucket(rows)])):
        with contextlib.suppress(triton.runtime.errors.OutOfResources):
            found[tile] = seconds(tile)
    place = (max_rank, out_features, in_features, bucket(rows))
    _found[place] = _measured[place] = min(found, key=lambda tile: found[tile])
    return found


def record(path: Path) -> None:
    """Writes what this process measured into a file, beside what is there."""
    known = _read(path) if path.exists() else {}
    layers = known.setdefault(_device(), {}).setdefault(triton.__version__, {})
    for (max_rank, out_features, in_features, rows), tile in sorted(_found.items()):
        layers.setdefault(f"{out_features} x {in_features}, rank {max_rank}", {})[str(rows)] = asdict(tile)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        for layer, tiles in ((layer, tiles) for versions in known.values() for layers in versions.values() for layer, tiles in layers.items()):  # fmt: skip
            _check(layer, tiles)
        return known
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} holds no measured tiles ({error}); delete it") from None


def _check(layer: str, tiles: Iterable[Any]) -> None:
    _numbers(layer)
    for rows, tile in tiles.items():  # type: ignore[attr-defined]
        known = (*DEFAULTS.values(), MANY, MANY_OF_PARTS, *CANDIDATES.get(int(rows), ()))
        if Tile(**tile) not in known or any(type(size) is not int for size in tile.values()):
            raise ValueError(f"unknown tile {tile}")


def _numbers(layer: str) -> tuple[int, int, int]:
    shape, _, rank = layer.partition(", rank ")
    out_features, _, in_features = shape.partition(" x ")
    return int(out_features), int(in_features), int(rank)


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
