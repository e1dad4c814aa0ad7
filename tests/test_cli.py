"""The command line, in-process with a tiny pack and as a program."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from lorid_engine.cli import doctor, main
from lorid_engine.cli.trace import LiveTrace, plain
from lorid_engine.solver import Round, RoundEvent, Sample, TextEvent
from tiny_pack import make_pack_folder


@pytest.fixture(scope="module")
def pack_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pack as a folder with a manifest."""
    return make_pack_folder(tmp_path_factory.mktemp("pack"))


def options(pack_folder: Path, *more: str) -> list[str]:
    return ["solve", "--pack", str(pack_folder), "--max-rounds", "2", "--dtype", "float32", *more]


def test_json_is_one_value(pack_folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(options(pack_folder, "--json", "What is 2+2?")) == 0
    out, _ = capsys.readouterr()
    solution = json.loads(out)
    assert {"answer", "agreed", "rounds", "tokens", "seconds", "trace"} <= set(solution)
    assert len(solution["trace"]) == solution["rounds"] <= 2
    assert {"round", "ir", "kg", "dr"} == set(solution["trace"][0])


def test_plain_lines_and_quiet(
    pack_folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("What is 2+2?\n"))
    assert main(options(pack_folder)) == 0
    out, _ = capsys.readouterr()
    assert out.startswith("Pack tiny: noise.\n") and "[round 1] Rules:" in out and "Answer: " in out
    assert "\x1b" not in out
    assert main(options(pack_folder, "--quiet", "What is 2+2?")) == 0
    quiet, _ = capsys.readouterr()
    assert quiet.strip() == out.split("Answer: ")[1].split("\n")[0].replace("none found", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["solve", "--pack", "nope", "x"], "there is no pack 'nope'"),
        (["solve", "--device", "cuda:99", "x"], "device 'cuda:99' cannot be used: there"),
        (["solve", ""], "the question is empty"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    arguments: list[str], message: str, pack_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    if "--pack" not in arguments:
        arguments = [arguments[0], "--pack", str(pack_folder), *arguments[1:]]
    assert main(arguments) == 2
    _out, error = capsys.readouterr()
    lines = [line for line in error.splitlines() if line.startswith("lorid: ")]
    assert len(lines) == 1 and message in lines[0] and "Traceback" not in error


def test_a_question_of_a_megabyte(
    pack_folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("many words " * 100_000))
    assert main(options(pack_folder, "--quiet")) == 2
    assert "tokens; the context of 512 leaves no room" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["solve", "--threads", "0"], ["solve", "--max-rounds", "x"], ["solve", "--seed", "-1"], ["sing"], []]
)
def test_argparse_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def run_cli(pack_folder: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "lorid_engine.cli", *arguments]
    return subprocess.run(command, text=True, check=False, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload]


def test_output_that_cannot_be_written(pack_folder: Path) -> None:
    with open("/dev/full", "w") as full:
        result = run_cli(pack_folder, "doctor", stdout=full)
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and "No space left" in result.stderr
    read, write = os.pipe()
    os.close(read)
    result = run_cli(pack_folder, "doctor", "--json", stdout=write)
    os.close(write)
    assert result.returncode == 141 and result.stderr == ""


def test_closed_stdin_and_letters_that_the_terminal_lacks(pack_folder: Path) -> None:
    closed = run_cli(pack_folder, *options(pack_folder), stdout=subprocess.PIPE, preexec_fn=lambda: os.close(0))
    assert closed.returncode == 2 and "the question is empty" in closed.stderr and "Traceback" not in closed.stderr
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = run_cli(pack_folder, *options(pack_folder, "5 € and 2?"), stdout=subprocess.PIPE, env=ascii_only)
    assert result.returncode == 0, result.stderr


def test_a_home_that_cannot_be_told(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORID_CACHE", "~nosuchuser/x")
    assert main(["doctor"]) == 0
    assert "unusable: the cache folder cannot be told" in capsys.readouterr().out


def test_messages_are_one_clean_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "pack.toml").write_text('name = "a"\n"\\u001b]0;title\\u0007 key\\nnext" = 1\n')
    assert main(["solve", "--pack", str(tmp_path), "x"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "\x1b" not in error and "\x07" not in error


def test_ctrl_c_is_one_line_and_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def interrupt(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("lorid_engine.cli.solve.run", interrupt)
    assert main(["solve", "x"]) == 130
    assert capsys.readouterr().err == "lorid: interrupted\n"


def test_doctor(capsys: pytest.CaptureFixture) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["instruction sets"]["scalar"].startswith("ready") and "torch" in report["versions"]
    assert main(["doctor"]) == 0
    assert "scalar: ready" in capsys.readouterr().out


def test_the_gpu_is_named_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """By doctor, and in what is written of the machine beside results."""
    before = doctor.collect()
    assert ("gpu" in doctor.machine_facts()) == torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    after = {**before, "machine": doctor._machine()}
    assert after["machine"]["gpu"] == "NVIDIA H200"
    monkeypatch.setattr(doctor, "collect", lambda: after)
    assert doctor.machine_facts()["gpu"] == "NVIDIA H200"


def test_as_a_program(pack_folder: Path) -> None:
    command = [sys.executable, "-m", "lorid_engine.cli", *options(pack_folder, "--json", "What is 2+2?")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert result.returncode == 0 and json.loads(result.stdout)["rounds"] >= 1
    missing = subprocess.run([*command[:4], "--pack", "nope"], capture_output=True, text=True, check=False)
    assert missing.returncode == 2 and missing.stderr.count("\n") == 1 and missing.stdout == ""


def test_judged_rounds_are_shown_whole_and_growing_ones_end_first() -> None:
    rules = "\n".join(f"{k}. Add the number of items in group {k} to the number of all other items." for k in range(30))
    console = Console(file=io.StringIO(), force_terminal=True, width=60, height=24, highlight=False)
    with LiveTrace(console) as trace:
        trace(TextEvent(0, 1, "kg", rules))
        growing = "".join(str(part) for part in trace._tail(rules, "kg"))
        assert "group 29" in growing and "group 1 " not in growing
        sample = Sample(rules, (1,), "5")
        trace(RoundEvent(0, Round(1, sample, sample, sample), None))
    shown = "".join(console.file.getvalue().split())
    assert all(f"{k}.Add" in shown for k in range(30))


def test_what_a_model_says_cannot_steer_the_terminal() -> None:
    assert plain("a\x1b[31mred\x1b]0;title\x07b\x00\x9b1m\r[bold]x[/bold]\ud800").plain == "ared" + "b1m[bold]x[/bold]?"
    console = Console(file=io.StringIO(), force_terminal=True, width=80, highlight=False)
    with LiveTrace(console) as trace:
        trace(TextEvent(0, 1, "ir", "[red]\x1b[2Jthinking"))
        sample = Sample("[/nonsense] \x1b[2J text", (1, 2), "5")
        trace(RoundEvent(0, Round(1, sample, sample, sample), "5"))
    shown = console.file.getvalue()
    assert "\x1b[2J" not in shown and "[/nonsense]" in shown and "Agreement: 5" in shown
