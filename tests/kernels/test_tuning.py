"""Tiles that were measured: kept in a file, used, refused where they are damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from triton.runtime.errors import OutOfResources

from lorid_kernels import tuning
from lorid_kernels.tuning import CANDIDATES, Tile, default_tile, measure, record, tile_for, use_measured


@pytest.fixture(autouse=True)
def forgets() -> None:
    """Leaves no measured tile behind."""
    yield
    use_measured()


def test_the_fastest_is_used_kept_and_read_again(tmp_path: Path) -> None:
    path, fast, large = tmp_path / "tiles.json", CANDIDATES[16][0], CANDIDATES[16][1]

    def seconds(tile: Tile) -> float:
        if tile == large:
            raise OutOfResources(1, 0, "shared memory")
        return 1.0 if tile == fast else 2.0

    found = measure(640, 320, 0, 3, 1, seconds)
    assert large not in found and found[fast] == 1.0
    record(path)
    use_measured()
    assert tile_for(3, 640, 320, 0, 1) == default_tile(3, 1)
    use_measured(path)
    assert tile_for(16, 640, 320, 0, 1) == fast
    assert tile_for(16, 640, 320, 512, 1) == fast  # what was measured without adapters goes for them, too
    assert tile_for(17, 640, 320, 0, 1) == default_tile(17, 1)
    assert tile_for(3, 320, 640, 0, 1) == default_tile(3, 1)


def test_other_devices_and_versions_stay_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "tiles.json"
    path.write_text(json.dumps({"another": {"1.0": {"8 x 8, rank 0": {"16": vars(default_tile(16, 1))}}}}))
    measure(640, 320, 64, 3, 1, lambda tile: 1.0)
    record(path)
    known = json.loads(path.read_text())
    assert "another" in known and len(known) == 2


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"a": 1}',
        '{"a": {"b": {"8 x 8": {}}}}',
        '{"a": {"b": {"8 x 8, rank 0": {"16": {"block_o": 1000000, "block_t": 1, "block_k": 1, "warps": 1, "stages": 1}}}}}',
        '{"a": {"b": {"8 x 8, rank 0": {"16": {"block_o": 64}}}}}',
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tiles.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"tiles\.json holds no measured tiles"):
        use_measured(path)


def test_shipped_tiles_are_sound() -> None:
    assert tuning._read(tuning._SHIPPED)
