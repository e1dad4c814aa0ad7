"""The solver on the default pack against strictly sequential rounds, for several lookaheads, batch sizes and thread counts.

    python bench/check_sequential.py --data gsm8k/test.jsonl [--limit 50] [--max-rounds 3] [--out bench/results/sequential]

Needs the checkout: the sequential loop is the tests' own.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path

from common import read_questions, write_result

from lorid_engine.solver import Solver, SolverConfig

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "solver"))
from sequential_oracle import sequential_solve


def main() -> None:
    """Runs every setting and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--max-rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench/results/sequential"))
    options = parser.parse_args()
    questions, digest = read_questions(options.data, options.limit)
    plain = Solver.from_pack(max_batch_rows=1, threads=2)
    start = time.perf_counter()
    expected = [sequential_solve(plain.engine, plain.pack, question, 0, options.max_rounds) for question in questions]
    rows = [("sequential", 1, 2, time.perf_counter() - start, 0)]
    alone = sorted({len(questions) * part // 5 for part in range(5)})
    for lookahead, batch, threads in itertools.product((0, 8), (4, 64), (1, 2)):
        config = SolverConfig(max_rounds=options.max_rounds, lookahead=lookahead)
        solver = Solver.from_pack(config=config, max_batch_rows=batch, threads=threads)
        start = time.perf_counter()
        solutions = list(solver.solve_many(questions))
        seconds = time.perf_counter() - start
        solutions += [solver.solve(questions[number]) for number in alone]
        wrong = 0
        for solution, right in zip(solutions, [*expected, *(expected[number] for number in alone)], strict=True):
            drawn = [sample.token_ids for round in solution.trace for sample in (round.ir, round.kg, round.dr)]
            same = drawn == right.token_ids and (solution.answer, solution.agreed) == (right.answer, right.agreed)
            wrong += not same
        rows.append((f"lookahead {lookahead}", batch, threads, seconds, wrong))
        print(rows[-1], flush=True)
    past = sum(len(each.token_ids) > 3 for each in expected)
    lines = [
        "| schedule | rows | threads | seconds | questions whose tokens or answer differ |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {batch} | {threads} | {seconds:.0f} | {wrong} |" for name, batch, threads, seconds, wrong in rows
    ]
    lines.append(
        f"\n{len(questions)} questions together and {len(alone)} of them alone, {past} of them past round 1, at most {options.max_rounds} rounds."
    )
    result = {"questions": len(questions), "past_round_1": past, "data_sha256": digest, "rows": rows}
    write_result(options.out, result, "\n".join(lines))
    assert not any(row[-1] for row in rows), "a schedule changed a result"


if __name__ == "__main__":
    main()
