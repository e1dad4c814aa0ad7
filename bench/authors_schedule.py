"""The solver's schedule against the authors': always all rounds first, then the stopping rule over them.

    python bench/authors_schedule.py --data gsm8k/test.jsonl [--limit 50] [--max-rounds 20] [--out bench/results/authors-schedule]

Both run on the same engine, with the same seeds and the same batch; what is compared is when they stop.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from common import read_questions, write_result

from lorid_engine.solver import Solver, SolverConfig
from lorid_engine.solver.agreement import Agreement
from lorid_engine.solver.answers import extract
from lorid_engine.solver.role_requests import RoleJob, draw_samples


def sample_role(solver: Solver, jobs: list[RoleJob]) -> tuple[list[str], int]:
    """One role of every (question, round), as the authors run it: the whole set at once. Texts and generated tokens."""
    drawn = dict(draw_samples(solver.engine, solver.pack, jobs, solver.config.seed, solver.config.overrides))
    return [drawn[job].text for job in jobs], sum(len(sample.token_ids) for sample in drawn.values())


def authors(solver: Solver, questions: list[str]) -> tuple[list[tuple[str | None, bool]], int]:
    """Answers by the authors' schedule, and the tokens it generates."""
    rounds = range(1, solver.config.max_rounds + 1)
    places = [(question, round) for question in questions for round in rounds]
    ir, ir_tokens = sample_role(solver, [RoleJob(question, "ir", round) for question, round in places])
    kg, kg_tokens = sample_role(solver, [RoleJob(question, "kg", round) for question, round in places])
    dr_jobs = [RoleJob(question, "dr", round, rules) for (question, round), rules in zip(places, kg, strict=True)]
    dr, dr_tokens = sample_role(solver, dr_jobs)
    pattern, results = solver.pack.answer_pattern, []
    for number in range(len(questions)):
        agreement, answer = Agreement(), None
        for round in rounds:
            at = number * len(rounds) + round - 1
            answer = agreement.add_round(round, extract(ir[at], pattern), extract(dr[at], pattern))
            if answer is not None:
                break
        results.append((answer if answer is not None else agreement.most_voted(), answer is not None))
    return results, ir_tokens + kg_tokens + dr_tokens


def main() -> None:
    """Runs both schedules and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--max-rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("bench/results/authors-schedule"))
    options = parser.parse_args()
    questions, digest = read_questions(options.data, options.limit)
    solver = Solver.from_pack(config=SolverConfig(max_rounds=options.max_rounds))
    start = time.perf_counter()
    solutions = list(solver.solve_many(questions))
    ours = {"seconds": time.perf_counter() - start, "tokens": sum(solution.tokens for solution in solutions)}
    ours["cancelled_tokens"] = sum(solution.cancelled_tokens for solution in solutions)
    theirs_solver = Solver(solver.engine, solver.pack, solver.config)
    start = time.perf_counter()
    answers, tokens = authors(theirs_solver, questions)
    theirs = {"seconds": time.perf_counter() - start, "tokens": tokens, "cancelled_tokens": 0}
    same = sum((s.answer, s.agreed) == answer for s, answer in zip(solutions, answers, strict=True))
    rounds = sum(solution.rounds for solution in solutions) / len(solutions)
    lines = ["| schedule | generated tokens | of them cancelled lookahead | seconds |", "|---|---|---|---|"]
    for name, each in (("all rounds always", theirs), ("lorid-engine", ours)):
        generated = each["tokens"] + each["cancelled_tokens"]
        lines.append(f"| {name} | {generated} | {each['cancelled_tokens']} | {each['seconds']:.0f} |")
    lines.append(
        f"\n{len(questions)} questions, {options.max_rounds} rounds at most: {same} answers are the same; "
        f"{rounds:.1f} rounds a question, {theirs['tokens'] / (ours['tokens'] + ours['cancelled_tokens']):.2f}x fewer tokens, "
        f"{theirs['seconds'] / ours['seconds']:.2f}x less time."
    )
    result = {"questions": len(questions), "same": same, "mean_rounds": rounds, "data_sha256": digest}
    write_result(options.out, {**result, "ours": ours, "all_rounds": theirs}, "\n".join(lines))
    assert same == len(questions), "the schedules' answers differ"


if __name__ == "__main__":
    main()
