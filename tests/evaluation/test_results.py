"""The results file: what is in it survives, what is not right with it is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lorid_engine.errors import DataError
from lorid_engine.evaluation.results import ResultsFile, read_results

SETTINGS = {"data": "d.jsonl", "seed": 0, "limit": None}


def opened(path: Path, **changed: Any) -> ResultsFile:
    return ResultsFile(path, {**SETTINGS, **changed}, {"processor": "any"})


def question(index: int) -> dict[str, Any]:
    fields = {"index": index, "question": f"q{index}", "gold": "1", "answer": "1", "right": True, "agreed": True}
    return {"record": "question", **fields, "rounds": 1, "tokens": 5, "cancelled_tokens": 0, "trace": []}


def samples(index: int, first: int, count: int) -> dict[str, Any]:
    return {"record": "samples", "index": index, "first": first, "samples": [{"answer": "1", "tokens": 2}] * count}


def test_reads_what_another_process_writes(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with opened(path) as results:
        results.append(question(3))
        results.append(samples(3, 0, 2))
        with path.open("ab") as file:
            file.write(b'{"record": "ques')  # a line in the making
        before = path.read_bytes()
        records = read_results(path)
    assert (
        records.settings == {"data": "d.jsonl", "seed": 0, "limit": None}
        and set(records.questions) == {3}
        and len(records.samples[3]) == 2
    )
    assert path.read_bytes() == before
    path.write_text("no results\n")
    with pytest.raises(DataError, match="is no results file"):
        read_results(path)
    with pytest.raises(DataError, match=r"cannot be read: No such file"):
        read_results(tmp_path / "none.jsonl")


def test_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with opened(path) as results:
        results.append(question(3))
        results.append(samples(3, 0, 2))
    with opened(path) as results:
        assert set(results.questions) == {3} and len(results.samples[3]) == 2 and results.run == 2
        results.append(samples(3, 2, 1))
        results.append(question(1))
    with opened(path) as results:
        assert set(results.questions) == {1, 3} and len(results.samples[3]) == 3 and not results.repaired
        assert set(results.seconds) == {1, 2}
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert records[0] == {"record": "settings", "format": 1, **SETTINGS}
    assert [each["run"] for each in records[1:]] == [1, 1, 1, 2, 2, 2, 3]


@pytest.mark.parametrize("left", [1, 20, 60])
def test_a_last_line_that_was_cut_is_removed(tmp_path: Path, left: int) -> None:
    path = tmp_path / "r.jsonl"
    with opened(path) as results:
        results.append(question(0))
        results.append(question(1))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:left])
    with opened(path) as results:
        assert results.repaired and set(results.questions) == {0}
        results.append(question(1))
    with opened(path) as results:
        assert set(results.questions) == {0, 1} and not results.repaired


def test_a_first_line_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"record": "settings", "form')
    with opened(path) as results:
        assert results.repaired and not results.questions
    assert json.loads(path.read_text().splitlines()[0])["seed"] == 0


def test_other_settings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with opened(path) as results:
        results.append(question(0))
    before = path.read_bytes()
    with pytest.raises(DataError, match="was started with seed 0; this command has 1"):
        opened(path, seed=1)
    with pytest.raises(DataError, match="was started with limit None; this command has 5"):
        opened(path, limit=5)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["my notes, without an end of line", '{"question": "a"}\n', "\x00", "[]\n"])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "notes"
    path.write_text(content)
    with pytest.raises(DataError, match=r"no results file|another version"):
        opened(path)
    assert path.read_text() == content


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/full"), Path("/dev/null")):
        with pytest.raises(DataError, match="must be a file"):
            opened(path)


def test_a_file_without_findings_may_begin_again(tmp_path: Path) -> None:
    opened(tmp_path / "r.jsonl").close()
    with opened(tmp_path / "r.jsonl", seed=1) as results:
        results.append(question(0))
    with pytest.raises(DataError, match="was started with seed 1; this command has 0"):
        opened(tmp_path / "r.jsonl")


def test_damaged_records_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with opened(path) as results:
        results.append(question(0))
        results.append(samples(0, 0, 1))
    good = path.read_text()
    same = json.loads(good.splitlines()[2])
    for bad, message in (
        ("nonsense", "line 5: this is no record"),
        (json.dumps(same), "question 0 a second time"),
        (json.dumps({**same, "index": "0"}), "its index is missing or of the wrong type"),
        (json.dumps({**samples(0, 5, 1), "at": 1.0, "run": 1}), "do not follow those before"),
        ('{"record": "else"}', "its kind is 'else'"),
        (json.dumps({**same, "index": 7, "trace": [5]}), "line 5: this is no record"),
        (json.dumps({**same, "index": 7, "trace": [{"ir": {"answer": 5, "tokens": 1}, "kg": {}, "dr": {}}]}), "line 5"),
        (json.dumps({**same, "index": 7, "tokens": 10**400}), "its tokens is out of range"),
        (json.dumps({**samples(0, 1, 1), "samples": [{}], "at": 1.0, "run": 1}), "line 5: this is no record"),
        ('{"record": ["run"]}', "its kind is"),
        (json.dumps({**same, "index": 7, "run": [1]}), "its run is missing or of the wrong type"),
        (json.dumps({**same, "index": 7, "right": None}), "its right is missing or of the wrong type"),
    ):
        path.write_text(good + bad + "\n")
        with pytest.raises(DataError, match=message):
            opened(path)
        assert path.read_text() == good + bad + "\n"


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with opened(path), pytest.raises(DataError, match="another process writes"):
        opened(path)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be opened"):
        opened(tmp_path / "none" / "r.jsonl")
    with pytest.raises(DataError, match="cannot be opened"):
        opened(tmp_path)


FULL = """
import resource, signal, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from test_results import opened, question
from lorid_engine.errors import DataError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
results, done = opened(Path(sys.argv[1])), 0
try:
    for number in range(100):
        results.append(question(number))
        done += 1
except DataError as error:
    print(done, error)
"""


def test_a_full_disk_keeps_what_was_written(tmp_path: Path) -> None:
    """A limit on the file's size stands for the disk's: the write that passes it is cut short in the same way."""
    path = tmp_path / "r.jsonl"
    command = [sys.executable, "-c", FULL, str(path), str(Path(__file__).parent)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    done, message = run.stdout.split(" ", 1)
    assert "could not be written" in message and "same command again" in message
    assert path.read_bytes().endswith(b"\n")
    with opened(path) as results:
        assert not results.repaired and set(results.questions) == set(range(int(done)))
        results.append(question(int(done)))


def test_an_interrupt_inside_a_write_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = opened(tmp_path / "r.jsonl")
    write = os.write

    def cut_short(file: int, data: bytes) -> int:
        write(file, data[:7])
        raise KeyboardInterrupt

    monkeypatch.setattr("lorid_engine.evaluation.results.os.write", cut_short)
    with pytest.raises(KeyboardInterrupt):
        results.append(question(0))
    monkeypatch.undo()
    assert 0 not in results.questions
    results.append(question(0))
    results.close()
    with opened(tmp_path / "r.jsonl") as again:
        assert set(again.questions) == {0} and not again.repaired
