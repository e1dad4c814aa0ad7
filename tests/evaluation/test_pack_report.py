"""bench/packs/report.py and choose_rounds.py on results that were counted by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lorid_engine.evaluation.results import ResultsFile
from lorid_engine.evaluation.scores import is_right
from lorid_engine.solver.packs import load_pack
from test_scores import GREEDY, QUESTIONS, SAMPLES
from tiny_pack import make_pack_folder

SCRIPT = Path(__file__).parents[2] / "bench" / "packs" / "report.py"
DATA = {"data_sha256": "1" * 64, "base_sha256": "2" * 64}
SETTINGS = {
    "pack": "p",
    "pack_sha256": "0" * 64,
    "limit": 4,
    "max_rounds": 3,
    "dtype": "float32",
    "sampling": {},
    **DATA,
}


def write_run(path: Path, questions: dict[int, Any], seed: int, **changed: Any) -> None:
    with ResultsFile(path, {**SETTINGS, "seed": seed, **changed}, {"processor": "any"}) as results:
        for index, each in questions.items():
            right = is_right(each["answer"], each["gold"])
            results.append({"record": "question", "question": f"q{index}", "right": right, **each})
        for index, each in GREEDY.items():
            results.append({"record": "greedy", "index": index, **each})
        for index, each in SAMPLES.items():
            # 9 samples are the most that 3 rounds may have, 3 of them are the loop's own at most.
            results.append({"record": "samples", "index": index, "first": 0, "samples": each + each[-1:] * 3})


def run(work: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(work), "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_means_of_seeds_and_paired_differences(tmp_path: Path) -> None:
    """The second seed has all of its questions right."""
    write_run(tmp_path / "gsm8k-seed0.jsonl", QUESTIONS, 0)
    at_once = {"ir": {"tokens": 10}, "kg": {"tokens": 10}, "dr": {"tokens": 10}}
    right: dict[int, Any] = {}
    for index, each in QUESTIONS.items():
        answers = {role: {**at_once[role], "answer": each["gold"]} for role in at_once}
        trace = [{"round": 1, **answers}]
        right[index] = {**each, "answer": each["gold"], "agreed": True, "rounds": 1, "tokens": 30, "trace": trace}
    write_run(tmp_path / "gsm8k-seed1.jsonl", right, 1)
    base = [{"index": index, "right": index == 1} for index in QUESTIONS]
    (tmp_path / "gsm8k-base-0-shot.jsonl").write_text("\n".join(json.dumps(each) for each in [DATA, *base]) + "\n")
    (tmp_path / "gsm8k-base-8-shot.jsonl").write_text(
        "\n".join(json.dumps(each) for each in [DATA, *base])
    )  # a cut line
    write_run(tmp_path / "addsub-seed0.jsonl", dict(list(QUESTIONS.items())[:3]), 0)  # a question is missing
    done = run(tmp_path, tmp_path / "out" / "eval")
    assert done.returncode == 0, done.stderr
    assert "addsub-seed0.jsonl is not complete: it is left out" in done.stderr
    assert "gsm8k-base-8-shot.jsonl is not complete: it is left out" in done.stderr
    found = json.loads((tmp_path / "out" / "eval.json").read_text())["sets"]
    assert list(found) == ["gsm8k"] and found["gsm8k"]["seeds"] == [0, 1]
    gsm8k = found["gsm8k"]
    assert gsm8k["by_seed"]["fallback"] == [0.5, 1.0]
    assert gsm8k["right"]["fallback"]["value"] == pytest.approx(0.75)
    assert gsm8k["right"]["base_0"]["value"] == 0.25 and "base_8" not in gsm8k["right"]
    # Question by question: fallback 1, 1/2, 1, 1/2 in the mean of the seeds; IR greedily 1, 1, 0, 0.
    assert gsm8k["fallback_less"]["ir_greedy"]["value"] == pytest.approx(0.25)
    assert gsm8k["fallback_less"]["ir_greedy"]["low"] < -0.2 and gsm8k["fallback_less"]["ir_greedy"]["high"] > 0.7
    # LoRID at IR-IR's tokens: 40 with the first seed, as before; 30 with the second, its one round.
    assert gsm8k["by_seed"]["fallback_at_ir_ir"] == [0.5, 1.0]
    less = gsm8k["right"]["fallback_at_ir_ir"]["value"] - gsm8k["right"]["ir_ir"]["value"]
    assert gsm8k["fallback_less"]["ir_ir_at_its_tokens"]["value"] == pytest.approx(less)
    assert gsm8k["agreed_by_round"] == [
        {"rounds": [1, 1], "answers": 5, "value": 1.0, "low": 1.0, "high": 1.0},
        {"rounds": [2, 2], "answers": 1, "value": 0.0, "low": 0.0, "high": 0.0},
        {"rounds": [3, 4], "answers": 1, "value": 0.0, "low": 0.0, "high": 0.0},
    ]
    assert "| LoRID fallback | 75.0 (" in (tmp_path / "out" / "eval.md").read_text()
    assert {path.name for path in (tmp_path / "out").glob("*.svg")} == {"eval-rounds.svg", "eval-tokens.svg"}


def test_the_loop_at_the_tokens_of_ir_ir(tmp_path: Path) -> None:
    write_run(tmp_path / "gsm8k-seed0.jsonl", QUESTIONS, 0)
    done = run(tmp_path, tmp_path / "eval")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "eval.json").read_text())["sets"]["gsm8k"]
    # With 40 tokens, between one round and two: 1, 0, 1, 0; IR-IR 1, 1, 0, 0.
    assert found["right"]["fallback_at_ir_ir"]["value"] == 0.5
    assert found["fallback_less"]["ir_ir_at_its_tokens"] == {"value": 0.0, "low": -0.75, "high": 0.75}
    assert "| LoRID fallback, at IR-IR's tokens | 50.0 (" in done.stdout
    copy = tmp_path / "gsm8k-seed0-copy.jsonl"
    copy.write_bytes((tmp_path / "gsm8k-seed0.jsonl").read_bytes())
    done = run(tmp_path, tmp_path / "eval")
    assert done.returncode == 2 and "both have seed 0; give one file of each seed" in done.stderr


def test_a_run_without_any_answer_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "gsm8k-seed0.jsonl", QUESTIONS, 0)
    with ResultsFile(tmp_path / "gsm8k-seed1.jsonl", {**SETTINGS, "seed": 1}, {"processor": "any"}) as results:
        for index, each in QUESTIONS.items():
            failed = {**each, "answer": None, "trace": [], "rounds": 0, "tokens": 0, "error": "too long"}
            results.append({"record": "question", "question": f"q{index}", "right": False, **failed})
        for index, greedy in GREEDY.items():
            results.append({"record": "greedy", "index": index, **greedy})
    done = run(tmp_path, tmp_path / "eval")
    assert done.returncode == 0, done.stderr
    assert "gsm8k-seed1.jsonl: every question ended in an error: it is left out" in done.stderr
    assert "| LoRID fallback | 50.0 (" in done.stdout and "| questions | 4, seeds 0 |" in done.stdout


def test_refuses_runs_that_differ_and_folders_without_any(tmp_path: Path) -> None:
    done = run(tmp_path, tmp_path / "eval")
    assert done.returncode == 2 and "holds no complete run" in done.stderr
    write_run(tmp_path / "gsm8k-seed0.jsonl", QUESTIONS, 0)
    write_run(tmp_path / "gsm8k-seed1.jsonl", QUESTIONS, 1, dtype="bfloat16")
    done = run(tmp_path, tmp_path / "eval")
    assert done.returncode == 2 and "seed0.jsonl in dtype" in done.stderr


def test_rounds_are_chosen_on_a_complete_run(tmp_path: Path) -> None:
    """After one round two of the four are right, and never more."""
    pack = make_pack_folder(tmp_path / "pack")
    command = [sys.executable, str(SCRIPT.with_name("choose_rounds.py")), str(tmp_path / "loop.jsonl")]
    command += ["--pack", str(pack), "--out", str(tmp_path / "rounds")]
    write_run(tmp_path / "loop.jsonl", QUESTIONS, 0, limit=5)
    found = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert found.returncode == 2 and "loop.jsonl is not complete" in found.stderr
    assert load_pack(str(pack)).max_rounds == 20
    (tmp_path / "loop.jsonl").unlink()
    write_run(tmp_path / "loop.jsonl", QUESTIONS, 0)
    found = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    assert "| 1 | 50.0 (0.0 to 100.0) (taken) | 25 | 30 |" in found.stdout
    assert load_pack(str(pack)).max_rounds == 1 and load_pack(str(pack)).sampling["max_tokens"] == 10
