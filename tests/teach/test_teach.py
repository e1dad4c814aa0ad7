"""The teacher over HTTP: every fault of a server, a file that goes on, and our own engine as the server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai", reason="needs the package openai")

from chat_server import GOOD, Faults, engine_answers, serve
from lorid_engine.cli import main
from lorid_engine.errors import DataError, TeacherError
from lorid_engine.teach.prompt import read_rules
from lorid_engine.teach.run import KnowledgeFile, left_to_teach, teach
from lorid_engine.teach.teacher import TeacherOptions
from lorid_engine.train.examples import read_questions
from tiny_pack import make_engine, make_pack


def write_data(path: Path, faults: list[str]) -> Path:
    rows = [
        {"question": f"Question {n} fault:{fault} here", "answer": f"It is {n}. #### {n}"}
        for n, fault in enumerate(faults)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(url: str, data: Path, out: Path, *more: str) -> int:
    options = [
        "--data",
        str(data),
        "--out",
        str(out),
        "--model",
        "m",
        "--base-url",
        url,
        "--retries",
        "2",
        "--timeout",
        "1",
    ]
    return main(["teach", *options, *more])


def rows(out: Path) -> dict[int, dict[str, Any]]:
    return {row["id"]: row for row in map(json.loads, out.read_text().splitlines())}


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's waits, a hundred times shorter."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.005)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.01)


FAULTS = {
    "none": True,
    "slow": True,
    "429": True,
    "500": True,
    "once": True,
    "fenced": True,
    "braces": True,
    "parts": True,
    "number": False,
    "nomessage": False,
    "nullchoice": False,
    "broken": False,
    "empty": False,
    "null": False,
    "norules": False,
    "dots": False,
    "wrong": False,
    "deep": False,
    "400": False,
    "nojson": False,
    "nochoice": False,
    "always500": False,
    "stuck": False,
}


def test_every_fault_ends_in_rules_or_in_a_failed_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out, faults = write_data(tmp_path / "data.jsonl", list(FAULTS)), tmp_path / "out.jsonl", Faults()
    with serve(faults) as url:
        assert run(url, data, out, "--price-in", "10000", "--attempts", "2") == 0
    found = rows(out)
    assert sorted(found) == list(range(len(FAULTS)))
    for (fault, good), row in zip(FAULTS.items(), (found[n] for n in sorted(found)), strict=True):
        assert ("knowledge" in row) == good, (fault, row)
        assert row.get("knowledge", json.loads(GOOD)["rules"]) == json.loads(GOOD)["rules"]
    assert faults.asked["broken"] == faults.asked["once"] == 2
    assert faults.asked["always500"] == 3  # the first, and two retries
    said = capsys.readouterr().err
    assert "23 questions, 15 failed" in said and "at these prices" in said
    paid = sum(row["prompt_tokens"] for row in found.values())
    assert f"{paid} tokens in" in said and f"{paid / 100:.2f} at these prices" in said


def test_the_same_command_asks_for_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_data(tmp_path / "data.jsonl", ["none", "broken", "none"]), tmp_path / "out.jsonl"
    with serve(Faults()) as url:
        assert run(url, data, out, "--limit", "2") == 0
    with open(out, "ab") as file:
        file.write(b'{"id": 2, "know')  # a kill
    second = Faults()
    with serve(second) as url:
        assert run(url, data, out) == 0
        assert second.asked == {"none": 1} and sorted(rows(out)) == [0, 1, 2]
        assert run(url, data, out) == 0
        assert sum(second.asked.values()) == 1
        assert run(url, data, out, "--retry-failed") == 0
    assert second.asked == {"none": 1, "broken": 3}
    capsys.readouterr()


@pytest.mark.parametrize("status", [400, 422, 500])
@pytest.mark.parametrize("formats", [("json_object", "text"), ("text",)])
def test_servers_without_schemas_are_asked_in_simpler_ways(
    tmp_path: Path, formats: tuple[str, ...], status: int
) -> None:
    """Also if they answer as llama-cpp-python's does, with an internal error."""
    data, faults = write_data(tmp_path / "data.jsonl", ["none"] * 6), Faults(formats, status)
    with serve(faults) as url:
        assert run(url, data, tmp_path / "out.jsonl", "--concurrency", "1") == 0
    assert all("knowledge" in row for row in rows(tmp_path / "out.jsonl").values())
    assert len(faults.requests) == 6 + 3 - len(formats)  # what it takes is found out once


def test_a_refused_question_does_not_change_how_others_are_asked(tmp_path: Path) -> None:
    data, faults = write_data(tmp_path / "data.jsonl", ["400", "none"]), Faults()
    with serve(faults) as url:
        assert run(url, data, tmp_path / "out.jsonl", "--concurrency", "1") == 0
    assert faults.requests[-1]["response_format"]["type"] == "json_schema"
    assert faults.requests[-1]["temperature"] == 0.2


@pytest.mark.parametrize(("fault", "says"), [("key", "wrong key"), ("always500", "questions failed one after another")])
def test_a_server_that_takes_nothing_ends_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str, says: str
) -> None:
    data, out = write_data(tmp_path / "data.jsonl", ["none"] * 3 + [fault] * 20), tmp_path / "out.jsonl"
    with serve(Faults()) as url:
        assert run(url, data, out, "--concurrency", "1") == 2
    said = capsys.readouterr().err
    assert says in said.splitlines()[-1] and "Traceback" not in said
    assert [n for n, row in rows(out).items() if "knowledge" in row] == [0, 1, 2]


