"""Examples of the three roles: from questions with rationales and a file of knowledge to prompts and targets in tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lorid_engine.engine.tokenizer import Tokenizer
from lorid_engine.errors import DataError
from lorid_engine.solver.prompts import Template

_MARKS = re.compile(r"<<[^<>]*>>")  # GSM8K's calculator marks, as in 3+4=<<3+4=7>>7


class _RowError(ValueError):
    """Why a row gives no example."""


@dataclass(frozen=True)
class Example:
    """One role's prompt and target.

    Attributes:
        index: the question's row in the data, from 0.
        id: of its knowledge; rewrites of one question share it.
        tokens: int32, the prompt's, then the target's, which end with a stop token.
        prompt: how many of them are the prompt's.
    """

    index: int
    id: int
    tokens: np.ndarray
    prompt: int

    @property
    def rows(self) -> int:
        """Rows of a forward pass: every token but the last is read."""
        return len(self.tokens) - 1

    @property
    def targets(self) -> int:
        """How many tokens are learned."""
        return len(self.tokens) - self.prompt


@dataclass(frozen=True)
class RoleFormat:
    """How roles ask and how their answers end.

    Attributes:
        prompts: of every role that is trained.
        stop_id: the token after every target.
    """

    prompts: Mapping[str, Template]
    stop_id: int


@dataclass(frozen=True)
class TrainingSet:
    """What the files gave.

    Attributes:
        examples: by role, in the order of the data.
        too_long: by role, how many were left out because they have too many tokens.
        without_knowledge: how many questions have none.
        skipped: what is wrong with each row that was left out.
    """

    examples: dict[str, list[Example]]
    too_long: dict[str, int]
    without_knowledge: int
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Question:
    """A row of the data.

    Attributes:
        index: its line number, from 0.
        id: of its knowledge: "id" where the row has one, else the line number.
        question, answer: texts; the answer is a rationale.
    """

    index: int
    id: int
    question: str
    answer: str


@dataclass(frozen=True)
class _Draft:
    """An example whose texts are not encoded yet.

    Attributes:
        prompt: ids of special tokens, and texts.
    """

    question: Question
    role: str
    prompt: list[int | str]
    target: str


def numbered_rules(rules: Sequence[str]) -> str:
    """Knowledge as KG writes it and DR reads it: "1. ...", one rule a line."""
    return "\n".join(f"{number}. {rule}" for number, rule in enumerate(rules, start=1))


def read_questions(data: Path, skipped: list[str] | None = None) -> list[Question]:
    """Reads {question, answer} rows.

    Args:
        skipped: takes what is wrong with rows that cannot be used; None = such a row is refused.

    Raises:
        DataError: no such file, or a bad row, named by its line.
    """
    named: list[bool] = []  # whether the rows have ids of their own: the first one decides

    def read(number: int, row: dict[str, Any]) -> Question:
        question = _read_question(number, row)
        if not named:
            named.append("id" in row)
        if named[0] != ("id" in row):
            raise _RowError("some rows have an id and others have none, which could be the same as a line number")
        return question

    return list(_rows(data, read, skipped))


def read_training_set(
    data: Path,
    knowledge: Path | None,
    roles: Sequence[str],
    form: RoleFormat,
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    drop_marks: bool = False,
    skip_bad: bool = False,
) -> TrainingSet:
    """Reads {question, answer} rows and {id, knowledge} rows, and makes every role's examples.

    A question's id is its line number from 0, or its own "id", so that rewrites of one question can share its knowledge.

    Args:
        data: JSON lines of questions with rationales, each ending in its answer.
        knowledge: JSON lines of rules by question id; needed for kg and dr. Lines with an "error" count as having none.
        roles: of ir, kg, dr.
        max_tokens: longer examples are left out and counted.
        drop_marks: leave out calculator marks (<<3+4=7>>) of the answers.
        skip_bad: leave out rows that cannot be used, instead of refusing the file.

    Raises:
        DataError: a bad row, named by file and line; an id that matches no question; a role without examples.
    """
    skipped: list[str] = []
    questions = read_questions(data, skipped if skip_bad else None)
    rules: dict[int, list[str]] = {}
    if knowledge is not None:
        rules = _read_knowledge(knowledge, {question.id for question in questions}, skipped if skip_bad else None)
    elif set(roles) & {"kg", "dr"}:
        raise DataError("kg and dr are trained on knowledge; name its file with --knowledge, or train --roles ir")
    drafts: list[_Draft] = []
    for question in questions:
        answer = _MARKS.sub("", question.answer).strip() if drop_marks else question.answer
        if not answer:
            wrong = f"{data}, line {question.index + 1}: its answer has nothing but calculator marks"
            if not skip_bad:
                raise DataError(f"{wrong}. Mend it, or leave such rows out with --skip-bad")
            skipped.append(wrong)
            continue
        text = numbered_rules(rules[question.id]) if question.id in rules else None
        for role in roles:
            if role == "ir" or text is not None:
                values = {"question": question.question, "knowledge": text or ""}
                target = text if role == "kg" and text is not None else answer
                drafts.append(_Draft(question, role, form.prompts[role].pieces(tokenizer, **values), target))
    examples: dict[str, list[Example]] = {role: [] for role in roles}
    too_long = dict.fromkeys(roles, 0)
    for draft, example in zip(drafts, _encoded(drafts, form, tokenizer), strict=True):
        if len(example.tokens) > max_tokens:
            too_long[draft.role] += 1
        else:
            examples[draft.role].append(example)
    for role in roles:
        if not examples[role]:
            why = f"{too_long[role]} are longer than {max_tokens} tokens" if too_long[role] else "the files have none"
            raise DataError(f"there is no example for {role}: {why}")
    return TrainingSet(examples, too_long, sum(question.id not in rules for question in questions), skipped)


def _encoded(drafts: Sequence[_Draft], form: RoleFormat, tokenizer: Tokenizer) -> Iterator[Example]:
    """Examples of drafts. Most texts come more than once: each is encoded once, all of them together."""
    pieces = (piece for draft in drafts for piece in (*draft.prompt, draft.target) if isinstance(piece, str))
    texts = list(dict.fromkeys(pieces))
    ids = dict(zip(texts, tokenizer.encode_many(texts), strict=True))
    for draft in drafts:
        prompt = Template.joined(tokenizer, draft.prompt, ids.__getitem__)
        tokens = [*prompt, *ids[draft.target], form.stop_id]
        yield Example(draft.question.index, draft.question.id, np.array(tokens, np.int32), len(prompt))


def _rows(path: Path, read: Callable[[int, dict[str, Any]], Any], skipped: list[str] | None) -> Iterator[Any]:
    """What `read` makes of every line; a bad one is added to `skipped`, or refused if that is None."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"the data file {path} cannot be read: {error.strerror}") from None
    found = False
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                raise _RowError(f"it is not JSON in UTF-8 ({error})") from None
            if not isinstance(row, dict):
                raise _RowError(f"it must be a JSON object; got {type(row).__name__}")
            yield read(number, row)
            found = True
        except _RowError as error:
            wrong = f"{path}, line {number + 1}: {error}"
            if skipped is None:
                raise DataError(f"{wrong}. Mend it, or leave such rows out with --skip-bad") from None
            skipped.append(wrong)
    if not found:
        raise DataError(f"{path} has no row that can be used")


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise _RowError(f"its {name} must be a text that is not empty")
    return value.strip()


def _id(row: Mapping[str, Any], default: int | None) -> int:
    value = row.get("id", default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _RowError(f"its id must be a whole number of at least 0; got {value!r}")
    return value


def _read_question(number: int, row: dict[str, Any]) -> Question:
    return Question(number, _id(row, number), _text(row, "question"), _text(row, "answer"))


def _read_knowledge(path: Path, known: set[int], skipped: list[str] | None) -> dict[int, list[str]]:
    rules: dict[int, list[str]] = {}

    def read(number: int, row: dict[str, Any]) -> None:
        id = _id(row, None)
        if id not in known:
            raise _RowError(f"its id {id} is that of no question")
        if "error" in row:  # the teacher failed
            return
        if id in rules:
            raise _RowError(f"there is knowledge of question {id} before it")
        given = row.get("knowledge")
        if not isinstance(given, list) or not given:
            raise _RowError("its knowledge must be a list of rules")
        if not all(isinstance(rule, str) and rule.strip() for rule in given):
            raise _RowError("its rules must be texts that are not empty")
        rules[id] = [" ".join(rule.split()) for rule in given]

    for _ in _rows(path, read, skipped):
        pass
    return rules
