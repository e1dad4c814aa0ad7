"""What bench/compare.py shows of runs: medians of cells, the best of the probe, ratios, and what was not measured."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCH))
    spec = importlib.util.find_spec("peers.tables")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in [name for name in sys.modules if name == "peers" or name.startswith("peers.")]:
        del sys.modules[name]


def answer(rows: int, step: float) -> dict:
    return {"rows": rows, "ms_per_step": step, "tok_s": 1e3 * rows / step, "prefill_tok_s": 400.0, "seconds": 1.0}


def probe(ms: float) -> dict:
    rows = [{"rows": count, "ms": ms * count, "ms_without_head": ms, "gb_s": 1.0, "gflop_s": 2.0} for count in (2, 128)]
    return {"read_gb_s": 10 * ms, "fp32_gflop_s": 5.0, "bf16_gflop_s": None, "barrier_us": ms, "probe": rows}


def test_the_probe_is_the_best_of_its_runs(tables: ModuleType) -> None:
    found = tables.probe_summary([probe(2.0), probe(1.0), {"error": "gone"}])
    assert found["rows"][2]["ms"] == 2.0 and found["rows"][2]["ms_range"] == [2.0, 4.0]
    assert found["read_gb_s"] == 20.0 and found["barrier_us"] == 1.0 and found["bf16_gflop_s"] is None
    assert found["error"] == "gone"


def test_ratios_are_of_medians_and_what_is_missing_says_so(tables: ModuleType) -> None:
    cells = [
        tables.summary("lorid", 0, 2, [answer(2, 10.0), answer(2, 14.0), answer(2, 11.0)]),
        tables.summary("lorid", 16, 2, [answer(2, 22.0)]),
        tables.summary("peft", 0, 2, [answer(2, 44.0)]),
        tables.summary("peft", 16, 2, [{"rows": 2, "error": "too slow"}]),
    ]
    text = tables.markdown(cells, tables.probe_summary([probe(2.5)]), "about")
    assert "45 (45 to 45), 4.00x, 1 of 3 runs" in text  # 11 ms against 44
    assert "| 0 | 2 | 11.00 | 5.00 | 5.00 | 2.20 |" in text
    assert "| 16 | 2.00 |" in text  # what adapters cost
    assert "not measured" in text and "transformers + PEFT, rank 16 at 2 rows: too slow." in text


def test_nothing_is_said_of_a_price_without_the_base(tables: ModuleType) -> None:
    cells = [tables.summary("lorid", 16, 2, [answer(2, 22.0)])]
    assert "What adapters cost" not in tables.markdown(cells, tables.probe_summary([]), "about")
