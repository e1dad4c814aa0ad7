"""A run of the teacher over a file of questions: some at a time, each written as soon as it is known."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from lorid_engine.errors import DataError, TeacherError
from lorid_engine.teach.teacher import NoAnswerError, Teacher, TeacherOptions, Usage
from lorid_engine.train.examples import Question

_MOST_SERVER_FAILURES = 10  # questions one after another: then the server, not a question, is the reason
_START = b'{"id": '  # of every line of ours


@dataclass(frozen=True)
class Taught:
    """What became of a question: its rules, or why there are none."""

    question: Question
    rules: list[str] | None
    error: str | None
    usage: Usage


class KnowledgeFile:
    """JSON lines {id, knowledge} or {id, error}, which this process alone writes.

    Args:
        path: made if it is not there; a last line that was cut short is removed.
        questions: of the data. A line of another question with the same id is refused.
        retry_failed: ask again where a line has an error.

    Raises:
        DataError: it belongs to other data, has a damaged line, or cannot be opened.
    """

    def __init__(self, path: Path, questions: Sequence[Question], *, retry_failed: bool = False) -> None:
        self.path = path
        self.known: set[int] = set()
        self.failed: set[int] = set()
        self._ends = True  # whether what it holds ends with a whole line
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise DataError(f"the file {path} cannot be opened: {error.strerror}") from None
        try:
            if not stat.S_ISREG(os.fstat(self._file).st_mode):  # a device could be read for ever
                raise DataError(f"{path} must be a file; name another")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError(f"another process writes {path}; wait for it, or name another file") from None
            except OSError:  # a file system without locks
                pass
            self._read(_first_by_id(questions), retry_failed)
        except BaseException:
            self.close()
            raise

    def _read(self, questions: dict[int, Question], retry_failed: bool) -> None:
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise DataError(f"the file {self.path} cannot be read: {error.strerror}") from None
        lines = data.split(b"\n")
        if lines[-1]:
            lines = self._end_line(lines)
        for number, line in enumerate(lines[:-1], start=1):
            try:
                row = json.loads(line)
                id, failed = row["id"], "error" in row
                if not failed and not isinstance(row["knowledge"], list):
                    raise ValueError("its knowledge is no list")
                question = questions[id]
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise DataError(
                    f"{self.path}, line {number}: this is no knowledge of a question of the data ({error}); "
                    "name another file"
                ) from None
            if row.get("question_sha256", _digest(question)) != _digest(question):
                raise DataError(f"{self.path}, line {number} is of another question {id}; name another file")
            if failed:
                self.failed.add(id)
            else:
                self.failed.discard(id)
            if not (failed and retry_failed):
                self.known.add(id)

    def _end_line(self, lines: list[bytes]) -> list[bytes]:
        """Ends a last line that is whole, or takes back one of ours that was cut short; nothing else is touched."""
        try:
            json.loads(lines[-1])
        except ValueError:
            if not lines[-1].startswith(_START[: len(lines[-1])]):
                raise DataError(f"{self.path} is no file of knowledge; name another file") from None
            os.ftruncate(self._file, os.fstat(self._file).st_size - len(lines[-1]))
            return [*lines[:-1], b""]
        self._ends = False
        return [*lines, b""]

    def add(self, taught: Taught) -> None:
        """Writes a question's line; when this returns, no kill of the process can lose it.

        Raises:
            DataError: it cannot be written; what the file holds is kept.
        """
        what: dict[str, Any] = {"knowledge": taught.rules} if taught.error is None else {"error": taught.error}
        row = {
            "id": taught.question.id,
            **what,
            "question_sha256": _digest(taught.question),
            "prompt_tokens": taught.usage.prompt_tokens,
            "completion_tokens": taught.usage.completion_tokens,
        }
        line = json.dumps(row).encode() + b"\n"
        if not self._ends:
            line = b"\n" + line
        before = os.lseek(self._file, 0, os.SEEK_END)
        try:
            done = 0
            while done < len(line):
                done += os.write(self._file, line[done:])
        except OSError as error:
            os.ftruncate(self._file, before)
            raise DataError(
                f"{self.path} could not be written: {error.strerror}. What it holds is kept: make room and give the same "
                "command again"
            ) from None
        self._ends = True
        self.known.add(taught.question.id)
        (self.failed.discard if taught.error is None else self.failed.add)(taught.question.id)

    def close(self) -> None:
        """Lets the file go."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> KnowledgeFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _digest(question: Question) -> str:
    return hashlib.sha256(question.question.encode("utf-8", "replace")).hexdigest()[:16]


def _first_by_id(questions: Sequence[Question]) -> dict[int, Question]:
    """Of the questions that share an id, the first: it is asked for all of them."""
    return {question.id: question for question in reversed(questions)}


def left_to_teach(questions: Sequence[Question], file: KnowledgeFile) -> list[Question]:
    """The questions that have no line yet; of those that share an id, the first."""
    first = _first_by_id(questions)
    return [question for question in questions if first[question.id] is question and question.id not in file.known]


def teach(
    questions: Sequence[Question],
    file: KnowledgeFile,
    options: TeacherOptions,
    *,
    concurrency: int = 8,
    tell: Callable[[Taught], None] = lambda taught: None,
) -> None:
    """Asks for the rules of questions, so many at a time, and writes every answer when it comes.

    Args:
        questions: from left_to_teach.
        tell: told of every line.

    Raises:
        TeacherError: the server takes no question, or fails on many one after another; what was written is kept.
        DataError: the file cannot be written.
    """
    asyncio.run(_teach(questions, file, options, concurrency, tell))


async def _teach(
    questions: Sequence[Question],
    file: KnowledgeFile,
    options: TeacherOptions,
    concurrency: int,
    tell: Callable[[Taught], None],
) -> None:
    teacher = Teacher(options)
    waiting: Iterator[Question] = iter(questions)
    # Failures of the server: written once it has served another question, so that an outage marks none as failed.
    held: list[Taught] = []

    def write(taught: Taught) -> None:
        file.add(taught)
        tell(taught)

    async def work() -> None:
        for question in waiting:
            usage = Usage()
            try:
                taught = Taught(question, await teacher.rules(question.question, question.answer, usage), None, usage)
            except NoAnswerError as error:
                taught = Taught(question, None, str(error), usage)
                if error.from_server:
                    held.append(taught)
                    if len(held) >= _MOST_SERVER_FAILURES:
                        raise TeacherError(
                            f"{len(held)} questions failed one after another; the last: {error}"
                        ) from None
                    continue
            while held:
                write(held.pop(0))
            write(taught)

    workers = [asyncio.create_task(work()) for _ in range(max(1, min(concurrency, len(questions))))]
    try:
        await asyncio.gather(*workers)
        while held:
            write(held.pop(0))
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        await teacher.close()
