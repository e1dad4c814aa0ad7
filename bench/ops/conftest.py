"""What every run of the op benchmarks does: equal threads for both sides, and the machine in the JSON."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lorid_engine.cli.doctor import machine_facts
from lorid_engine.ops import cpu


@pytest.fixture(autouse=True, scope="session")
def equal_threads() -> None:
    """The torch baselines use as many threads as the ops (LORID_THREADS)."""
    torch.set_num_threads(cpu.threads())


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]) -> None:
    """Records where the numbers are from, while still there; bench/report.py prints it."""
    output_json["machine"] = machine_facts()
