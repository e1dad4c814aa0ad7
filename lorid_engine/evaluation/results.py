"""ResultsFile: what an evaluation found, one JSON line each as soon as it is known, so that the same command goes on."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from lorid_engine.errors import DataError

_FORMAT = 1
_FIRST = b'{"record": "settings"'  # what every file begins with
# What each kind of record must have, and of which type, for a file to be gone on with.
_KINDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "run": {"run": int, "machine": dict},
    "question": {
        **{name: int for name in ("run", "index", "rounds", "tokens", "cancelled_tokens")},
        **{name: bool for name in ("right", "agreed")},
        **{"at": float, "question": str, "gold": str, "answer": (str, NoneType), "trace": list},
    },
    "greedy": {"run": int, "at": float, "index": int, "ir": dict, "kg": dict, "dr": dict},
    "samples": {"run": int, "at": float, "index": int, "first": int, "samples": list},
}
_MOST = 1 << 53  # of any count


def _check_texts(record: dict[str, Any]) -> None:
    """Raises ValueError if the texts in a record are not such that they can be scored."""
    groups = [*record.get("trace", []), *([record] if "ir" in record else [])]
    answers = [group[role] for group in groups for role in ("ir", "dr")] + record.get("samples", [])
    if any("answer" not in text for text in answers):
        raise ValueError("a text in it lacks its answer")
    for text in [*answers, *(group["kg"] for group in groups)]:
        if not isinstance(text.get("answer"), str | NoneType) or not 0 <= int(text["tokens"]) < _MOST:
            raise ValueError("an answer or a number of tokens in it is of the wrong type")
    for name in ("index", "rounds", "tokens", "cancelled_tokens", "first", "run", "at"):
        if not 0 <= record.get(name, 0) < _MOST:
            raise ValueError(f"its {name} is out of range")


class Records:
    """What the records of a results file say.

    Attributes:
        path: of the file.
        settings: what decides its results.
        questions, greedy, samples: by question.
        runs: the processes that wrote the file.
        seconds: of each of them, until its last record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings: dict[str, Any] = {}
        self.questions: dict[int, dict[str, Any]] = {}
        self.greedy: dict[int, dict[str, Any]] = {}
        self.samples: dict[int, list[dict[str, Any]]] = {}
        self.runs: list[dict[str, Any]] = []
        self.seconds: dict[int, float] = {}

    def take(self, record: dict[str, Any]) -> None:
        """Adds a record.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it is none, or contradicts those before.
        """
        kind = record.get("record")
        if not isinstance(kind, str) or kind not in _KINDS:
            raise ValueError(f"its kind is {kind!r}")
        for name, types in _KINDS[kind].items():
            if not isinstance(record.get(name), types):
                raise ValueError(f"its {name} is missing or of the wrong type")
        _check_texts(record)
        if kind == "run":
            self.runs.append(record)
            return
        self.seconds[record["run"]] = max(self.seconds.get(record["run"], 0.0), record["at"])
        index = record["index"]
        if kind == "samples":
            held = self.samples.setdefault(index, [])
            if record["first"] != len(held):
                raise ValueError(f"its samples of question {index} do not follow those before")
            held += record["samples"]
            return
        records = self.questions if kind == "question" else self.greedy
        if index in records:
            raise ValueError(f"it is question {index} a second time")
        records[index] = record

    def take_lines(self, lines: Sequence[bytes]) -> None:
        """Adds the records of the file's whole lines, of which the first holds the settings.

        Raises:
            DataError: a line is none, or the file is of another version, or was started with other settings than those known.
        """
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError("no JSON object")
                if number > 1:
                    self.take(record)
                    continue
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
                raise DataError(
                    f"{self.path}, line {number}: this is no record of an evaluation ({error}); remove the line, or name "
                    "another file"
                ) from None
            if record.pop("record", None) != "settings" or record.pop("format", None) != _FORMAT:
                raise DataError(f"{self.path} is a results file of another version; name another file")
            self._compare(record)
            self.settings = record

    def _compare(self, found: dict[str, Any]) -> None:
        for name in {**self.settings, **found} if self.settings else {}:  # none are known where a file is only read
            if found.get(name) != self.settings.get(name):
                was, now = (f"{each.get(name)!r}"[:200] for each in (found, self.settings))
                raise DataError(
                    f"{self.path} was started with {name} {was}; this command has {now}. "
                    "Use the same settings, or name another file"
                )


