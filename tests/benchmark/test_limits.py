"""What `lorid bench limits` measures is what it says. Never how fast."""

from __future__ import annotations

import json

import pytest

from lorid_engine.benchmark.limits import measure_limits, step_layers
from lorid_engine.cli import main
from lorid_engine.model.config import ModelConfig
from lorid_engine.model.random_model import shape_config
from lorid_engine.ops import cpu
from tiny_models import TINY


def test_the_probe_has_a_steps_linear_layers() -> None:
    layers = step_layers(shape_config("smollm2-135m"))
    assert layers[:4] == [(576, 960), (576, 576), (576, 3072), (1536, 576)] and layers[-1] == (576, 49152)
    assert len(layers) == 4 * 30 + 1


@pytest.mark.parametrize("threads", [1, 3])
def test_every_instruction_set_has_limits(isa: str, threads: int) -> None:
    config = ModelConfig.from_raw(TINY)
    limits = measure_limits(config, [1, 7], threads, runs=1)
    assert limits["instruction_set"] == isa and limits["threads"] == threads
    assert limits["read_gb_s"] > 0 and limits["fp32_gflop_s"] > 0
    assert (limits["bf16_gflop_s"] is not None) == (isa == "avx512bf16")
    assert limits["weight_mb"] == sum(2e-6 * i * -(-o // 32) * 32 for i, o in step_layers(config))
    for row, count in zip(limits["probe"], (1, 7), strict=True):
        assert row["rows"] == count and row["ms"] > 0 and row["ms_without_head"] > 0
        assert row["gflop_s"] == pytest.approx(count * row["gb_s"])


def test_the_command_says_the_same_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "limits", "--rows", "2", "--runs", "1", "--threads", "1", "--json"]) == 0
    limits = json.loads(capsys.readouterr().out)
    assert limits["threads"] == 1 and [row["rows"] for row in limits["probe"]] == [2]
    assert main(["bench", "limits", "--rows", "1", "--runs", "1"]) == 0
    assert "GB/s read" in capsys.readouterr().out


@pytest.mark.parametrize("layers", [[], [(0, 4)], [(4, -1)]])
def test_a_probe_refuses_layers_that_are_none(layers: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="layer"):
        cpu.extension().LinearProbe(layers=layers)
