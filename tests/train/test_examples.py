"""From files to prompts and targets, and every way in which a file can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fakes import SPECIAL, byte_tokenizer
from lorid_engine.errors import DataError
from lorid_engine.solver.prompts import Template
from lorid_engine.train.examples import RoleFormat, TrainingSet, numbered_rules, read_training_set

FORM = RoleFormat(
    {
        "ir": Template("<|start|>Q {question}<|end|>"),
        "kg": Template("<|start|>R {question}<|end|>"),
        "dr": Template("<|start|>A {question}\n{knowledge}<|end|>"),
    },
    SPECIAL["<|end|>"],
)
QUESTIONS = [
    {"question": "Two and <|end|> three?", "answer": "2+3=<<2+3=5>>5\n#### 5"},
    {"question": " What is one? ", "answer": " #### 1 "},
    {"question": "Unknown?", "answer": "#### 0"},
]
KNOWLEDGE = [{"id": 1, "knowledge": [" one\n rule", "two"]}, {"id": 0, "knowledge": ["Add."]}, {"id": 2, "error": "no"}]


def write(path: Path, rows: list) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def read(tmp_path: Path, data: list = QUESTIONS, knowledge: list | None = KNOWLEDGE, **options: object) -> TrainingSet:
    settings: dict = {"roles": ("ir", "kg", "dr"), "max_tokens": 500, **options}
    return read_training_set(
        write(tmp_path / "data.jsonl", data),
        None if knowledge is None else write(tmp_path / "knowledge.jsonl", knowledge),
        form=FORM,
        tokenizer=byte_tokenizer(),
        **settings,
    )


def texts(found: TrainingSet, role: str) -> list[tuple[str, str]]:
    tokenizer = byte_tokenizer()
    pairs = []
    for example in found.examples[role]:
        assert example.tokens[-1] == SPECIAL["<|end|>"] and example.tokens[0] == SPECIAL["<|start|>"]
        assert example.rows == len(example.tokens) - 1 and example.targets == len(example.tokens) - example.prompt
        prompt, target = example.tokens[: example.prompt].tolist(), example.tokens[example.prompt :].tolist()
        assert list(example.tokens).count(SPECIAL["<|end|>"]) == 2  # that in the question is seven characters
        pairs.append((tokenizer.decode(prompt), tokenizer.decode(target)))
    return pairs


def test_each_role_has_its_prompt_and_target(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert texts(found, "ir") == [
        ("Q Two and <|end|> three?", "2+3=<<2+3=5>>5\n#### 5"),
        ("Q What is one?", "#### 1"),
        ("Q Unknown?", "#### 0"),
    ]
    assert texts(found, "kg") == [("R Two and <|end|> three?", "1. Add."), ("R What is one?", "1. one rule\n2. two")]
    assert texts(found, "dr")[1] == ("A What is one?\n1. one rule\n2. two", "#### 1")
    assert found.without_knowledge == 1
    assert [example.index for example in found.examples["dr"]] == [0, 1]
    assert numbered_rules(["a", "b"]) == "1. a\n2. b"


def test_marks_can_be_left_out(tmp_path: Path) -> None:
    assert texts(read(tmp_path, drop_marks=True), "ir")[0][1] == "2+3=5\n#### 5"


def test_an_answer_of_marks_alone_is_named(tmp_path: Path) -> None:
    data = [*QUESTIONS, {"question": "Q", "answer": "<<1+1=2>>"}]
    with pytest.raises(DataError, match="line 4: its answer has nothing but"):
        read(tmp_path, data, drop_marks=True)
    assert len(read(tmp_path, data, drop_marks=True, skip_bad=True).skipped) == 1


def test_rewrites_share_the_knowledge_of_their_id(tmp_path: Path) -> None:
    data = [{"id": 40, "question": f"Q{n}", "answer": "A"} for n in range(3)]
    assert len(read(tmp_path, data, [{"id": 40, "knowledge": ["x"]}]).examples["kg"]) == 3


def test_long_examples_are_counted_and_none_is_cut(tmp_path: Path) -> None:
    found = read(tmp_path, max_tokens=45)
    assert found.too_long == {"ir": 1, "kg": 0, "dr": 1}
    with pytest.raises(DataError, match="no example for ir: 3 are longer than 3 tokens"):
        read(tmp_path, max_tokens=3)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{broken", "line 2: it is not JSON"),
        ("[1]", "line 2: it must be a JSON object"),
        ({"question": "Q"}, "line 2: its answer must be a text"),
        ({"question": "Q", "answer": " \n"}, "line 2: its answer must be a text that is not empty"),
        ({"question": "", "answer": "A"}, "line 2: its question"),
        ({"id": -1, "question": "Q", "answer": "A"}, "line 2: its id"),
        ({"id": True, "question": "Q", "answer": "A"}, "line 2: its id"),
        ("[" * 100_000, "line 2: it is not JSON"),
        ({"id": 0, "question": "Q", "answer": "A"}, "line 2: some rows have an id"),
    ],
)
def test_bad_questions_are_named_or_left_out(tmp_path: Path, row: object, says: str) -> None:
    data = [QUESTIONS[0], row, QUESTIONS[1]]
    with pytest.raises(DataError, match=f"data.jsonl, {says}"):
        read(tmp_path, data, [KNOWLEDGE[1]])
    found = read(tmp_path, data, [KNOWLEDGE[1]], skip_bad=True)
    assert len(found.examples["ir"]) == 2 and len(found.skipped) == 1


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"id": 99, "knowledge": ["a"]}, "its id 99 is that of no question"),
        ({"knowledge": ["a"]}, "its id"),
        ({"id": 0, "knowledge": ["a"]}, "there is knowledge of question 0 before it"),
        ({"id": 2, "knowledge": []}, "its knowledge must be a list of rules"),
        ({"id": 2, "knowledge": "a"}, "its knowledge must be a list of rules"),
        ({"id": 2, "knowledge": ["a", ""]}, "its rules must be texts that are not empty"),
    ],
)
def test_bad_knowledge_is_named_or_left_out(tmp_path: Path, row: dict, says: str) -> None:
    with pytest.raises(DataError, match=f"knowledge.jsonl, line 3: {says}"):
        read(tmp_path, knowledge=[*KNOWLEDGE[:2], row])
    assert len(read(tmp_path, knowledge=[*KNOWLEDGE[:2], row], skip_bad=True).skipped) == 1


def test_files_that_are_not_there_or_empty(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no row that can be used"):
        read(tmp_path, [])
    with pytest.raises(DataError, match="name its file with --knowledge"):
        read(tmp_path, knowledge=None)
    with pytest.raises(DataError, match="no example for kg: the files have none"):
        read(tmp_path, knowledge=[KNOWLEDGE[2]])
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_training_set(tmp_path / "no", None, ["ir"], FORM, byte_tokenizer(), max_tokens=9)


def test_texts_are_encoded_together_as_they_are_alone() -> None:
    tokenizer = byte_tokenizer()
    texts = ["Two and <|end|> three?", "", "a\ud800b", "é" * 40, " \n", "Two and <|end|> three?"]
    assert tokenizer.encode_many(texts) == [tokenizer.encode_plain(text) for text in texts]
    assert tokenizer.encode_many([]) == []