def read_results(path: Path) -> Records:
    """The records of a results file, which stays as it is; a last line that is not whole is passed over.

    Raises:
        DataError: it cannot be read, or is no results file.
    """
    data, records = _bytes_of(path), Records(path)
    if not data.startswith(_FIRST) or b"\n" not in data:
        raise DataError(f"{path} is no results file; name another")
    records.take_lines(data.split(b"\n")[:-1])
    return records


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"the results file {path} cannot be read: {error.strerror}") from None


def expect_same_but_seed(records: Records, first: Records) -> None:
    """Refuses two evaluations that are not of the same with two seeds.

    Raises:
        DataError: it names the settings that differ, or says that they have other questions or one seed.
    """
    keys = (first.settings.keys() | records.settings.keys()) - {"seed"}
    different = sorted(key for key in keys if first.settings.get(key) != records.settings.get(key))
    if different or first.questions.keys() != records.questions.keys():
        raise DataError(f"{records.path} differs from {first.path} in {', '.join(different) or 'its questions'}")
    if (seed := records.settings.get("seed")) == first.settings.get("seed"):
        raise DataError(f"{records.path} and {first.path} both have seed {seed}; give one file of each seed")


class ResultsFile(Records):
    """A results file that this process alone writes.

    Args:
        path: made if it is not there; a last line that was cut short is removed.
        settings: what decides the results. A file that was started with others is refused.
        machine: of this run.

    Raises:
        DataError: other settings, a damaged line, another process that writes it, or no space.
    """

    def __init__(self, path: Path, settings: dict[str, Any], machine: dict[str, Any]) -> None:
        super().__init__(path)
        self.settings = settings
        self.repaired = False
        self.start_clock()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise DataError(f"the results file {path} cannot be opened: {error.strerror}") from None
        try:
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise DataError(f"the results file {path} must be a file; name another")
            self._lock()
            self._read()
            self.run = len(self.runs) + 1
            if not self._started:
                self._write({"record": "settings", "format": _FORMAT, **settings})
            self.append({"record": "run", "machine": machine})
        except BaseException:
            self.close()
            raise

    def start_clock(self) -> None:
        """Counts this run's seconds from now."""
        self._start = time.perf_counter()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another process writes {self.path}; wait for it, or name another file") from None
        except OSError:  # a file system without locks
            pass

    def _read(self) -> None:
        data = _bytes_of(self.path)
        lines = data.split(b"\n")
        self.repaired = lines[-1] != b""
        self._started = len(lines) > 1
        if not data[: len(_FIRST)] == _FIRST[: len(data)]:
            raise DataError(f"{self.path} is no results file; name another")
        if not any(b'"record": "%s"' % kind in data for kind in (b"question", b"greedy", b"samples")):
            os.ftruncate(self._file, 0)  # nothing was found yet: other settings may begin
            self._started = False
            return
        self.take_lines(lines[:-1])
        if self.repaired:
            os.ftruncate(self._file, len(data) - len(lines[-1]))

    def append(self, record: dict[str, Any]) -> None:
        """Adds a record to the file and to what it holds; when this returns, no kill can lose it.

        Raises:
            DataError: it cannot be written; the records before it are kept.
        """
        record = {**record, "run": self.run, "at": round(time.perf_counter() - self._start, 3)}
        self._write(record)
        self.take(record)

    def _write(self, record: dict[str, Any]) -> None:
        line = json.dumps(record).encode() + b"\n"
        before = os.lseek(self._file, 0, os.SEEK_END)
        try:
            done = 0
            while done < len(line):
                done += os.write(self._file, line[done:])
        except BaseException as error:
            os.ftruncate(self._file, before)  # no half line, be it a full disk or Ctrl-C
            if isinstance(error, OSError):
                raise DataError(
                    f"{self.path} could not be written: {error.strerror}. What it holds is kept: make room and give the "
                    "same command again"
                ) from None
            raise

    def close(self) -> None:
        """Lets the file go."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
