"""The runs of an evaluation: the solver, greedy roles, and as many IR samples as cost what the solver costs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lorid_engine.errors import DataError
from lorid_engine.evaluation.problems import Problem, ProblemSet
from lorid_engine.evaluation.results import Records, ResultsFile
from lorid_engine.evaluation.scores import (
    Attempt,
    Outcome,
    Record,
    agreement_curve,
    build_report,
    is_right,
    most_samples,
    pools_so_far,
    replay_ir,
    solver_tokens,
    vote_tokens,
)
from lorid_engine.model.cache import file_sha256
from lorid_engine.model.digest import base_digest
from lorid_engine.solver import Pack, Sample, Solution, Solver, SolverConfig
from lorid_engine.solver.role_requests import RoleJob, draw_samples

_WAVE = 4  # IR samples that are drawn at once of a question whose number is not known beforehand
Pools = Mapping[int, Sequence[Attempt]]  # each question's IR samples, in order
Draw = Callable[[Iterator[RoleJob]], Iterator[tuple[RoleJob, Sample]]]


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
    problems: ProblemSet,
    pack: Pack,
    base: Path,
    config: SolverConfig,
    limit: int | None,
    dtype: str,
    device: str,
    isa: str,
) -> dict[str, Any]:
    """What decides the results: an evaluation goes on only in a file that was started with the same.

    Args:
        isa: of the CPU; on a GPU it decides nothing, and "cuda" is said instead.

    Raises:
        DataError: the pack or its base cannot be read.
    """
    try:
        digests = {"pack_sha256": pack_digest(pack), "base_sha256": base_digest(base)}
    except OSError as error:
        raise DataError(f"the pack {pack.name} or its base cannot be read: {error}") from None
    config = config.resolved(pack)
    return {
        "data": problems.source,
        "data_sha256": problems.sha256,
        "limit": limit,
        "pack": pack.name,
        **digests,
        "dtype": dtype,
        "instruction_set": "cuda" if device.startswith("cuda") else isa,  # a row's bits hold for one
        "seed": config.seed,
        "max_rounds": config.max_rounds,
        "sampling": {role: pack.sampling_for(role, config.overrides) for role in pack.roles},
        **({"calculator": True} if config.calculator else {}),
    }


class BaselineSamples:
    """Says which IR samples are lacking: for a vote, until it has cost what the solver did; for IR-IR, until it has, or agrees on
    every question, or has `most_samples` of those that are left.

    Args:
        settings: of the results file of the solver's answers.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._replayed: dict[int, tuple[int, list[Outcome]]] = {}  # IR-IR of each question, with so many samples

    def wanted(self, questions: Mapping[int, Record], pools: Pools) -> dict[int, int]:
        """How many IR samples which questions should have next; empty when there are enough.

        The vote comes first: each question has equally many. Then IR-IR: those go on that do not agree yet. The rounds of the
        solver count as the first samples of its own temperature: the draws of a (seed, question, role, round) are the same.

        Args:
            questions: the solver's, by number.
            pools: their samples so far.
        """
        if not (budget := solver_tokens(questions)):
            return {}
        most = most_samples(self._settings)
        each = min(map(len, pools.values()))
        if not each:
            return {index: min(most, _WAVE) for index, pool in pools.items() if len(pool) < min(most, _WAVE)}
        spent = vote_tokens(pools, each)
        if spent <= budget and each < most:
            drawn = [sample.tokens for pool in pools.values() for sample in pool]
            per_sample = max(sum(drawn) / max(len(drawn), 1), budget / most)
            wanted = min(most, max(each + 1, math.floor(budget / per_sample)))
            return {index: wanted for index, pool in pools.items() if len(pool) < wanted}
        outcomes = {index: self._replay(index, pool, questions[index]["gold"]) for index, pool in pools.items()}
        curve = agreement_curve(outcomes)
        least = min(curve.undecided.values(), default=most)
        if 2 * least + 2 > most or (curve.tokens and curve.tokens[-1] > budget):
            return {}
        wanted = min(most, 2 * least + _WAVE)
        return {index: wanted for index in curve.undecided if len(pools[index]) < wanted}

    def _replay(self, index: int, pool: Sequence[Attempt], gold: str) -> list[Outcome]:
        """IR-IR of one question; once it agrees, more samples change nothing."""
        held = self._replayed.get(index)
        if held is None or (held[0] != len(pool) and not (held[1] and held[1][-1].agreed)):
            held = len(pool), replay_ir(pool, gold)
            self._replayed[index] = held
        return held[1]


class Evaluated:
    """What there is of an evaluation, and what it lacks.

    Args:
        problems: their indices name the records.
        records: of a results file.

    Raises:
        DataError: the file's questions are not those of the data.
    """

    def __init__(self, problems: Sequence[Problem], records: Records) -> None:
        self._problems, self._records = problems, records
        self._samples = BaselineSamples(records.settings)
        known = {problem.index: (problem.question, problem.gold) for problem in problems}
        for index, record in records.questions.items():
            if known.get(index) != (record["question"], record["gold"]):
                raise DataError(f"{records.path} has a question {index} that is not the data's; name another file")

    def is_complete(self, *, baselines: bool) -> bool:
        """Whether the file has all there is to know."""
        if self._left(self._records.questions):
            return False
        return not baselines or not (self._left(self._records.greedy) or self._next_samples())

    def report(self) -> dict[str, Any]:
        """The report of what the file has; baselines only if they are all there."""
        records = self._records
        complete = self.is_complete(baselines=True)
        seconds = records.seconds.values()
        return build_report(records.questions, records.greedy, records.samples, seconds, baselines=complete)

    def _left(self, records: dict[int, Any]) -> list[Problem]:
        return [problem for problem in self._problems if problem.index not in records]

    def _next_samples(self) -> dict[int, int]:
        return self._samples.wanted(self._records.questions, self._pools())

    def _pools(self) -> Pools:
        return pools_so_far(self._records.questions, self._records.samples)


