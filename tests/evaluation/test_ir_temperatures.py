"""bench/packs/ir_temperatures.py: IR at other temperatures beside an evaluation of a tiny pack."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from lorid_engine.cli.doctor import machine_facts
from lorid_engine.evaluation.evaluate import Evaluation, evaluation_settings
from lorid_engine.evaluation.problems import Problem, ProblemSet
from lorid_engine.evaluation.results import ResultsFile, read_results
from lorid_engine.evaluation.scores import is_right, right_by_way, solver_tokens
from lorid_engine.solver import Sample, Solver, SolverConfig, load_pack
from lorid_engine.solver.role_requests import RoleJob, draw_samples
from test_evaluate import Watching
from tiny_pack import make_engine, make_pack_folder

FOLDER = Path(__file__).parents[2] / "bench" / "packs"
sys.path.insert(0, str(FOLDER))
QUESTIONS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack, and its evaluations with two seeds in seed0.jsonl and seed1.jsonl; the gold answers are such as it gives."""
    folder = make_pack_folder(tmp_path_factory.mktemp("pack"), max_tokens=12)
    golds = ["a"] * QUESTIONS
    for seed in (0, 1):
        evaluate(folder, golds, seed, path := folder / f"first{seed}.jsonl")
        first = read_results(path)
        for index in range(seed, QUESTIONS, 2):
            question = first.questions[index]
            answers = [question["answer"], *(each["ir"]["answer"] for each in question["trace"])]
            golds[index] = next(filter(None, answers[index % 3 == 2 :]), "a")
    for seed in (0, 1):
        evaluate(folder, golds, seed, folder / f"seed{seed}.jsonl")
    return folder


def evaluate(folder: Path, golds: list[str], seed: int, path: Path) -> None:
    pack, config = load_pack(str(folder)), SolverConfig(max_rounds=6, seed=seed)
    problems = tuple(Problem(index, f"What is {index}?", gold) for index, gold in enumerate(golds))
    found = ProblemSet("d", "0" * 64, problems, ())
    settings = evaluation_settings(found, pack, folder / "base", config, QUESTIONS, "float32", "cpu", "any")
    with ResultsFile(path, settings, {}) as results:
        Evaluation(found, results).run(Solver(make_engine(pack), pack, config), Watching(), baselines=True)


def run(folder: Path, *more: Path | str, out: str = "votes") -> int:
    from ir_temperatures import main

    options = ["--pack", folder, "--work", folder / "work", "--out", folder / out]
    return main([*map(str, (*options, *more))])


