"""Questions and gold answers as data files have them, and as they should not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lorid_engine.errors import DataError
from lorid_engine.evaluation.problems import read_gold, read_problems


def write(path: Path, *rows: object) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def row(number: int, **more: object) -> dict[str, object]:
    return {"question": f"What is {number}?", "answer": f"It is.\n#### {number}", **more}


@pytest.mark.parametrize(
    ("given", "gold"),
    [
        ("She has 3 <<1+2=3>>3.\n#### 1,234", "1,234"),
        ("#### 5\nno, \n#### 7 ", "7"),
        ("so $\\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
        ("18", "18"),
        ("Tuesday", "Tuesday"),
        (43.0, "43"),
        (2.5, "2.5"),
        (-7, "-7"),
        (10**400, str(10**400)),
        ("so $\\boxed{ x^{2} + 5 }$", "x^{2} + 5"),
        ("\\boxed5", "5"),
    ],
)
def test_gold_answers(given: object, gold: str) -> None:
    assert read_gold(given) == gold


@pytest.mark.parametrize(
    "given",
    [
        "",
        "  ",
        "so\n####  ",
        "\\boxed{",
        "\\boxed{x^{2} + 5",
        None,
        True,
        ["7"],
        {"a": 1},
        float("nan"),
        float("inf"),
        "two\nlines",
        "x" * 401,
    ],
)
def test_gold_answers_that_cannot_be_read(given: object) -> None:
    with pytest.raises(ValueError, match="gold answer"):
        read_gold(given)


def test_both_forms_in_order_with_their_line_numbers(tmp_path: Path) -> None:
    source = write(tmp_path / "d.jsonl", row(1), "", {"input": " Two ? ", "target": 2.0}, row(3, index=90))
    found = read_problems(source)
    assert [(p.index, p.question, p.gold) for p in found.problems] == [
        (0, "What is 1?", "1"),
        (2, "Two ?", "2"),
        (90, "What is 3?", "3"),
    ]
    assert found.source == "d.jsonl" and len(found.sha256) == 64 and found.skipped == ()
    assert [p.index for p in read_problems(source, limit=2).problems] == [0, 2]


BAD = {
    "broken": ('{"question": "a", "answer": ', "it is not JSON in UTF-8"),
    "list": ("[1, 2]", "it must be a JSON object; got list"),
    "fields": (
        {"question": "a", "solution": "b"},
        "it must have {question, answer} or {input, target}; it has question, solution",
    ),
    "empty question": ({"question": " ", "answer": "1"}, "its question must be a text that is not empty"),
    "number as question": ({"question": 5, "answer": "1"}, "its question must be a text"),
    "gold": ({"question": "a", "answer": ""}, "the gold answer is empty"),
    "index": (row(1, index=-1), "its index must be a whole number of at least 0; got -1"),
    "twice": (row(1, index=0), "the index 0 is that of row 1, too"),
    "deep": ("[" * 100_000, "it is not JSON"),
    "digits": ('{"question": "a", "answer": ' + "1" * 5000 + "}", "it is not JSON"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_by_file_and_line_or_left_out(tmp_path: Path, case: str) -> None:
    bad, message = BAD[case]
    source = write(tmp_path / "d.jsonl", row(1), bad, row(3))
    with pytest.raises(DataError) as refused:
        read_problems(source)
    assert str(refused.value).startswith(f"{source}, line 2: {message}") and "--skip-bad" in str(refused.value)
    found = read_problems(source, skip_bad=True)
    assert [p.gold for p in found.problems] == ["1", "3"] and len(found.skipped) == 1 and "line 2" in found.skipped[0]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(b'{"question": "\xff", "answer": "1"}\n')
    with pytest.raises(DataError, match="line 1: it is not JSON in UTF-8"):
        read_problems(str(tmp_path / "d.jsonl"))


def test_sources_that_give_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="has no questions"):
        read_problems(str(tmp_path / "empty.jsonl"))
    with pytest.raises(DataError, match="only 1 rows that cannot be read"):
        read_problems(write(tmp_path / "bad.jsonl", "x"), skip_bad=True)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_problems(str(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_problems(str(tmp_path))


def test_a_file_that_is_missing_is_not_looked_for_on_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for source in ("data/test", "other/test.jsonl"):
        with pytest.raises(DataError, match=f"the data file {source} cannot be read"):
            read_problems(source)


def test_a_hub_s_data_set_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'lorid-engine\[datasets\]'"):
        read_problems("openai/gsm8k:main")
