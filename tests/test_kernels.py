"""The Triton kernels' results, interpreted on the CPU: tests/kernels in processes of their own."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "kernels"


def run_part(part: int, parts: int) -> subprocess.CompletedProcess[str]:
    """Every parts-th test of tests/kernels, by an interpreting Triton."""
    cores = len(os.sched_getaffinity(0))
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("TRITON_", "LORID_"))}
    environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": str(max(cores // parts, 1))}
    command = [sys.executable, "-m", "pytest", str(FOLDER), "-q", "-p", "no:cacheprovider", f"--part={part}/{parts}"]
    return subprocess.run(
        command, cwd=FOLDER.parents[1], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def outcomes(output: str) -> dict[str, int]:
    """How many tests passed, were skipped and so on, by pytest's last line."""
    last = output.rstrip().rpartition("\n")[2]
    return {outcome: int(count) for count, outcome in re.findall(r"(\d+) ([a-z]+)", last.partition(" in ")[0])}


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="the package triton is not installed")
def test_kernels_interpreted() -> None:
    parts = min(len(os.sched_getaffinity(0)), 8)
    with ThreadPoolExecutor(parts) as pool:
        done = list(pool.map(run_part, range(parts), [parts] * parts))
    failures = [each.stdout for each in done if each.returncode != 0]
    assert not failures, "\n".join(failures)
    for each in done:
        assert outcomes(each.stdout).keys() <= {"passed", "deselected", "warnings"}, each.stdout
        assert outcomes(each.stdout)["passed"] > 0, each.stdout


def test_outcomes_are_read() -> None:
    assert outcomes("..s\n\n3 passed, 1 skipped, 2 warnings in 5.20s\n") == {"passed": 3, "skipped": 1, "warnings": 2}
    assert outcomes("no tests ran in 0.01s") == {}