def is_complete(records: Records) -> bool:
    """Whether a results file that was started with a limit has as many questions, and all baselines of them."""
    found = [Problem(index, each["question"], each["gold"]) for index, each in records.questions.items()]
    return len(found) == records.settings["limit"] and Evaluated(found, records).is_complete(baselines=True)


class Evaluation(Evaluated):
    """Runs what a results file lacks, and records it as it comes: each question of the loop, each group of greedy roles, each
    question's samples of a wave.

    Args:
        problems: their indices name the records.
        results: the file, which may hold some already.

    Raises:
        DataError: the file's questions are not those of the data.
    """

    def __init__(self, problems: ProblemSet, results: ResultsFile) -> None:
        super().__init__(problems.problems, results)
        self._results = results

    def run(self, solver: Solver, watch: Watch, *, baselines: bool) -> None:
        """LoRID's loop over all questions; then, with baselines, greedy roles and IR samples.

        IR samples are drawn until a vote among them, and the agreement of two of their streams, have cost what the loop did.
        """
        self._results.start_clock()
        self._run_solver(solver, watch)
        if baselines:
            self._run_greedy(solver, watch)
            watch.stage("IR samples", 0, 0)
            while wanted := self._next_samples():
                extend_samples(
                    self._results, self._results.questions, self._pools(), wanted, partial(_draw, solver), watch
                )

    def _run_solver(self, solver: Solver, watch: Watch) -> None:
        results, left = self._results, self._left(self._results.questions)
        watch.stage("LoRID", len(self._problems), len(self._problems) - len(left))
        for record in results.questions.values():
            watch.judged(record["right"])
        for solution in solver.solve_many((problem.question for problem in left), ordered=False):
            record = _question_record(left[solution.index], solution)
            results.append(record)
            watch.item(solution.tokens + solution.cancelled_tokens, record["right"])

    def _run_greedy(self, solver: Solver, watch: Watch) -> None:
        left, rows = self._left(self._results.greedy), solver.engine.max_batch_rows
        watch.stage("greedy roles", len(self._problems), len(self._problems) - len(left))
        for start in range(0, len(left), rows):  # a group's rules, then their use
            self._run_greedy_group(left[start : start + rows], solver, watch)

    def _run_greedy_group(self, group: Sequence[Problem], solver: Solver, watch: Watch) -> None:
        first = (RoleJob(each.question, role, 0, owner=each.index) for each in group for role in ("kg", "ir"))
        samples = {(job.owner, job.role): sample for job, sample in _draw(solver, first, greedy=True)}
        second = (RoleJob(each.question, "dr", 0, samples[each.index, "kg"].text, each.index) for each in group)
        samples |= {(job.owner, job.role): sample for job, sample in _draw(solver, second, greedy=True)}
        for problem in group:
            roles = {role: samples[problem.index, role] for role in ("ir", "kg", "dr")}
            shown = {role: sample.to_dict() for role, sample in roles.items()}
            self._results.append({"record": "greedy", "index": problem.index, **shown})
            watch.item(sum(len(sample.token_ids) for sample in roles.values()))


def extend_samples(
    results: ResultsFile,
    questions: Mapping[int, Record],
    pools: Pools,
    wanted: Mapping[int, int],
    draw: Draw,
    watch: Watch,
) -> None:
    """Draws samples until some questions have so many, and records each question's as soon as they are there.

    Args:
        questions: by number.
        pools: samples so far of those in `wanted`.
        wanted: how many samples a question shall have, more than it has.
        draw: yields the sample of each job; that it is IR's says nothing.

    Raises:
        DataError: the file cannot be written.
    """
    jobs = (
        RoleJob(questions[index]["question"], "ir", number, owner=index)
        for index, end in wanted.items()
        for number in range(len(pools[index]) + 1, end + 1)
    )
    arrived: dict[int, dict[int, Sample]] = {index: {} for index in wanted}
    for job, sample in draw(jobs):
        index = job.owner
        arrived[index][job.round] = sample
        watch.item(len(sample.token_ids))
        if len(arrived[index]) == wanted[index] - len(pools[index]):
            samples = [each for _, each in sorted(arrived[index].items())]
            shown = [{"answer": each.answer, "tokens": len(each.token_ids)} for each in samples]
            first = len(results.samples.get(index, []))
            results.append({"record": "samples", "index": index, "first": first, "samples": shown})


def _draw(solver: Solver, jobs: Iterator[RoleJob], *, greedy: bool = False) -> Iterator[tuple[RoleJob, Sample]]:
    config = solver.config
    overrides = {**config.overrides, "temperature": 0.0} if greedy else config.overrides
    return draw_samples(solver.engine, solver.pack, jobs, config.seed, overrides)


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
