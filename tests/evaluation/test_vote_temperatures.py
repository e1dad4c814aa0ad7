"""bench/packs/vote_temperatures.py: votes of other temperatures beside an evaluation of a tiny pack."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lorid_engine.evaluation.evaluate import Evaluation, evaluation_settings
from lorid_engine.evaluation.problems import Problem, ProblemSet
from lorid_engine.evaluation.results import ResultsFile
from lorid_engine.solver import Solver, SolverConfig, load_pack
from test_evaluate import Watching
from tiny_pack import make_engine, make_pack_folder

FOLDER = Path(__file__).parents[2] / "bench" / "packs"
sys.path.insert(0, str(FOLDER))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack, and its evaluation in results.jsonl."""
    folder = make_pack_folder(tmp_path_factory.mktemp("pack"))
    pack, config = load_pack(str(folder)), SolverConfig(max_rounds=4)
    found = ProblemSet("d", "0" * 64, tuple(Problem(k, f"What is {k}?", "aeo"[k % 3]) for k in range(8)), ())
    settings = evaluation_settings(found, pack, folder / "base", config, 8, "bfloat16", "cpu", "any")
    with ResultsFile(folder / "results.jsonl", settings, {}) as results:
        Evaluation(found, results).run(Solver(make_engine(pack), pack, config), Watching(), baselines=True)
    return folder


def run(folder: Path, results: Path, *more: str) -> int:
    from vote_temperatures import main

    return main([str(results), "--pack", str(folder), "--out", str(results.with_name("votes")), *more])


def test_votes_at_equal_tokens(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The pack's own is the evaluation's; another temperature has other samples, within the same tokens."""
    assert run(folder, folder / "results.jsonl", "--temperatures", "1.5,3") == 0
    found = json.loads((folder / "votes.json").read_text())
    assert list(found["votes"]) == ["1.5", "3"]
    lines = (folder / "results.jsonl").read_text().splitlines()
    questions = [row for row in map(json.loads, lines) if row["record"] == "question"]
    budget = sum(row["tokens"] for row in questions) / len(questions)
    assert all(0 < vote["tokens"] <= budget for vote in found["votes"].values())
    vote, less = (found["votes"]["3"][name]["value"] for name in ("vote", "fallback_less"))
    assert found["fallback"]["value"] - vote == pytest.approx(less)
    assert "8 questions of d, seed 0" in capsys.readouterr().out


def test_refuses_what_it_cannot_compare(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (folder / "results.jsonl").read_text().splitlines()
    cut = tmp_path / "cut.jsonl"
    cut.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["record"] != "samples"))
    assert run(folder, cut) == 2 and "cut.jsonl is not complete" in capsys.readouterr().err
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(lines).replace('"top_k": 50', '"top_k": 5') + "\n")
    assert run(folder, other) == 2 and "other.jsonl has IR's sampling" in capsys.readouterr().err
    assert run(folder, tmp_path / "none.jsonl") == 2 and "none.jsonl" in capsys.readouterr().err
    for wrong in ("0.5,", "-1", "nan", "0.5,0.5"):
        with pytest.raises(SystemExit):
            run(folder, folder / "results.jsonl", "--temperatures", wrong)
        assert "is no list of different numbers above 0" in capsys.readouterr().err
