"""`lorid eval`, `lorid packs` and `lorid pack`, as a user gives them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from authors_clone import write_clone
from lorid_engine.cli import main
from lorid_engine.cli.evaluate import EvalProgress
from lorid_engine.solver import load_pack
from lorid_engine.solver.packs import DEFAULT_PACK
from tiny_pack import make_pack_folder


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pack_folder(tmp_path_factory.mktemp("pack"), max_tokens=6)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"question": f"What is {k}?", "answer": f"#### {k}"}) + "\n" for k in range(5)))
    return path


def command(pack: Path, data: Path, *more: str) -> list[str]:
    out = str(data.with_name("r.jsonl"))
    fixed = ["eval", "--pack", str(pack), "--dtype", "float32", "--max-rounds", "2", "--data", str(data), "--out", out]
    return [*fixed, *more]


def test_eval_reports_and_resumes(pack: Path, data: Path, capsys: pytest.CaptureFixture) -> None:
    page = data.with_name("r.html")
    assert main(command(pack, data, "--json", "--report", str(page))) == 0
    out, _ = capsys.readouterr()
    report = json.loads(out)
    assert report["questions"] == 5 and report["skipped"] == 0 and report["settings"]["max_rounds"] == 2
    assert {"lorid", "ir_greedy", "dr_greedy", "ir_vote", "ir_ir", "machine", "seconds", "tokens_per_second"} <= set(
        report
    )
    assert {"strict_any", "strict", "fallback"} == set(report["lorid"]["accuracy"])
    assert {"value", "low", "high"} == set(report["lorid"]["accuracy"]["strict"])
    assert page.read_text().startswith("<!DOCTYPE html>")
    size = data.with_name("r.jsonl").stat().st_size
    assert main(command(pack, data)) == 0
    out, error = capsys.readouterr()
    assert "Going on: " in error and "5 of 5" in error
    for text in (
        "IR greedy",
        "DR greedy",
        "LoRID strict_any",
        "LoRID fallback",
        "vote of IR samples",
        "IR-IR strict",
        "95 % interval",
    ):
        assert text in out
    assert "5 questions; " in out and "questions by rounds: " in out and "\x1b" not in out
    records = [json.loads(line) for line in data.with_name("r.jsonl").read_bytes()[size:].splitlines()]
    assert [record["record"] for record in records] == ["run"]


def test_eval_without_baselines_then_with(pack: Path, data: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(command(pack, data, "--no-baselines", "--json")) == 0
    first = json.loads(capsys.readouterr().out)
    assert "ir_greedy" not in first and "ir_vote" not in first
    assert main(command(pack, data, "--json")) == 0
    second = json.loads(capsys.readouterr().out)
    assert second["lorid"] == first["lorid"] and "ir_vote" in second


def test_a_calculator_is_part_of_the_settings(pack: Path, data: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(command(pack, data, "--no-baselines", "--calculator", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["calculator"] is True
    for off in ([], ["--no-calculator"]):  # the pack itself has none
        assert main(command(pack, data, "--no-baselines", *off)) == 2
        assert "calculator" in capsys.readouterr().err
    assert main(command(pack, data, "--no-baselines", "--calculator")) == 0


def test_eval_skips_and_counts(pack: Path, data: Path, capsys: pytest.CaptureFixture) -> None:
    data.write_text(data.read_text() + "{broken\n" + '{"question": "", "answer": "1"}\n')
    assert main(command(pack, data, "--no-baselines")) == 2
    assert f"{data}, line 6: it is not JSON" in capsys.readouterr().err
    assert not data.with_name("r.jsonl").exists()
    assert main(command(pack, data, "--no-baselines", "--skip-bad")) == 0
    out, error = capsys.readouterr()
    assert "5 questions, 2 rows left out" in out and error.count("left out: ") == 2


def test_a_report_never_replaces_what_it_is_made_of(pack: Path, data: Path, capsys: pytest.CaptureFixture) -> None:
    before = data.read_bytes()
    data.with_name("link").symlink_to(data)
    for report in (str(data), str(data.with_name("r.jsonl")), str(data.with_name("link"))):
        assert main(command(pack, data, "--report", report)) == 2
        assert "would replace" in capsys.readouterr().err
    assert data.read_bytes() == before and not data.with_name("r.jsonl").exists()


def test_questions_that_all_fail(pack: Path, data: Path, capsys: pytest.CaptureFixture) -> None:
    data.write_text(json.dumps({"question": "long " * 200, "answer": "1"}) + "\n")
    assert main(command(pack, data)) == 1
    out = capsys.readouterr().out
    assert "1 questions, 1 with an error" in out and "the first error: question 0: the prompt" in out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--report", "none/r.html"], "the report none/r.html cannot be written"),
        (["--data", "none.jsonl"], "the data file none.jsonl cannot be read"),
        (["--out", "none/r.jsonl"], "the results file none/r.jsonl cannot be opened"),
        (["--pack", "none"], "there is no pack 'none'"),
        (["--temperature", "-1"], "temperature must be a number of at least 0"),
    ],
)
def test_eval_mistakes_are_told_before_anything_is_loaded(
    pack: Path,
    data: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    more: list[str],
    message: str,
) -> None:
    monkeypatch.setattr("lorid_engine.cli.evaluate.Solver.from_pack", None)
    assert main(command(pack, data, *more)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_eval_interrupted(
    pack: Path, data: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = EvalProgress.item

    def interrupt(progress: EvalProgress, tokens: int, right: bool | None = None) -> None:
        item(progress, tokens, right)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(EvalProgress, "item", interrupt)
        assert main(command(pack, data)) == 130
    error = capsys.readouterr().err
    assert "has 1 finished questions. The same command goes on from there." in error and "Traceback" not in error
    assert main(command(pack, data, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["questions"] == 5


def test_eval_progress_on_a_terminal() -> None:
    console = Console(force_terminal=True, width=160, file=io.StringIO())
    with EvalProgress(console) as progress:
        progress.stage("LoRID", 10, 4)
        progress.judged(True)
        progress.item(100, False)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for text in ("LoRID", "5/10", "questions/s", "tokens/s", "50.0 % right", "-:--:--"):
        assert text in shown


def test_packs_are_listed(capsys: pytest.CaptureFixture) -> None:
    assert main(["packs"]) == 0
    out = capsys.readouterr().out
    assert DEFAULT_PACK in out and "adapters 29.5 MB" in out and "GSM8K" in out
    assert main(["packs", "--json"]) == 0
    (pack,) = json.loads(capsys.readouterr().out)
    assert pack["name"] == DEFAULT_PACK and pack["adapter_bytes"] > 20e6 and "first 300 GSM8K" in pack["accuracy"]


def test_pack_check(pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["pack", "check", str(pack)]) == 0
    assert capsys.readouterr().out.endswith("The pack is in order.\n")
    (tmp_path / "pack.toml").write_text("name = 1\n")
    assert main(["pack", "check", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "manifest: " in out and "pack.name must be a string" in out and out.endswith("3 problems\n")
    assert main(["pack", "check", str(tmp_path), "--json"]) == 1
    assert {finding["what"] for finding in json.loads(capsys.readouterr().out)} == {"manifest"}
    assert main(["pack", "check", str(tmp_path / "none")]) == 2
    assert "has no pack.toml" in capsys.readouterr().err


def test_pack_new(pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    adapters = [option for role in ("ir", "kg", "dr") for option in (f"--{role}", str(pack / role))]
    folder = tmp_path / "mine"
    assert main(["pack", "new", str(folder), "--base", str(pack / "base"), *adapters]) == 0
    assert "lorid pack check" in capsys.readouterr().out and load_pack(folder).name == "mine"
    assert main(["pack", "new", str(folder), "--base", str(pack / "base"), *adapters]) == 2
    assert "exists already" in capsys.readouterr().err


def test_pack_import_lorid(pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    clone, out = write_clone(tmp_path / "LoRID"), str(tmp_path / "out")
    arguments = ["pack", "import-lorid", str(clone), "--base", str(pack / "base"), "--dataset", "gsm8k", "--out", out]
    assert main(arguments) == 2
    assert "--example" in capsys.readouterr().err
    assert main([*arguments, "--example", "mistral", "--adapters", str(pack)]) == 0
    assert load_pack(out).name == "lorid-mistral-gsm8k" and "lorid pack check" in capsys.readouterr().out


def test_commands_that_want_more(capsys: pytest.CaptureFixture) -> None:
    for arguments in (
        ["pack"],
        ["bench"],
        ["eval"],
        ["pack", "import-lorid", "x", "--base", "b", "--dataset", "aime", "--out", "o"],
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2 and capsys.readouterr().err.count("\n") == 1
