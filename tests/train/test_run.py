"""`lorid train` from files to a pack: resumed after every kind of end, and with every kind of bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from lorid_engine.cli import main
from lorid_engine.solver import Solver
from lorid_engine.train import checkpoints, trainer
from tiny_models import reference_model, save_llama
from tiny_pack import make_pack

ROLES = ("ir", "kg", "dr")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, data and knowledge."""
    folder = tmp_path_factory.mktemp("train")
    make_pack(folder)
    questions = [{"question": f"What is {n} + {n}?", "answer": f"{n}+{n}={2 * n}\n#### {2 * n}"} for n in range(14)]
    knowledge = [{"id": n, "knowledge": ["Add both numbers.", "Check it."][: 1 + n % 2]} for n in range(12)]
    for name, rows in (("data", questions), ("knowledge", knowledge)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def command(place: Path, out: Path, *more: str) -> list[str]:
    files = ["--base", str(place / "base"), "--data", str(place / "data.jsonl"), "--out", str(out)]
    small = [
        "--rank",
        "4",
        "--epochs",
        "2",
        "--batch-size",
        "3",
        "--held-out",
        "2",
        "--lr",
        "1e-2",
        "--rows-per-pass",
        "200",
    ]
    return ["train", *files, *small, "--knowledge", str(place / "knowledge.jsonl"), *more]


def without_knowledge(arguments: list[str]) -> list[str]:
    place = arguments.index("--knowledge")
    return [*arguments[:place], *arguments[place + 2 :], "--roles", "ir"]


def adapters(out: Path) -> dict[str, torch.Tensor]:
    found = {}
    for role in ROLES:
        for name, tensor in load_file(out / role / "adapter_model.safetensors").items():
            found[f"{role} {name}"] = tensor
    return found


def log(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "training" / "log.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[dict]:
    return [record["loss"] for record in log(out) if record["record"] == "step"]


def start(arguments: list[str], *before: str) -> subprocess.Popen[str]:
    program = [
        sys.executable,
        *before,
        "-c",
        "import sys; from lorid_engine.cli import main; sys.exit(main(sys.argv[1:]))",
    ]
    return subprocess.Popen([*program, *arguments], stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def whole(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from beginning to end."""
    out = tmp_path_factory.mktemp("whole") / "pack"
    assert main(command(place, out)) == 0
    return out


def same_run(out: Path, whole: Path) -> bool:
    ours, theirs = adapters(out), adapters(whole)
    return losses(out) == losses(whole) and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_leaves_a_pack_that_solves_and_that_peft_loads(place: Path, whole: Path) -> None:
    assert len(losses(whole)) == 8 and all(loss.keys() == set(ROLES) for loss in losses(whole))
    assert sum(losses(whole)[-1].values()) < sum(losses(whole)[0].values())
    held_out = [record for record in log(whole) if record["record"] == "held_out"]
    assert [record["step"] for record in held_out] == [4, 8] and held_out[1]["loss"].keys() == set(ROLES)
    solution = Solver.from_pack(whole, dtype="float32").solve("What is 1 + 1?")
    assert solution.rounds
    for role in ROLES:
        model = PeftModel.from_pretrained(reference_model(place / "base"), whole / role)
        assert model.peft_config["default"].r == 4
        weight = model.get_submodule("base_model.model.model.layers.1.self_attn.v_proj").lora_B["default"].weight
        saved = load_file(whole / role / "adapter_model.safetensors")
        assert torch.equal(weight, saved["base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"].float())
        assert weight.any()
    summary = json.loads((whole / "training" / "summary.json").read_text())
    assert summary["steps"] == 8 and summary["this_process"]["tokens_per_second"] > 0
    assert (whole / "training" / "loss.svg").read_text().startswith("<svg")


def test_a_run_that_ends_early_goes_on_with_the_same_bits(place: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "pack"
    for steps in ("1", "5", "8"):
        assert main(command(place, out, "--max-steps", steps)) == 0
    assert same_run(out, whole)


def test_kill_9_loses_nothing_that_was_kept(place: Path, whole: Path, tmp_path: Path) -> None:
    """Killed once the first checkpoint is there, wherever that is."""
    out = tmp_path / "pack"
    run = start(command(place, out, "--save-every", "0"))
    deadline = time.monotonic() + 120
    while not list(out.glob("training/checkpoints/step-*")):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert main(command(place, out)) == 0
    assert same_run(out, whole)
    assert [path.name for path in (out / "training" / "checkpoints").iterdir()] == ["step-00000008.safetensors"]


def test_ctrl_c_finishes_the_step_and_keeps_it(
    place: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, step = tmp_path / "pack", trainer.Trainer.step

    def interrupted(self: trainer.Trainer) -> trainer.StepReport:
        if self.steps_done == 2:
            signal.raise_signal(signal.SIGINT)
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "step", interrupted)
        assert main(command(place, out)) == 130
    assert [path.name for path in (out / "training" / "checkpoints").iterdir()] == ["step-00000003.safetensors"]
    assert not (out / "pack.toml").exists()
    assert main(command(place, out)) == 0
    assert same_run(out, whole)


def test_a_loss_that_is_no_number_stops_and_keeps_its_batch(
    place: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, honest = tmp_path / "pack", trainer.target_losses

    def spoiled(*arguments: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return honest(*arguments) * (float("nan") if len(calls) > 6 else 1)

    calls: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "target_losses", spoiled)
        assert main(command(place, out)) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "the loss of ir is nan" in said and "failed-step.jsonl" in said
    rows = [json.loads(line) for line in (out / "training" / "failed-step.jsonl").read_text().splitlines()]
    assert {row["role"] for row in rows} == set(ROLES) and all(row["tokens"] for row in rows)
    assert main(command(place, out)) == 0  # what came before it was kept
    assert same_run(out, whole)


def test_a_full_disk_keeps_the_checkpoint_before(
    place: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, save = tmp_path / "pack", checkpoints.save_file

    def full(tensors: dict, path: Path) -> None:
        saved.append(1)
        if len(saved) > 2:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(tensors, path)

    saved: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", full)
        assert main(command(place, out, "--save-every", "0")) == 2
    assert "step 3 could not be written" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in (out / "training" / "checkpoints").iterdir()] == ["step-00000002.safetensors"]
    assert main(command(place, out)) == 0
    assert same_run(out, whole)


def test_two_processes_have_the_losses_of_one(place: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "pack"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "lorid_engine"]
    done = subprocess.run(
        [sys.executable, *torchrun, *command(place, out), "--threads", "1"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for ours, theirs in zip(losses(out), losses(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert done.stderr.count("Examples:") == 1


def test_ctrl_c_at_the_end_of_an_epoch_loses_no_evaluation(
    place: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, step = tmp_path / "pack", trainer.Trainer.step

    def interrupted(self: trainer.Trainer) -> trainer.StepReport:
        if self.steps_done == 3:
            signal.raise_signal(signal.SIGINT)
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "step", interrupted)
        assert main(command(place, out)) == 130
    assert main(command(place, out)) == 0
    assert same_run(out, whole)
    kinds = [[(r["record"], r["step"], r["loss"]) for r in log(each)] for each in (out, whole)]
    assert kinds[0] == kinds[1]


def test_a_held_out_example_may_be_the_longest(place: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    rows = [{"question": "Q" * (100 if n == 3 else 1), "answer": "A"} for n in range(8)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for seed in range(4):
        arguments = without_knowledge(command(place, tmp_path / str(seed), "--data", str(data), "--held-out", "4"))
        assert main([*arguments, "--seed", str(seed), "--max-steps", "1"]) == 0


def test_wordings_of_a_question_are_held_out_together(place: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"id": n // 5, "question": f"Q{n}", "answer": "A"}) + "\n" for n in range(20)))
    out = tmp_path / "pack"
    arguments = command(place, out, "--data", str(data), "--held-out", "3", "--batch-size", "5")
    assert main(without_knowledge(arguments)) == 0
    assert len(losses(out)) == 2  # one id of four is left, with five wordings: a step an epoch


def test_what_is_in_the_folder_is_not_overwritten(
    place: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pack.toml").write_text("mine")
    assert main(command(place, tmp_path)) == 2
    assert "has pack.toml that this run did not make" in capsys.readouterr().err
    assert (tmp_path / "pack.toml").read_text() == "mine"
    edited = (whole / "pack.toml").read_text() + "\n# edited\n"
    (whole / "pack.toml").write_text(edited)
    summary = (whole / "training" / "summary.json").read_text()
    assert main(command(place, whole)) == 0  # nothing is left to train
    assert (whole / "pack.toml").read_text() == edited
    assert (whole / "training" / "summary.json").read_text() == summary


def test_a_base_with_fewer_tokens_than_its_tokenizer_is_named(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_llama(tmp_path / "base", vocab=100)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "base" / name).write_bytes((place / "base" / name).read_bytes())
    assert main([*command(place, tmp_path / "pack"), "--base", str(tmp_path / "base")]) == 2
    assert "the base has 100 tokens, but its tokenizer gives token" in capsys.readouterr().err


@pytest.mark.parametrize("settings", ["[]", "{", None])
def test_settings_that_cannot_be_read(
    place: Path, whole: Path, capsys: pytest.CaptureFixture[str], settings: str | None
) -> None:
    path = whole / "training" / "settings.json"
    before = path.read_text()
    try:
        path.unlink() if settings is None else path.write_text(settings)
        assert main(command(place, whole)) == 2
    finally:
        path.write_text(before)
    assert "settings of the run" in capsys.readouterr().err


def test_one_role_leaves_an_adapter_and_no_pack(place: Path, whole: Path, tmp_path: Path) -> None:
    """The same adapter, to rounding, as beside the others."""
    out = tmp_path / "pack"
    assert main([*command(place, out), "--roles", "kg"]) == 0
    assert [path.name for path in sorted(out.iterdir())] == ["kg", "training"]
    ours = load_file(out / "kg" / "adapter_model.safetensors")
    for name, tensor in adapters(whole).items():
        if name.startswith("kg "):
            torch.testing.assert_close(ours[name[3:]].float(), tensor.float(), rtol=0.05, atol=1e-3)


def test_a_run_can_begin_from_adapters(
    place: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pack"
    assert main([*command(place, out), "--start", str(whole), "--max-steps", "1"]) == 0
    assert sum(losses(out)[0].values()) < sum(losses(whole)[0].values())
    assert main([*command(place, tmp_path / "other"), "--start", str(whole), "--rank", "8"]) == 2
    assert "has rank 4" in capsys.readouterr().err
    assert main([*command(place, tmp_path / "third"), "--start", str(whole), "--targets", "q_proj"]) == 2
    assert "does not have the modules" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--lr", "1e-3"], "learning_rate 0.01; this command has 0.001"),
        (["--drop-marks"], "drop_marks False"),
        (["--seed", "1"], "seed 0"),
    ],
)
def test_other_settings_are_refused_where_a_run_is_kept(
    place: Path, whole: Path, capsys: pytest.CaptureFixture[str], more: list[str], says: str
) -> None:
    before = adapters(whole)
    assert main(command(place, whole, *more)) == 2
    assert says in capsys.readouterr().err
    assert all(torch.equal(before[name], tensor) for name, tensor in adapters(whole).items())


def test_another_base_is_refused_where_a_run_is_kept(
    place: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_pack(tmp_path)
    weights = tmp_path / "base" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    arguments = command(place, whole)
    arguments[arguments.index("--base") + 1] = str(tmp_path / "base")
    assert main(arguments) == 2
    assert "base_sha256" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--held-out", "14"], "14 of 14 questions cannot be held out"),
        (["--targets", "q_proj,nothing"], "the targets nothing are not supported"),
        (["--roles", "ir,ir"], "each once"),
        (["--dropout", "1"], "dropout must be"),
        (["--max-tokens", "20"], "longer than 20 tokens"),
        (["--data", "/nowhere"], "there is no such file"),
        (["--rank", "0"], "--rank"),
        (["--device", "tpu"], "must be cpu or cuda; got 'tpu'"),
        pytest.param(
            ["--device", "cuda"],
            "finds no GPU that it can use",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_bad_options_are_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], says: str
) -> None:
    try:
        assert main([*command(place, tmp_path / "pack"), *more]) == 2
    except SystemExit as exit:
        assert exit.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("lorid") and says in said


def test_another_process_in_the_same_folder_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import fcntl

    out = tmp_path / "pack"
    (out / "training").mkdir(parents=True)
    with open(out / "training" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(command(place, out)) == 2
    assert "another process trains" in capsys.readouterr().err
