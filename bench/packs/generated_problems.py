"""Word problems with rationales and rules, made from templates by a seed: practice in arithmetic for small models.

    python bench/packs/generated_problems.py --count 20000 --seed 0 --data data.jsonl --knowledge knowledge.jsonl

The rows are what `lorid train` reads: {id, question, answer} and {id, knowledge}. An answer spells every step out, with GSM8K's
calculator marks (48 / 2 = <<48/2=24>>24), and ends in #### and the number. The templates are our own; no text is a benchmark's.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from arithmetic_problems import TEMPLATES
from marks import UnfitError, decimal
from problem_parts import Problem, Solution
from story_problems import STORIES

from lorid_engine.errors import LoridError
from lorid_engine.train.files import write_whole


def problems(count: int, seed: int) -> Iterator[Problem]:
    """So many problems whose questions all differ; the same for the same seed, the templates in turn."""
    draw, seen, templates = random.Random(seed), set(), (*TEMPLATES, *STORIES)
    while len(seen) < count:
        solution = Solution()
        try:
            question, value = templates[len(seen) % len(templates)](draw, solution)
            answer = decimal(value)
        except UnfitError:
            continue
        if question not in seen:
            seen.add(question)
            yield Problem(question, "\n".join(solution.lines), tuple(solution.rules), answer)


def rows(count: int, seed: int, first_id: int) -> Iterator[tuple[dict[str, object], dict[str, object]]]:
    """Rows of questions and of knowledge, as `lorid train` reads them."""
    for id, problem in enumerate(problems(count, seed), start=first_id):
        yield (
            {"id": id, "question": problem.question, "answer": problem.target},
            {"id": id, "knowledge": problem.knowledge},
        )


def main() -> int:
    """Writes both files; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first-id", type=int, default=0)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--knowledge", type=Path, required=True)
    options = parser.parse_args()
    pairs = list(rows(options.count, options.seed, options.first_id))
    try:
        for place, path in enumerate((options.data, options.knowledge)):
            write_whole(path, "".join(json.dumps(pair[place]) + "\n" for pair in pairs))
    except (LoridError, OSError) as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
