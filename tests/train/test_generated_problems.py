"""The generator of practice problems: every step is right, no question comes twice, and a seed decides all."""

from __future__ import annotations

import json
import re
import sys
from fractions import Fraction
from pathlib import Path

from fakes import byte_tokenizer
from lorid_engine.train.examples import read_training_set
from test_examples import FORM

FOLDER = Path(__file__).parents[2] / "bench" / "packs"
sys.path.insert(0, str(FOLDER))
STEP = re.compile(r"([\d.]+) ([-+*/]) ([\d.]+) = <<([\d.]+)([-+*/])([\d.]+)=([\d.]+)>>([\d.]*\d)")
COUNT = 3400


def made(seed: int = 1) -> list:
    from generated_problems import problems

    return list(problems(COUNT, seed))


def test_every_step_is_right_and_the_last_one_is_the_answer() -> None:
    for problem in made():
        lines = problem.rationale.splitlines()
        assert 1 <= len(lines) <= 4
        for line in lines:
            [(a, sign, b, left, same_sign, right, marked, result)] = STEP.findall(line)
            assert (a, sign, b, result) == (left, same_sign, right, marked)
            x, y = Fraction(a), Fraction(b)
            value = {"+": x + y, "-": x - y, "*": x * y, "/": x / y if y else None}[sign]
            assert value == Fraction(result), line
        assert problem.answer == result and problem.target.endswith(f"\n#### {result}")
        assert 1 <= len(problem.knowledge) <= len(lines)
        assert not any(
            character.isdigit() for rule in problem.knowledge for character in rule.replace("100", "").replace("60", "")
        )


def test_numbers_of_a_rationale_come_from_the_question_or_a_step() -> None:
    number = re.compile(r"\d+(?:\.\d+)?")
    known = {"60", "100"}
    for problem in made():
        found = {*known, *number.findall(problem.question)}
        words = ("half", "third", "quarter", "fifth", "twice", "times", "days", "average", "Wednesday")
        if any(word in problem.question for word in words):
            found |= {"2", "3", "4", "5", "6"}
        for a, _, b, *_, result in STEP.findall(problem.rationale):
            assert {a, b} <= found, problem
            found.add(result)


def test_no_question_comes_twice_and_a_seed_decides_all() -> None:
    first = made()
    assert len({problem.question for problem in first}) == COUNT
    assert first == made() and first != made(seed=2)
    assert len({problem.question for problem in [*first, *made(seed=2)]}) / (2 * COUNT) > 0.9


def test_the_trainer_reads_them(tmp_path: Path) -> None:
    from generated_problems import rows

    for place, name in enumerate(("data", "knowledge")):
        text = "".join(json.dumps(pair[place]) + "\n" for pair in rows(40, 3, 1000))
        (tmp_path / f"{name}.jsonl").write_text(text)
    files = (tmp_path / "data.jsonl", tmp_path / "knowledge.jsonl")
    found = read_training_set(*files, ["ir", "kg", "dr"], FORM, byte_tokenizer(), max_tokens=4000, drop_marks=True)
    assert {role: len(examples) for role, examples in found.examples.items()} == {"ir": 40, "kg": 40, "dr": 40}
    assert found.examples["ir"][0].id == 1000
    text = byte_tokenizer().decode(found.examples["ir"][4].tokens.tolist())
    assert re.search(r"\d [-+] \d+ = \d+", text) and "<<" not in text
