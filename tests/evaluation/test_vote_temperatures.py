"""bench/packs/vote_temperatures.py: votes of other temperatures beside an evaluation of a tiny pack."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from lorid_engine.evaluation.evaluate import Evaluation, evaluation_settings
from lorid_engine.evaluation.problems import Problem, ProblemSet
from lorid_engine.evaluation.results import ResultsFile, read_results
from lorid_engine.evaluation.scores import build_report
from lorid_engine.solver import Solver, SolverConfig, load_pack
from test_evaluate import Watching
from tiny_pack import make_engine, make_pack_folder

FOLDER = Path(__file__).parents[2] / "bench" / "packs"
sys.path.insert(0, str(FOLDER))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack, and its evaluations with two seeds in seed0.jsonl and seed1.jsonl."""
    folder = make_pack_folder(tmp_path_factory.mktemp("pack"))
    pack = load_pack(str(folder))
    found = ProblemSet("d", "0" * 64, tuple(Problem(k, f"What is {k}?", "aeo"[k % 3]) for k in range(8)), ())
    for seed in (0, 1):
        config = SolverConfig(max_rounds=4, seed=seed)
        settings = evaluation_settings(found, pack, folder / "base", config, 8, "bfloat16", "cpu", "any")
        with ResultsFile(folder / f"seed{seed}.jsonl", settings, {}) as results:
            Evaluation(found, results).run(Solver(make_engine(pack), pack, config), Watching(), baselines=True)
    return folder


def run(folder: Path, *more: Path | str, out: str = "votes") -> int:
    from vote_temperatures import main

    return main([*map(str, more), "--pack", str(folder), "--work", str(folder / "work"), "--out", str(folder / out)])


def test_votes_at_equal_tokens(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The pack's own is the evaluation's; another temperature has other samples, within the same tokens; seeds count as a mean."""
    files = [folder / f"seed{seed}.jsonl" for seed in (0, 1)]
    assert run(folder, *files, "--temperatures", "1.5,3") == 0
    found = json.loads((folder / "votes.json").read_text())
    assert list(found["temperatures"]) == ["1.5", "3"] and found["settings"]["seeds"] == [0, 1]
    rows = [[json.loads(line) for line in path.read_text().splitlines()] for path in files]
    budget = fmean(row["tokens"] for each in rows for row in each if row["record"] == "question")
    for votes in found["temperatures"].values():
        assert 0 < votes["vote_tokens"] <= budget and 0 < votes["agreement_tokens"] <= budget
        for way in ("vote", "agreement"):
            assert votes[way]["value"] == pytest.approx(fmean(votes[way]["by_seed"]))
            less = votes[f"fallback_less_{way}"]["value"]
            assert found["fallback"]["value"] - votes[way]["value"] == pytest.approx(less)
        less = votes["stopped"]["value"] - votes["agreement"]["value"]
        assert less == pytest.approx(votes["stopped_less_agreement"]["value"])
    assert "8 questions of d, seeds 0, 1" in capsys.readouterr().out
    own = build_report_of(files[0])
    assert found["temperatures"]["1.5"]["agreement"]["by_seed"][0] == own["ir_ir"]["accuracy"]["fallback"]["value"]
    assert found["temperatures"]["1.5"]["vote"]["by_seed"][0] == own["ir_vote"]["accuracy"]["value"]


def build_report_of(path: Path) -> dict[str, Any]:
    records = read_results(path)
    return build_report(records.questions, records.greedy, records.samples, [], baselines=True)


def test_drawn_samples_are_kept(folder: Path) -> None:
    """A run that goes on draws what is missing only, and comes to the same."""
    file, samples = folder / "seed1.jsonl", folder / "work" / "seed1-ir-2.jsonl"
    assert run(folder, file, "--temperatures", "2", out="whole") == 0
    lines = samples.read_bytes().splitlines(keepends=True)
    samples.write_bytes(b"".join(lines[:-4]) + lines[-4][:20])
    assert run(folder, file, "--temperatures", "2", out="resumed") == 0
    whole, resumed = (
        json.loads((folder / f"{name}.json").read_text())["temperatures"] for name in ("whole", "resumed")
    )
    assert whole == resumed
    drawn = [json.loads(line) for line in samples.read_bytes().splitlines()]
    assert [row["record"] for row in drawn].count("run") == 2
    assert sum(row["record"] == "samples" and row["run"] == 2 for row in drawn) >= 4


def test_refuses_what_it_cannot_compare(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (folder / "seed0.jsonl").read_text().splitlines()
    cut = tmp_path / "cut.jsonl"
    cut.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["record"] != "samples"))
    assert run(folder, cut) == 2 and "cut.jsonl is not complete" in capsys.readouterr().err
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(lines).replace('"top_k": 50', '"top_k": 5') + "\n")
    assert run(folder, other) == 2 and "other.jsonl has IR's sampling" in capsys.readouterr().err
    assert run(folder, tmp_path / "none.jsonl") == 2 and "none.jsonl" in capsys.readouterr().err
    assert run(folder, folder / "seed0.jsonl", folder / "seed0.jsonl") == 2
    assert "has seed 0 a second time" in capsys.readouterr().err
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(lines).replace("0" * 64, "1" * 64) + "\n")
    assert run(folder, folder / "seed1.jsonl", data) == 2 and "in data_sha256" in capsys.readouterr().err
    for wrong in ("0.5,", "-1", "nan", "0.5,0.5"):
        with pytest.raises(SystemExit):
            run(folder, folder / "seed0.jsonl", "--temperatures", wrong)
        assert "is no list of different numbers above 0" in capsys.readouterr().err
