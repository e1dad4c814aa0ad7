"""The runs of an evaluation: the solver, greedy roles, and as many IR samples as cost what the solver costs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from lorid_engine.errors import DataError
from lorid_engine.evaluation.problems import Problem, ProblemSet
from lorid_engine.evaluation.results import ResultsFile
from lorid_engine.evaluation.scores import (
    IrSample,
    ir_agreement_curve,
    is_right,
    most_samples,
    samples_so_far,
    solver_tokens,
    vote_tokens,
)
from lorid_engine.model.cache import file_sha256
from lorid_engine.solver import Pack, Sample, Solution, Solver, SolverConfig
from lorid_engine.solver.base_source import FolderSource
from lorid_engine.solver.role_requests import RoleJob, draw_samples

_WAVE = 4  # IR samples that are drawn at once of a question whose number is not known beforehand


class Watch(Protocol):
    """Told of progress."""

    def stage(self, name: str, total: int, done: int) -> None:
        """A part of the work begins; `done` of its items lie in the results file already."""

    def item(self, tokens: int, right: bool | None = None) -> None:
        """One more item, with the tokens that it took; whether its answer is right, where it has one."""

    def judged(self, right: bool) -> None:
        """An answer of the results file: it counts for the accuracy so far."""


def pack_digest(pack: Pack) -> str:
    """SHA-256 over a pack's manifest and adapters: what changes it may change every result."""
    digest = hashlib.sha256()
    files = [pack.folder / "pack.toml"]
    for role in pack.roles.values():
        files += [role.adapter / "adapter_config.json", *sorted(role.adapter.glob("*.safetensors"))]
    for path in files:
        digest.update(f"{path.name} {file_sha256(path)}\n".encode())
    return digest.hexdigest()


def evaluation_settings(
    problems: ProblemSet, pack: Pack, config: SolverConfig, limit: int | None, dtype: str
) -> dict[str, Any]:
    """What decides the results: an evaluation goes on only in a file that was started with the same."""
    source = str(pack.base.path) if isinstance(pack.base, FolderSource) else repr(pack.base)
    return {
        "data": problems.source,
        "data_sha256": problems.sha256,
        "limit": limit,
        "pack": pack.name,
        "pack_sha256": pack_digest(pack),
        "base": source,
        "dtype": dtype,
        "seed": config.seed,
        "max_rounds": config.max_rounds,
        "sampling": {role: pack.sampling_for(role, config.overrides) for role in pack.roles},
    }


