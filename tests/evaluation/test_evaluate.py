"""Evaluations of a tiny pack: whole, interrupted, killed, and gone on with."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from lorid_engine.errors import DataError
from lorid_engine.evaluation.evaluate import Evaluation, evaluation_settings
from lorid_engine.evaluation.page import write_page
from lorid_engine.evaluation.problems import Problem, ProblemSet
from lorid_engine.evaluation.results import ResultsFile
from lorid_engine.evaluation.scores import build_report
from lorid_engine.solver import Pack, Solver, SolverConfig, load_pack
from lorid_engine.solver.role_requests import RoleJob, draw_samples
from tiny_pack import make_engine, make_pack_folder

CONFIG = SolverConfig(max_rounds=4, seed=3, max_tokens=8)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return load_pack(make_pack_folder(tmp_path_factory.mktemp("pack"), max_tokens=8))


def problems(count: int = 12) -> ProblemSet:
    """Golds are letters that noise hits now and then; one question is there twice, one is too long."""
    texts = [f"What is {k}?" for k in range(count - 2)] + ["What is 1?", "long " * 200]
    return ProblemSet("tiny.jsonl", "0" * 64, tuple(Problem(k, text, "aeo"[k % 3]) for k, text in enumerate(texts)), ())


class Watching:
    """Counts, and raises when a count is reached, as Ctrl-C would."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.stages: list[str] = []
        self.items, self._interrupt_at = 0, interrupt_at

    def stage(self, name: str, total: int, done: int) -> None:
        self.stages.append(name)

    def item(self, tokens: int, right: bool | None = None) -> None:
        self.items += 1
        if self.items == self._interrupt_at:
            raise KeyboardInterrupt

    def judged(self, right: bool) -> None:
        pass


def results_file(path: Path, pack: Pack, config: SolverConfig = CONFIG) -> ResultsFile:
    return ResultsFile(
        path, evaluation_settings(problems(), pack, pack.base.path, config, None, "float32", "cpu", "scalar"), {}
    )


def evaluate(path: Path, pack: Pack, watch: Watching, *, rows: int = 16, config: SolverConfig = CONFIG) -> ResultsFile:
    with results_file(path, pack, config) as results:
        evaluation = Evaluation(problems(), results)
        evaluation.run(Solver(make_engine(pack, max_batch_rows=rows), pack, config), watch, baselines=True)
        assert evaluation.is_complete(baselines=True)
        return results


def report_of(results: ResultsFile) -> dict[str, Any]:
    report = build_report(results.questions, results.greedy, results.samples, results.seconds.values(), baselines=True)
    return {name: value for name, value in report.items() if name not in ("seconds", "tokens_per_second")}


@pytest.fixture(scope="module")
def whole(pack: Pack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ResultsFile]:
    yield evaluate(tmp_path_factory.mktemp("whole") / "r.jsonl", pack, Watching())


def test_everything_is_recorded(whole: ResultsFile) -> None:
    assert set(whole.questions) == set(whole.greedy) == set(range(12))
    assert "leaves no room" in whole.questions[11]["error"] or "context" in whole.questions[11]["error"]
    record = whole.questions[0]
    assert {"index", "question", "gold", "answer", "agreed", "rounds", "tokens", "seconds", "trace"} <= set(record)
    assert record["rounds"] == len(record["trace"]) and {"ir", "kg", "dr"} < set(record["trace"][0])
    report = report_of(whole)
    assert report["errors"] == 1 and {"ir_greedy", "dr_greedy", "ir_vote", "ir_ir"} < set(report)
    budget = report["lorid"]["tokens_per_question"]
    assert report["ir_vote"]["tokens_per_question"] <= budget


def test_samples_of_the_baselines_continue_those_of_the_solver(pack: Pack, whole: ResultsFile) -> None:
    """IR's sample k of a question is the same whether the loop or a baseline drew it."""
    index = next(index for index, drawn in whole.samples.items() if drawn and index < 10)
    question, drawn = whole.questions[index], whole.samples[index]
    jobs = [RoleJob(question["question"], "ir", k + 1) for k in range(len(question["trace"]) + len(drawn))]
    alone = [
        next(draw_samples(make_engine(pack, max_batch_rows=1), pack, [job], CONFIG.seed, CONFIG.overrides))[1]
        for job in jobs
    ]
    own = [round["ir"]["answer"] for round in question["trace"]]
    assert [sample.answer for sample in alone] == own + [sample["answer"] for sample in drawn]
    assert [len(sample.token_ids) for sample in alone[len(own) :]] == [sample["tokens"] for sample in drawn]


def test_the_same_questions_have_the_same_records(whole: ResultsFile) -> None:
    for records in (whole.questions, whole.greedy):
        once, twice = ({k: v for k, v in records[i].items() if k in ("answer", "trace", "ir", "dr")} for i in (1, 10))
        assert once == twice


@pytest.mark.parametrize("interrupt_at", [1, 5, 12, 13, 20, 30])
def test_an_interrupted_evaluation_goes_on(pack: Pack, whole: ResultsFile, tmp_path: Path, interrupt_at: int) -> None:
    path, seen = tmp_path / "r.jsonl", 0
    with pytest.raises(KeyboardInterrupt):
        evaluate(path, pack, Watching(interrupt_at))
    with results_file(path, pack) as kept:
        seen = len(kept.questions) + len(kept.greedy)
    assert seen >= min(interrupt_at, 24)
    # Another number of rows and other lookahead: they change speed only.
    results = evaluate(path, pack, Watching(), rows=5, config=replace(CONFIG, lookahead=0))
    assert report_of(results)["lorid"] == report_of(whole)["lorid"]
    assert report_of(results)["ir_vote"] == report_of(whole)["ir_vote"]
    assert report_of(results)["ir_ir"] == report_of(whole)["ir_ir"]
    assert results.samples == whole.samples