def test_a_server_that_dies_loses_no_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It answers five questions; the same command asks another one for the rest."""
    data, out = write_data(tmp_path / "data.jsonl", ["none"] * 12), tmp_path / "out.jsonl"
    questions = read_questions(data)

    faults = Faults()

    def answer(request: dict[str, Any]) -> Any:
        if faults.asked["none"] == 5:
            raise ConnectionAbortedError
        return faults(request)

    told: list[int] = []
    with serve(answer) as url, KnowledgeFile(out, questions) as file:
        options = TeacherOptions("m", url, retries=1, timeout=1)
        with pytest.raises(TeacherError, match="does not answer"):
            teach(
                left_to_teach(questions, file), file, options, concurrency=1, tell=lambda t: told.append(t.question.id)
            )
    assert sorted(rows(out)) == sorted(told) == [0, 1, 2, 3, 4]
    with serve(Faults()) as url:
        assert run(url, data, out) == 0
    assert sorted(rows(out)) == list(range(12))
    capsys.readouterr()


def test_rewrites_of_a_question_are_asked_for_once(tmp_path: Path) -> None:
    data, faults = tmp_path / "data.jsonl", Faults()
    data.write_text("".join(json.dumps({"id": 7, "question": f"Q{n}", "answer": "A"}) + "\n" for n in range(3)))
    with serve(faults) as url:
        assert run(url, data, tmp_path / "out.jsonl") == 0
        assert run(url, data, tmp_path / "out.jsonl") == 0
    assert len(faults.requests) == 1 and sorted(rows(tmp_path / "out.jsonl")) == [7]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"id": 9, "knowledge": ["a"]}', "line 1"),
        ('{"id": 0}', "line 1"),
        ("nonsense", "line 1"),
        ('{"precious": true}', "line 1"),
        ('{"id": 0, "knowledge": ["a"], "question_sha256": "0"}', "another question"),
    ],
)
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, line: str, says: str) -> None:
    data, out = write_data(tmp_path / "data.jsonl", ["none"]), tmp_path / "out.jsonl"
    out.write_text(line + "\n")
    with pytest.raises(DataError, match=says):
        KnowledgeFile(out, read_questions(data))
    assert out.read_text() == line + "\n"


@pytest.mark.parametrize("tail", ["precious", '{"precious": 1', '{"precious": 1}', '{"id": 5, "knowledge": ["a"]}'])
def test_a_last_line_that_is_not_ours_is_left_alone(tmp_path: Path, tail: str) -> None:
    data, out = write_data(tmp_path / "data.jsonl", ["none"]), tmp_path / "out.jsonl"
    out.write_text(tail)
    with pytest.raises(DataError, match="name another file"):
        KnowledgeFile(out, read_questions(data))
    assert out.read_text() == tail


def test_a_device_is_no_file(tmp_path: Path) -> None:
    """/dev/full can be read for ever."""
    with pytest.raises(DataError, match="must be a file"):
        KnowledgeFile(Path("/dev/full"), read_questions(write_data(tmp_path / "data.jsonl", ["none"])))


def test_a_last_line_without_an_end_is_kept(tmp_path: Path) -> None:
    data, out = write_data(tmp_path / "data.jsonl", ["none", "none"]), tmp_path / "out.jsonl"
    out.write_text('{"id": 0, "knowledge": ["mine"]}')
    with serve(Faults()) as url:
        assert run(url, data, out) == 0
    assert rows(out)[0]["knowledge"] == ["mine"] and "knowledge" in rows(out)[1]


def test_a_server_that_drips_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorid_engine.teach.teacher._LONGEST_WAIT", 0.5)
    data, out = write_data(tmp_path / "data.jsonl", ["drips", "none"]), tmp_path / "out.jsonl"
    with serve(Faults()) as url:
        assert run(url, data, out, "--retries", "0", "--concurrency", "1") == 0
    assert "has not answered" in rows(out)[0]["error"] and "knowledge" in rows(out)[1]


def test_an_outage_marks_no_question_as_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_data(tmp_path / "data.jsonl", ["none"] * 2 + ["400"] * 12), tmp_path / "out.jsonl"
    with serve(Faults()) as url:
        assert run(url, data, out, "--concurrency", "1") == 2
    assert sorted(rows(out)) == [0, 1]
    capsys.readouterr()


@pytest.mark.parametrize("url", ["foo", "http://[::1", "http://localhost:99999999", "ftp://localhost/v1", "http:///v1"])
def test_urls_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert run(url, write_data(tmp_path / "data.jsonl", ["none"]), tmp_path / "out.jsonl") == 2
    assert "must be like http://localhost:8000/v1" in capsys.readouterr().err.splitlines()[-1]


def test_a_password_in_a_url_is_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = "http://bob:hunter2@127.0.0.1:9/v1"
    assert run(url, write_data(tmp_path / "data.jsonl", ["none"]), tmp_path / "out.jsonl") == 2
    said = capsys.readouterr().err
    assert "does not answer" in said and "hunter2" not in said


def test_our_own_engine_serves(tmp_path: Path) -> None:
    """A tiny random model writes no JSON, so that every question fails, and none is lost."""
    engine = make_engine(make_pack(tmp_path / "pack"))
    data = write_data(tmp_path / "data.jsonl", ["none"] * 4)
    with serve(engine_answers(engine)) as url:
        assert run(url, data, tmp_path / "out.jsonl") == 0
    found = rows(tmp_path / "out.jsonl")
    assert sorted(found) == [0, 1, 2, 3] and all(
        "3 answers could not be used" in row["error"] for row in found.values()
    )


def test_rules_are_read_as_lines() -> None:
    assert read_rules('{"rules": [" Add\\n both ", ""]}') == ["Add both"]
    with pytest.raises(ValueError, match="characters"):
        read_rules(json.dumps({"rules": ["a" * 1000]}))
