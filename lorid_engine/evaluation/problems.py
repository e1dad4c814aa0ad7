"""Problems: questions with their gold answers, from JSON lines or a hub's data set."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorid_engine.errors import DataError
from lorid_engine.evaluation.hub_data import hub_rows
from lorid_engine.model.hub import names_hub_model
from lorid_engine.solver.answers import extract

_FIELDS = (("question", "answer"), ("input", "target"))
_MOST_GOLD = 400  # characters of an answer that stands alone: a rationale without a mark is none
_MARK = "####"


@dataclass(frozen=True)
class Problem:
    """A question and the answer that counts as right.

    Attributes:
        index: the row's number in the data, from 0, or its own "index".
    """

    index: int
    question: str
    gold: str


@dataclass(frozen=True)
class ProblemSet:
    """What a source gave.

    Attributes:
        source: the file, or the hub's data set with its split.
        sha256: of the file's bytes, or of what was read of the data set.
        skipped: what is wrong with each row that was left out.
    """

    source: str
    sha256: str
    problems: tuple[Problem, ...]
    skipped: tuple[str, ...]


class _RowError(ValueError):
    """Why a row gives no problem."""


def read_gold(value: object) -> str:
    """The gold answer of a row: a number, or a text that has one after its last "####" or in \\boxed{}, or is one.

    Raises:
        ValueError: none can be read.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _RowError(f"the gold answer {value} is no number")
        return str(int(value)) if value == int(value) else repr(value)
    if not isinstance(value, str):
        raise _RowError(f"the gold answer must be text or a number; got {type(value).__name__}")
    if _MARK in value:
        gold = value.rsplit(_MARK, 1)[1]
    elif "\\boxed" in value:
        gold = _boxed(value)
    else:
        gold = value
    gold = gold.strip()
    if not gold:
        raise _RowError("the gold answer is empty")
    if len(gold) > _MOST_GOLD or "\n" in gold:
        raise _RowError(
            f'no gold answer can be read: a long one needs "{_MARK} ..." in its last line, or \\boxed{{...}}'
        )
    return gold


def _boxed(value: str) -> str:
    """The contents of the last box; extract alone would look elsewhere where a box is not closed."""
    gold, compact = extract(value) or "", value.replace(" ", "")
    if f"{{{gold}}}".replace(" ", "") not in compact and f"\\boxed{gold}" not in compact:
        raise _RowError("the gold answer in \\boxed is not closed")
    return gold


def read_problems(source: str, *, limit: int | None = None, skip_bad: bool = False, split: str = "test") -> ProblemSet:
    """Reads {question, answer} or {input, target} rows.

    Args:
        source: a file of JSON lines, or a hub's data set, organisation/name or organisation/name:configuration.
        limit: the first so many problems; None = all.
        skip_bad: leave out rows that cannot be read, instead of refusing the source.
        split: of a hub's data set.

    Raises:
        DataError: no such source, no problem in it, or a bad row; the message names file and line.
    """
    path = Path(source)
    if _is_hub_data(source):
        name, sha256 = f"{source} {split}", None
        numbered: Iterable[tuple[int, object]] = enumerate(hub_rows(source, split))
    else:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"the data file {source} cannot be read: {error.strerror}") from None
        name, sha256 = path.name, hashlib.sha256(data).hexdigest()
        numbered = ((number, line) for number, line in enumerate(data.split(b"\n")) if line.strip())
    problems, skipped = _take(numbered, source, limit, skip_bad)
    if not problems:
        bad = f", only {len(skipped)} rows that cannot be read (the first: {skipped[0]})" if skipped else ""
        raise DataError(f"{source} has no questions{bad}")
    if sha256 is None:
        rows = json.dumps([[problem.index, problem.question, problem.gold] for problem in problems])
        sha256 = hashlib.sha256(rows.encode()).hexdigest()
    return ProblemSet(name, sha256, tuple(problems), tuple(skipped))


def _is_hub_data(source: str) -> bool:
    """Whether a source is of the form organisation/name and no file, nor looks like one that is missing."""
    path = Path(source)
    looks_like_file = path.suffix in (".json", ".jsonl") or path.parent.is_dir()
    return names_hub_model(source.split(":", 1)[0]) and not (path.exists() or looks_like_file)


def _take(
    rows: Iterable[tuple[int, object]], source: str, limit: int | None, skip_bad: bool
) -> tuple[list[Problem], list[str]]:
    problems: list[Problem] = []
    skipped: list[str] = []
    seen: dict[int, int] = {}
    for number, row in rows:
        if limit is not None and len(problems) >= limit:
            break
        try:
            problem = _problem(number, _parse(row))
            if problem.index in seen:
                raise _RowError(f"the index {problem.index} is that of row {seen[problem.index] + 1}, too")
        except _RowError as error:
            wrong = f"{source}, line {number + 1}: {error}"
            if not skip_bad:
                raise DataError(f"{wrong}. Mend it, or leave such rows out with --skip-bad") from None
            skipped.append(wrong)
            continue
        seen[problem.index] = number
        problems.append(problem)
    return problems, skipped


def _parse(row: object) -> dict[str, Any]:
    if isinstance(row, bytes):
        try:
            row = json.loads(row.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise _RowError(f"it is not JSON in UTF-8 ({error})") from None
    if not isinstance(row, dict):
        raise _RowError(f"it must be a JSON object; got {type(row).__name__}")
    return row


def _problem(number: int, row: dict[str, Any]) -> Problem:
    for asked, answered in _FIELDS:
        if asked in row and answered in row:
            break
    else:
        forms = " or ".join("{" + ", ".join(fields) + "}" for fields in _FIELDS)
        raise _RowError(f"it must have {forms}; it has {', '.join(map(str, row)) or 'nothing'}")
    question = row[asked]
    if not isinstance(question, str) or not question.strip():
        raise _RowError(f"its {asked} must be a text that is not empty")
    index = row.get("index", number)
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise _RowError(f"its index must be a whole number of at least 0; got {index!r}")
    return Problem(index, question.strip(), read_gold(row[answered]))