def test_votes_at_equal_tokens(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The pack's own is the evaluation's; another temperature has other samples, within the same tokens; seeds count as a mean."""
    files = [folder / f"seed{seed}.jsonl" for seed in (0, 1)]
    assert run(folder, *files, "--temperatures", "1.5,3") == 0
    found = json.loads((folder / "votes.json").read_text())
    assert list(found["temperatures"]) == ["1.5", "3"] and found["settings"]["seeds"] == [0, 1]
    records = [read_results(path) for path in files]
    assert found["temperatures"]["1.5"]["tokens"] == fmean(solver_tokens(each.questions) for each in records)
    for each in found["temperatures"].values():
        right = {way: share["value"] for way, share in each["right"].items()}
        assert right == {way: pytest.approx(fmean(rates)) for way, rates in each["by_seed"].items()}
        assert 0 < each["ir_vote_tokens_per_question"] <= each["tokens"]
        assert 0 < each["ir_ir_tokens_per_question"] <= each["tokens"]
        for way in ("vote", "ir_ir"):
            assert right["fallback"] - right[way] == pytest.approx(each[f"fallback_less_{way}"]["value"])
            assert right["own"] - right[f"own_{way}"] == pytest.approx(each[f"own_less_{way}"]["value"])
        less = right["fallback_at_ir_ir"] - right["ir_ir"]
        assert less == pytest.approx(each["less_ir_ir_at_its_tokens"]["value"])
    for seed, each in enumerate(records):
        rights = right_by_way(each.questions, each.greedy, each.samples)
        rights |= {"own": rights["fallback"], "own_vote": rights["vote"], "own_ir_ir": rights["ir_ir"]}
        own = found["temperatures"]["1.5"]["by_seed"]
        assert {way: fmean(rights[way]) for way in own} == {way: rates[seed] for way, rates in own.items()}
    shown = capsys.readouterr().out
    assert f"{QUESTIONS} questions of d, seeds 0, 1" in shown and "IR's are of any at 1.5, " in shown


@pytest.mark.parametrize("seed", [0, 1])
def test_the_loop_with_another_ir_is_the_solver_s(folder: Path, tmp_path: Path, seed: int) -> None:
    """Put together from the evaluation's rounds and drawn ones, it is what the solver comes to with such a pack."""
    from ir_temperatures import loop_with, pools_of, rounds_of

    assert run(folder, folder / f"seed{seed}.jsonl", "--temperatures", "3", out="loop") == 0
    found = json.loads((folder / "loop.json").read_text())["temperatures"]["3"]
    hot = shutil.copytree(folder, tmp_path / "hot")
    with (hot / "pack.toml").open("a") as file:
        file.write("[roles.ir.sampling]\ntemperature = 3.0\n")
    pack, kept = load_pack(str(hot)), read_results(folder / f"seed{seed}.jsonl")
    solver = Solver(make_engine(pack), pack, SolverConfig(max_rounds=6, seed=seed))
    solutions = list(solver.solve_many([f"What is {k}?" for k in range(QUESTIONS)]))
    assert found["tokens"] == fmean(solution.tokens for solution in solutions)
    golds = [kept.questions[index]["gold"] for index in range(QUESTIONS)]
    right = [is_right(solution.answer, gold) for solution, gold in zip(solutions, golds, strict=True)]
    assert found["by_seed"]["fallback"] == [fmean(right)] and any(right)
    pools = pools_of(kept, read_results(folder / "work" / f"ir-3-seed{seed}.jsonl").samples)
    more = read_results(folder / "work" / f"kg-dr-seed{seed}.jsonl").samples
    rounds = rounds_of(kept, more)
    assert more and all(len(each) <= 6 for each in rounds.values())
    for index, solution in enumerate(solutions):
        loop = loop_with(kept.questions[index], pools[index], rounds[index])
        assert (loop["rounds"], loop["agreed"], loop["right"]) == (solution.rounds, solution.agreed, right[index])
        assert [(each["ir"]["answer"], each["dr"]["answer"]) for each in loop["trace"]] == [
            (each.ir.answer, each.dr.answer) for each in solution.trace
        ]
        assert [each["ir"]["tokens"] + each["dr"]["tokens"] for each in loop["trace"]] == [
            sum(len(sample.token_ids) for sample in (each.ir, each.kg, each.dr)) for each in solution.trace
        ]
    assert len({solution.rounds for solution in solutions}) > 1


@pytest.mark.parametrize("seed", [0, 1])
def test_samples_are_of_their_seed_and_temperature(folder: Path, seed: int) -> None:
    assert run(folder, folder / f"seed{seed}.jsonl", "--temperatures", "3") == 0
    kept = read_results(folder / "work" / f"ir-3-seed{seed}.jsonl")
    pack = load_pack(str(folder))
    assert kept.settings["sampling"]["ir"] == pack.sampling_for("ir", {"temperature": 3.0})
    assert kept.settings["instruction_set"] == machine_facts(None)["instruction set"]  # not the evaluation's
    jobs = [
        RoleJob(f"What is {index}?", "ir", number, owner=index)
        for index, samples in kept.samples.items()
        for number in range(1, len(samples) + 1)
    ]
    drawn = draw_samples(make_engine(pack), pack, jobs, seed, {"temperature": 3.0})
    direct = {(job.owner, job.round): (each.answer, len(each.token_ids)) for job, each in drawn}
    assert len(kept.samples) == QUESTIONS and len(direct) == len(jobs)
    for index, samples in kept.samples.items():
        assert [(each["answer"], each["tokens"]) for each in samples] == [
            direct[index, number] for number in range(1, len(samples) + 1)
        ]


@pytest.mark.parametrize("name", ["ir-2-seed1.jsonl", "kg-dr-seed1.jsonl"])
def test_drawn_samples_are_kept(folder: Path, name: str) -> None:
    """A run that goes on draws just what is missing, and comes to the same."""
    file, samples = folder / "seed1.jsonl", folder / "work" / name
    assert run(folder, file, "--temperatures", "2", out="whole") == 0
    lines = samples.read_bytes().splitlines(keepends=True)
    kept = numbered(lines)
    samples.write_bytes(b"".join(lines[:-3]) + lines[-3][:20])
    runs = sum(json.loads(line)["record"] == "run" for line in lines[:-3])
    assert run(folder, file, "--temperatures", "2", out="resumed") == 0
    whole, resumed = (
        json.loads((folder / f"{name}.json").read_text())["temperatures"] for name in ("whole", "resumed")
    )
    assert whole == resumed
    drawn = samples.read_bytes().splitlines()
    assert numbered(drawn) == kept
    again = [line for line in drawn if json.loads(line).get("run") == runs + 1]
    assert numbered(again) == numbered(lines[-3:])


def test_one_file_of_rounds_serves_all_temperatures(folder: Path, tmp_path: Path) -> None:
    file, alone = folder / "seed0.jsonl", tmp_path / "alone"
    assert run(folder, file, "--temperatures", "2.2,4", out="both") == 0
    assert run(folder, file, "--temperatures", "4", "--work", str(alone), out="alone") == 0
    both, one = (json.loads((folder / f"{name}.json").read_text())["temperatures"] for name in ("both", "alone"))
    assert both["4"] == one["4"]


def test_rounds_of_another_evaluation_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "seed0.jsonl"
    lines = [json.loads(line) for line in (folder / "seed0.jsonl").read_text().splitlines()]
    question = next(line for line in lines if line["record"] == "question")
    question["trace"][0]["dr"]["answer"] = "another"
    other.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert run(folder, folder / "seed0.jsonl", "--temperatures", "2.3") == 0
    assert run(folder, other, "--temperatures", "2.3") == 2
    assert "was started with rounds_sha256" in capsys.readouterr().err


def numbered(lines: list[bytes]) -> dict[tuple[int, int], dict[str, Any]]:
    """A file's samples by question and number."""
    rows = [row for row in map(json.loads, lines) if row["record"] == "samples"]
    return {(row["index"], row["first"] + k): sample for row in rows for k, sample in enumerate(row["samples"])}


def test_samples_of_another_device_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = folder / "work" / "ir-2.5-seed0.jsonl"
    assert run(folder, folder / "seed0.jsonl", "--temperatures", "2.5") == 0
    first, rest = samples.read_text().split("\n", 1)
    settings = json.loads(first)
    samples.write_text(json.dumps({**settings, "instruction_set": "another"}) + "\n" + rest)
    assert run(folder, folder / "seed0.jsonl", "--temperatures", "2.5") == 2
    assert "was started with instruction_set 'another'" in capsys.readouterr().err


def test_what_cannot_be_drawn_ends_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ir_temperatures

    def refuse(*_: Any) -> Any:
        yield RoleJob("What is 0?", "ir", 1), Sample("", (), note="too long")

    monkeypatch.setattr(ir_temperatures, "draw_samples", refuse)
    assert run(folder, folder / "seed0.jsonl", "--temperatures", "2.7") == 2
    assert "IR could not answer 'What is 0?': too long" in capsys.readouterr().err


def test_refuses_what_it_cannot_compare(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (folder / "seed0.jsonl").read_text().splitlines()
    cut = tmp_path / "cut.jsonl"
    cut.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["record"] != "samples"))
    assert run(folder, cut) == 2 and "cut.jsonl is not complete" in capsys.readouterr().err
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(lines).replace('"top_k": 50', '"top_k": 5') + "\n")
    assert run(folder, other) == 2 and "other.jsonl has sampling" in capsys.readouterr().err
    other.write_text("\n".join(lines).replace('"pack_sha256": "', '"pack_sha256": "0') + "\n")
    assert run(folder, other) == 2 and "other.jsonl has pack_sha256" in capsys.readouterr().err
    other.write_text('{"record": "settings", "format": 1}\n')
    assert run(folder, other) == 2 and "other.jsonl has pack_sha256 None" in capsys.readouterr().err
    assert run(folder, folder / "seed0.jsonl", "--work", other) == 2
    assert "other.jsonl cannot be a folder: File exists; name another --work" in capsys.readouterr().err
    assert run(folder, tmp_path / "none.jsonl") == 2 and "none.jsonl" in capsys.readouterr().err
    assert run(folder, folder / "seed0.jsonl", folder / "seed0.jsonl") == 2
    assert "two files are called seed0.jsonl" in capsys.readouterr().err
    copy = tmp_path / "copy.jsonl"
    copy.write_text("\n".join(lines) + "\n")
    assert run(folder, folder / "seed0.jsonl", copy) == 2 and "both have seed 0" in capsys.readouterr().err
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(lines).replace("0" * 64, "1" * 64) + "\n")
    assert run(folder, folder / "seed1.jsonl", data) == 2 and "in data_sha256" in capsys.readouterr().err
    for wrong in ("0.5,", "-1", "nan", "0.5,0.5", "1,1.0000000001"):
        with pytest.raises(SystemExit):
            run(folder, folder / "seed0.jsonl", "--temperatures", wrong)
        assert "is no list of different numbers above 0" in capsys.readouterr().err
