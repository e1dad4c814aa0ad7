"""bench/gpu/run.py --dry: every part runs on tiny shapes under Triton's interpreter, and what it writes is whole."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = {"correctness", "peaks", "linears", "products", "decode", "prefill", "engine", "mistral"}


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="the package triton is not installed")
def test_a_dry_run_measures_everything(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "bench" / "gpu" / "run.py"), "--dry", "--out", str(tmp_path / "gpu")]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("TRITON_", "LORID_"))}
    done = subprocess.run(
        [*command, "--parts", ",".join(sorted(PARTS))], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    result = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert {"command", "machine", "seconds", "targets", "rows"} <= result.keys()
    assert {"device", "torch", "triton", "python"} <= result["machine"].keys()
    assert {row["part"] for row in result["rows"]} == PARTS
    assert not [row for row in result["rows"] if "error" in row or "skipped" in row]
    checks = [row for row in result["rows"] if "ok" in row]
    assert len(checks) >= 10 and all(row["ok"] for row in checks)
    timed = [row for row in result["rows"] if "quartiles" in row]
    assert {(row["part"], row["form"]) for row in timed if "form" in row} >= {
        ("linears", "cublas"),
        ("linears", "ours"),
        ("products", "cublas per segment"),
        ("products", "ours"),
        ("decode", "cublas"),
        ("decode", "cublas per segment"),
        ("decode", "ours"),
        ("decode", "ours, tuned"),
        ("prefill", "ours"),
        ("mistral", "ours"),
    }
    assert all({"goal", "measured", "met"} == target.keys() for target in result["targets"])
    assert "## Goals" in (tmp_path / "gpu.md").read_text(encoding="utf-8")
    for plot in ("steps", "products"):
        assert (tmp_path / f"gpu-{plot}.svg").read_text(encoding="utf-8").lstrip().startswith("<?xml")