def test_a_complete_file_needs_no_solver(pack: Pack, whole: ResultsFile) -> None:
    with results_file(whole.path, pack) as results:
        assert Evaluation(problems(), results).is_complete(baselines=True)


def test_a_file_of_other_questions(pack: Pack, whole: ResultsFile) -> None:
    other = replace(problems(), problems=(Problem(0, "Another?", "a"),))
    with (
        results_file(whole.path, pack) as results,
        pytest.raises(DataError, match="has a question 11 that is not the data's"),
    ):
        Evaluation(other, results)


def test_other_settings(pack: Pack, whole: ResultsFile) -> None:
    with pytest.raises(DataError, match="was started with seed 3; this command has 4"):
        results_file(whole.path, pack, replace(CONFIG, seed=4))
    with pytest.raises(DataError, match="was started with sampling"):
        results_file(whole.path, pack, replace(CONFIG, temperature=0.1))


def test_another_base_is_refused_and_a_moved_one_is_not(pack: Pack, whole: ResultsFile, tmp_path: Path) -> None:
    moved = load_pack(shutil.copytree(pack.folder, tmp_path / "moved"))
    results_file(whole.path, moved).close()
    weights = moved.base.path / "model.safetensors"  # type: ignore[union-attr]
    tensors = load_file(weights)
    save_file({name: tensor * 1.5 for name, tensor in tensors.items()}, weights, metadata={"format": "pt"})
    with pytest.raises(DataError, match="was started with base_sha256"):
        results_file(whole.path, moved)


@pytest.mark.parametrize(("device", "kept"), [("cpu", "avx2"), ("cuda", "cuda"), ("cuda:1", "cuda")])
def test_what_computes_is_a_setting(pack: Pack, device: str, kept: str) -> None:
    base = pack.base.path  # type: ignore[union-attr]
    found = evaluation_settings(problems(), pack, base, CONFIG, None, "float32", device, "avx2")
    assert found["instruction_set"] == kept


def test_a_question_with_an_error_does_not_make_the_others_draw_more(pack: Pack, tmp_path: Path) -> None:
    """Its pool is empty, and says nothing of what a sample costs."""
    config = replace(CONFIG, max_rounds=12)
    texts = [f"What is {k}?" for k in range(6)]

    def pools(path: Path, texts: list[str]) -> list[int]:
        given = ProblemSet("d", "0" * 64, tuple(Problem(k, text, "a") for k, text in enumerate(texts)), ())
        settings = evaluation_settings(given, pack, pack.base.path, config, None, "float32", "cpu", "x")  # type: ignore[union-attr]
        with ResultsFile(path, settings, {}) as results:
            Evaluation(given, results).run(Solver(make_engine(pack), pack, config), Watching(), baselines=True)
            vote = Evaluation(given, results).report()["ir_vote"]
            return [vote["samples"], len(vote["curve"])]

    samples, drawn = pools(tmp_path / "a", texts)
    with_error, drawn_with_error = pools(tmp_path / "b", [*texts, "long " * 200])
    assert samples - 1 <= with_error <= samples + 1 < 36 and drawn_with_error <= drawn + 2


def test_the_page_is_whole_and_shows_text_as_text(whole: ResultsFile, tmp_path: Path) -> None:
    questions = {**whole.questions}
    hostile = "<script>alert(1)</script> & <b>\u2028\ud800"
    questions[0] = {**questions[0], "question": hostile, "answer": "<img src=x onerror=y>"}
    page = tmp_path / "r.html"
    report = build_report(whole.questions, whole.greedy, whole.samples, [1.0], baselines=True)
    write_page(page, report, whole.settings, {"processor": "<i>"}, questions)
    text = page.read_text()
    assert "<script" not in text and "<img" not in text and "&lt;script&gt;alert(1)" in text and "&lt;i&gt;" in text
    assert text.count("<svg") == 3 and text.count("<details>") >= 12
    assert "http://" not in text.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    with pytest.raises(DataError, match="cannot be written"):
        write_page(tmp_path, report, whole.settings, {}, questions)


def test_killed_and_gone_on_with(pack: Pack, tmp_path: Path) -> None:
    """kill -9 at some moment: what was finished is there, and the same command finishes the rest."""
    data, out = tmp_path / "d.jsonl", tmp_path / "r.jsonl"
    data.write_text("".join(json.dumps({"input": f"What is {k}?", "target": k}) + "\n" for k in range(300)))
    command = [sys.executable, "-m", "lorid_engine.cli", "eval", "--data", str(data), "--out", str(out), "--json"]
    command += ["--pack", str(pack.folder), "--dtype", "float32", "--max-rounds", "3", "--no-baselines"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if out.exists() and out.read_bytes().count(b'"record": "question"') >= 3:
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.005)
    assert process.wait() == -signal.SIGKILL
    before = out.read_bytes()
    kept = [json.loads(line) for line in before.split(b"\n")[:-1]]
    assert sum(record["record"] == "question" for record in kept) >= 3
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(finished.stdout)
    assert report["questions"] == 300 and "Going on" in finished.stderr
    assert out.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
