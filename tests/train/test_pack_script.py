"""The script that trains the default pack: its data is what it says, and what it cannot do is said in a line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "bench" / "packs"
sys.path.insert(0, str(FOLDER))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    from smollm2_gsm8k import main

    assert main(arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_data_that_is_not_there_or_other_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--data", str(tmp_path), "--out", str(tmp_path / "pack"))
    assert "--data names the folder that holds gsm8k/train.jsonl and" in refused(capsys, *arguments)
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "train.jsonl").write_text("{}\n")
    assert "has SHA-256 ca3d163bab055381827226140568f3bef7eaac187cebd76878e0b63e9e442356" in refused(capsys, *arguments)
    assert not (tmp_path / "pack").exists()


def test_a_place_that_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("")
    assert "exists already" in refused(capsys, "--data", str(tmp_path), "--out", str(tmp_path))
