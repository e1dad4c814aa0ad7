"""What DR makes of its rules: greedy answers with KG's rules, the teacher's, those of another question, and none, beside IR's.

    python bench/packs/ablate_rules.py --pack my-pack --held-out my-pack-run/data/held-out.jsonl --knowledge DATA/gsm8k_knowledge.jsonl

The questions are GSM8K training questions that no role was trained on (smollm2_gsm8k.py writes them), for test questions have no rules of
a teacher. The teacher saw the solutions, too: its rules are what KG could write at best. Intervals and differences are by paired
bootstrap over questions.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from evaluate import ROWS

from lorid_engine import Engine, env
from lorid_engine.errors import DataError, LoridError
from lorid_engine.evaluation.problems import read_gold
from lorid_engine.evaluation.scores import interval, is_right
from lorid_engine.model.cache import file_sha256
from lorid_engine.solver import Sample
from lorid_engine.solver.base_source import FolderSource, resolve_base
from lorid_engine.solver.pack import ROLES, Pack
from lorid_engine.solver.packs import load_pack
from lorid_engine.solver.role_requests import RoleJob, draw_samples
from lorid_engine.train.examples import Question, numbered_rules, read_questions

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import percent, write_result

WAYS = {
    "ir": "IR",
    "kg": "DR with KG's rules",
    "teacher": "DR with the teacher's rules",
    "other": "DR with the teacher's rules for another question",
    "none": "DR without rules",
}


def draw(engine: Engine, pack: Pack, jobs: Iterable[RoleJob]) -> list[Sample]:
    """Greedy samples in the order of the jobs, whose owners count from 0."""
    found = {job.owner: sample for job, sample in draw_samples(engine, pack, jobs, 0, {"temperature": 0.0})}
    return [found[owner] for owner in range(len(found))]


def read_rules(path: Path, ids: list[int]) -> list[str]:
    """The teacher's rules of these questions, as KG is trained to write them.

    Raises:
        DataError: a question has none, or a line holds no {id, knowledge}.
    """
    rules = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            rules[row["id"]] = numbered_rules(row.get("knowledge") or [])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(f"{path}, line {number}: this is no {{id, knowledge}} of a question") from None
    if missing := [id for id in ids if not rules.get(id)]:
        raise DataError(f"{path} has no rules for question {missing[0]}")
    return [rules[id] for id in ids]


def read_gold_answers(path: Path, questions: Iterable[Question]) -> list[str]:
    """The answers in which the rationales of these rows end.

    Raises:
        DataError: one ends in none; the row's line is named.
    """
    golds = []
    for question in questions:
        try:
            golds.append(read_gold(question.answer))
        except ValueError as error:
            raise DataError(f"{path}, line {question.index + 1}: {error}") from None
    return golds


def main() -> int:
    """Draws, compares and writes; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", required=True, help="a pack's folder or name")
    parser.add_argument("--base", type=Path, help="folder or .gguf file of its base; default: as the pack says")
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--knowledge", type=Path, required=True)
    parser.add_argument("--first", type=int, help="questions; default: all")
    parser.add_argument("--device", default="cpu", choices=ROWS)
    parser.add_argument("--out", type=Path, default=Path("bench/results/pack-rules"))
    options = parser.parse_args()
    try:
        questions = read_questions(options.held_out)[: options.first]
        if len(questions) < 2:
            raise DataError(f"{options.held_out} has too few questions: those of others need two at least")
        golds = read_gold_answers(options.held_out, questions)
        teacher = read_rules(options.knowledge, [question.id for question in questions])
        pack = load_pack(options.pack)
        base = resolve_base(FolderSource(options.base) if options.base else pack.base, env.cache_dir())
        rows, adapters = ROWS[options.device], {role: pack.roles[role].adapter for role in ROLES}
        engine = Engine(
            base, adapters, device=options.device, max_batch_rows=rows, max_batch_tokens=8 * rows, active_adapters=3
        )

        def jobs(role: str, rules: Callable[[int], str | None]) -> Iterable[RoleJob]:
            return (RoleJob(each.question, role, 0, rules(at), owner=at) for at, each in enumerate(questions))

        written = [sample.text for sample in draw(engine, pack, jobs("kg", lambda at: None))]
        samples = {
            "ir": draw(engine, pack, jobs("ir", lambda at: None)),
            "kg": draw(engine, pack, jobs("dr", lambda at: written[at])),
            "teacher": draw(engine, pack, jobs("dr", lambda at: teacher[at])),
            "other": draw(engine, pack, jobs("dr", lambda at: teacher[at - 1])),
            "none": draw(engine, pack, jobs("dr", lambda at: "")),
        }
    except (LoridError, OSError) as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 2
    right = {
        way: [float(is_right(sample.answer, gold)) for sample, gold in zip(found, golds, strict=True)]
        for way, found in samples.items()
    }
    less = {way: interval(a - b for a, b in zip(right[way], right["kg"], strict=True)) for way in WAYS}
    lines = ["| greedy | right, % (95 % interval) | less DR with KG's rules, points |", "|---|---|---|"]
    for way, title in WAYS.items():
        shown = [percent(each) for each in (interval(right[way]), less[way])]
        lines.append(f"| {title} | {shown[0]} | {'' if way == 'kg' else shown[1]} |")
    lines += ["", f"{len(questions)} GSM8K training questions that were held out, pack {pack.name}."]
    result = {
        "pack": pack.name,
        "questions": len(questions),
        "held_out_sha256": file_sha256(options.held_out),
        "right": {way: interval(values) for way, values in right.items()},
        "less_kg": less,
    }
    write_result(options.out, result, "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