class Evaluation:
    """Runs what a results file lacks; each finding is in the file before the next is looked at.

    Args:
        problems: their indices name the records.
        results: the file, which may hold some already.

    Raises:
        DataError: the file's questions are not those of the data.
    """

    def __init__(self, problems: ProblemSet, results: ResultsFile) -> None:
        self._problems, self._results = problems.problems, results
        known = {problem.index: problem.question for problem in self._problems}
        for index, record in results.questions.items():
            if known.get(index) != record["question"]:
                raise DataError(f"{results.path} has a question {index} that is not the data's; name another file")

    def is_complete(self, *, baselines: bool) -> bool:
        """Whether the file has all there is to know."""
        if self._left(self._results.questions):
            return False
        return not baselines or not (self._left(self._results.greedy) or self._next_samples())

    def run(self, solver: Solver, watch: Watch, *, baselines: bool) -> None:
        """LoRID's loop over all questions; then, with baselines, greedy roles and IR samples.

        IR samples are drawn until a vote among them, and the agreement of two of their streams, have cost what the loop did.
        """
        self._solver, self._watch = solver, watch
        self._run_solver()
        if baselines:
            self._run_greedy()
            self._watch.stage("IR samples", 0, 0)
            while wanted := self._next_samples():
                self._extend(wanted)

    def _run_solver(self) -> None:
        results, left = self._results, self._left(self._results.questions)
        self._watch.stage("LoRID", len(self._problems), len(self._problems) - len(left))
        for record in results.questions.values():
            self._watch.judged(record["right"])
        for solution in self._solver.solve_many((problem.question for problem in left), ordered=False):
            record = _question_record(left[solution.index], solution)
            results.append(record)
            self._watch.item(solution.tokens + solution.cancelled_tokens, record["right"])

    def _left(self, records: dict[int, Any]) -> list[Problem]:
        return [problem for problem in self._problems if problem.index not in records]

    def _draw(self, jobs: Iterator[RoleJob], *, greedy: bool = False) -> Iterator[tuple[RoleJob, Sample]]:
        config = self._solver.config
        overrides = {**config.overrides, "temperature": 0.0} if greedy else config.overrides
        return draw_samples(self._solver.engine, self._solver.pack, jobs, config.seed, overrides)

    def _run_greedy(self) -> None:
        left = self._left(self._results.greedy)
        self._watch.stage("greedy roles", len(self._problems), len(self._problems) - len(left))
        for start in range(0, len(left), self._solver.engine.max_batch_rows):  # a group's rules, then their use
            self._run_greedy_group(left[start : start + self._solver.engine.max_batch_rows])

    def _run_greedy_group(self, group: Sequence[Problem]) -> None:
        first = (RoleJob(each.question, role, 0, owner=each.index) for each in group for role in ("kg", "ir"))
        samples = {(job.owner, job.role): sample for job, sample in self._draw(first, greedy=True)}
        second = (RoleJob(each.question, "dr", 0, samples[each.index, "kg"].text, each.index) for each in group)
        samples |= {(job.owner, job.role): sample for job, sample in self._draw(second, greedy=True)}
        for problem in group:
            roles = {role: samples[problem.index, role] for role in ("ir", "kg", "dr")}
            shown = {role: sample.to_dict() for role, sample in roles.items()}
            self._results.append({"record": "greedy", "index": problem.index, **shown})
            self._watch.item(sum(len(sample.token_ids) for sample in roles.values()))

    def _next_samples(self) -> dict[int, int]:
        """How many IR samples which questions should have next; empty when the baselines have cost what the solver did.

        The vote comes first: each question has equally many. Then IR-IR: those go on that do not agree yet. The rounds of the
        solver count as the first samples: the draws of a (seed, question, role, round) are the same.
        """
        questions, most = self._results.questions, most_samples(self._results.settings)
        budget, pools = solver_tokens(questions), self._pools()
        if not budget:
            return {}
        each = min(map(len, pools.values()))
        spent = vote_tokens(pools, each)
        if spent <= budget and each < most:
            per_sample = max(spent / each if each else budget / most, 1.0)
            wanted = min(most, max(each + 1, math.floor(budget / per_sample)))
            return {index: wanted for index, pool in pools.items() if len(pool) < wanted}
        curve = ir_agreement_curve(questions, pools)
        undecided = [index for index, rounds in curve.undecided.items() if 2 * rounds + 2 <= most]
        if curve.tokens[-1] > budget:
            return {}
        return {index: min(most, len(pools[index]) + _WAVE) for index in undecided}

    def _pools(self) -> dict[int, list[IrSample]]:
        return {
            index: samples_so_far(record, self._results.samples.get(index, []))
            for index, record in self._results.questions.items()
        }

    def _extend(self, wanted: dict[int, int]) -> None:
        """Draws IR samples until these questions have so many, and records each question's as soon as they are there."""
        questions, drawn = self._results.questions, self._results.samples
        begins = {index: len(samples_so_far(questions[index], drawn.get(index, []))) for index in wanted}
        jobs = (
            RoleJob(questions[index]["question"], "ir", number, owner=index)
            for index, end in wanted.items()
            for number in range(begins[index] + 1, end + 1)
        )
        arrived: dict[int, dict[int, Sample]] = {index: {} for index in wanted}
        for job, sample in self._draw(jobs):
            index = job.owner
            arrived[index][job.round] = sample
            self._watch.item(len(sample.token_ids))
            if len(arrived[index]) == wanted[index] - begins[index]:
                samples = [arrived[index][number] for number in range(begins[index] + 1, wanted[index] + 1)]
                shown = [{"answer": each.answer, "tokens": len(each.token_ids)} for each in samples]
                first = len(drawn.get(index, []))
                self._results.append({"record": "samples", "index": index, "first": first, "samples": shown})


def _question_record(problem: Problem, solution: Solution) -> dict[str, Any]:
    record = solution.to_dict()
    return {
        "record": "question",
        "index": problem.index,
        "question": problem.question,
        "gold": problem.gold,
        "answer": solution.answer,
        "right": is_right(solution.answer, problem.gold),
        **{name: value for name, value in record.items() if name not in ("question", "answer")},
    }
