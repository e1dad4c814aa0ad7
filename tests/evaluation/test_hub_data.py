"""Data sets of a hub, from one on this machine's loopback interface."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loopback_hub import serve

pytest.importorskip("datasets", reason="needs the package datasets")
ROWS = [{"question": f"What is {k}?", "answer": f"#### {k}"} for k in range(9)]
SCRIPT = """
import json, sys
from lorid_engine.errors import DataError
from lorid_engine.evaluation.problems import read_problems
try:
    found = read_problems(sys.argv[1], split=sys.argv[2], limit=3)
    print(json.dumps([found.source, found.sha256, [[p.index, p.question, p.gold] for p in found.problems]]))
except DataError as error:
    print("refused:", error)
"""


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two configurations in parquet, as GSM8K has them."""
    import datasets

    folder = tmp_path_factory.mktemp("set")
    for configuration, rows in (("main", ROWS), ("socratic", ROWS[::-1])):
        (folder / configuration).mkdir()
        datasets.Dataset.from_list(rows).to_parquet(folder / configuration / "test-00000-of-00001.parquet")
    (folder / "evil.py").write_text("raise SystemExit")
    (folder / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: main\n  data_files:\n  - split: test\n    path: main/test-*\n"
        "- config_name: socratic\n  data_files:\n  - split: test\n    path: socratic/test-*\n---\n"
    )
    return folder


def read(home: Path, endpoint: str, name: str, split: str = "test") -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", SCRIPT, name, split]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_configurations_and_splits(tmp_path: Path, data_set: Path) -> None:
    with serve({"datasets/org/set": data_set}) as hub:
        source, sha256, rows = json.loads(read(tmp_path, hub.endpoint, "org/set:main"))
        assert source == "org/set:main test" and len(sha256) == 64
        assert rows == [[k, f"What is {k}?", str(k)] for k in range(3)]
        _, other, rows = json.loads(read(tmp_path, hub.endpoint, "org/set:socratic"))
        assert rows[0] == [0, "What is 8?", "8"] and other != sha256
        assert "evil.py" not in hub.asked
        for name, split in (
            ("org/set", "test"),
            ("org/set:none", "test"),
            ("org/set:main", "train"),
            ("org/other", "test"),
        ):
            refused = read(tmp_path, hub.endpoint, name, split)
            assert refused.startswith(f"refused: there is no file {name}, and the hub's data set could not be had")
            assert "\n" not in refused


def test_json_lines(tmp_path: Path) -> None:
    folder = tmp_path / "lines"
    folder.mkdir()
    (folder / "test.jsonl").write_text(
        "".join(json.dumps({"input": row["question"], "target": 4.0}) + "\n" for row in ROWS)
    )
    with serve({"datasets/org/lines": folder}) as hub:
        source, _, rows = json.loads(read(tmp_path / "home", hub.endpoint, "org/lines"))
    assert source == "org/lines test" and rows[2] == [2, "What is 2?", "4"]
