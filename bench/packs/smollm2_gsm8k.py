"""Trains the default pack's roles on GSM8K's training questions, the same with other numbers, and generated problems, in a given time.

    python bench/packs/smollm2_gsm8k.py --data DATA --out my-pack --device cuda --minutes 8

DATA holds gsm8k/train.jsonl and gsm8k_knowledge.jsonl, whose SHA-256 are pinned below. Some of the training questions are held out for
choices between runs; their texts are written to WORK/data/held-out.jsonl. A few steps are timed first; then as many are planned, schedule
included, as fit into the time; or there are --steps. The same command goes on where a run stopped, with the data and the plan that it had;
--start begins another run from the adapters of an earlier one, whose sampling the new pack has.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from generated_problems import rows
from number_variants import variants
from rich.console import Console

from lorid_engine import env
from lorid_engine.cli.train import TrainProgress
from lorid_engine.engine.tokenizer import Tokenizer
from lorid_engine.errors import DataError, LoridError
from lorid_engine.evaluation.evaluate import pack_digest
from lorid_engine.model.adapters import module_shapes
from lorid_engine.model.cache import file_sha256
from lorid_engine.model.config import ModelConfig
from lorid_engine.solver.base_source import FolderSource, resolve_base
from lorid_engine.solver.new_pack import first_manifest, known_format
from lorid_engine.solver.pack import ROLES, Pack
from lorid_engine.solver.pack_files import require_new, source_entry, write_pack
from lorid_engine.solver.packs import load_pack
from lorid_engine.solver.prompts import Template
from lorid_engine.train.adapters import RoleAdapters
from lorid_engine.train.device import training_device, training_dtype
from lorid_engine.train.examples import RoleFormat, TrainingSet, read_training_set
from lorid_engine.train.files import write_whole
from lorid_engine.train.forward import load_frozen
from lorid_engine.train.options import TrainingOptions
from lorid_engine.train.run import TrainingFiles, train
from lorid_engine.train.trainer import StepReport, Trainer

SHA256 = {
    "gsm8k/train.jsonl": "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
    "gsm8k_knowledge.jsonl": "6049a21220233fe4bd9a21ec91c9938bbe9d433b8379917f8b3ac119d87ca1a6",
}
TARGETS = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
FIRST_GENERATED_ID = 1_000_000  # GSM8K's ids are its line numbers
MOST_BYTES = 30_000_000  # of a pack
MOST_ANSWER_TOKENS = 320  # of a role's text: few of the training answers are longer
TIMED_SECONDS, MOST_TIMED_STEPS = 12.0, 40
RESERVED_SECONDS = 20.0  # for the last evaluation and for writing
SAFETY = 0.93  # of the time that is left; the rest is for what was not foreseen
ROWS_PER_PASS = {"cpu": 4096, "cuda": 65536}
FRACTION = 10  # a run ends at a tenth of an epoch
# That the run's data are made by.
DATA_OPTIONS = ("first", "wordings", "generated", "data_seed", "held_out")
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Files:
    """The run's own data, written once."""

    data: Path
    knowledge: Path
    held_out: list[int]


class OutOfTime(TrainProgress):
    """Ends a run, as Ctrl-C does, once its time is over."""

    def __init__(self, console: Console, deadline: float) -> None:
        super().__init__(console, quiet=False)
        self._made, self._deadline = time.monotonic(), deadline
        self.last_step: int | None = None

    def begin(self, found: TrainingSet, held_out: int, step: int, steps: int) -> None:
        """The data is read. Once the time is over it is read again, to write what there is: that time is kept free."""
        super().begin(found, held_out, step, steps)
        self._deadline -= time.monotonic() - self._made

    def step(self, report: StepReport) -> None:
        """Shows a step."""
        super().step(report)
        if time.monotonic() > self._deadline and self.last_step is None:
            self.last_step = report.step
            self.say("The time is over.")
            signal.raise_signal(signal.SIGINT)


def read_lines(folder: Path, name: str) -> Rows:
    """A data file's rows; its hash is that which is pinned."""
    path = folder / name
    if not path.is_file():
        raise DataError(f"there is no {path}; --data names the folder that holds {' and '.join(SHA256)}")
    if (found := file_sha256(path)) != SHA256[name]:
        raise DataError(f"{path} has SHA-256 {found}; this script is for {SHA256[name]}")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def make_files(options: argparse.Namespace) -> Files:
    """The data of the run in one file, their rules in another, and what is held out in a third; a run's own are kept.

    Each of GSM8K's questions is there some times: as it is, and with other numbers where these can be changed. Such wordings
    share its id, and so its rules and whether they are held out.
    """
    questions, rules = (read_lines(options.data, name) for name in SHA256)
    questions = [{"id": id, **row} for id, row in enumerate(questions)][: options.first]
    held_out = sorted(random.Random(options.data_seed).sample(range(len(questions)), options.held_out))
    folder = options.work / "data"
    files = Files(folder / "data.jsonl", folder / "knowledge.jsonl", held_out)
    made = {"made of": SHA256, **{name: getattr(options, name) for name in DATA_OPTIONS}}
    path = folder / "made.json"
    if path.exists():
        if path.read_text(encoding="utf-8") != json.dumps(made):
            raise DataError(f"{folder} was made with other options; use the same, or name another --work")
        return files
    wordings: dict[int, Rows] = {question["id"]: [] for question in questions}
    for row in variants(questions, options.wordings - 1, options.data_seed):
        wordings[row["id"]].append(row)
    whole = [
        [question] * (options.wordings - len(wordings[question["id"]])) + wordings[question["id"]]
        for question in questions
        if question["id"] not in held_out
    ]
    generated = list(rows(options.generated, options.data_seed, FIRST_GENERATED_ID))
    data = [*itertools.chain(*whole), *(questions[id] for id in held_out), *(row for row, _ in generated)]
    tables: dict[str, Rows] = {
        "data": data,
        "knowledge": [*(row for row in rules if row["id"] < len(questions)), *(row for _, row in generated)],
        "held-out": [questions[id] for id in held_out],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_whole(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in table))
    write_whole(path, json.dumps(made))
    return files


def sample_of(files: Files, count: int) -> tuple[Path, Path]:
    """So many questions of all, drawn at random, in files of their own: enough to time some steps."""
    lines = files.data.read_text(encoding="utf-8").splitlines()
    kept = random.Random(0).sample(lines, min(count, len(lines)))
    ids = {json.loads(line)["id"] for line in kept}
    rules = [line for line in files.knowledge.read_text(encoding="utf-8").splitlines() if json.loads(line)["id"] in ids]
    paths = files.data.with_name("timed-data.jsonl"), files.data.with_name("timed-knowledge.jsonl")
    for path, found in zip(paths, (kept, rules), strict=True):
        write_whole(path, "\n".join(found) + "\n")
    return paths


def training_set(base: Path, data: Path, knowledge: Path, settings: TrainingOptions, drop_marks: bool) -> TrainingSet:
    """The roles' examples, as the run itself reads them."""
    tokenizer = Tokenizer.from_folder(base)
    prompts = {role: Template(load_pack().roles[role].template.text) for role in ROLES}
    form = RoleFormat(prompts, tokenizer.special_ids[load_pack().stop[0]])
    files = (data, knowledge, settings.roles, form, tokenizer)
    return read_training_set(*files, max_tokens=settings.max_tokens, drop_marks=drop_marks)


def plan(options: argparse.Namespace, base: Path, files: Files, settings: TrainingOptions, begun: float) -> int:
    """How many steps fit into the time: at most those of the epochs, and whole tenths of an epoch."""
    total = len(files.data.read_bytes().splitlines())
    per_epoch = -(-(total - len(files.held_out)) // settings.batch_size)
    if options.minutes is None:
        return per_epoch * settings.epochs
    start = time.monotonic()
    count = settings.batch_size * MOST_TIMED_STEPS
    found = training_set(base, *sample_of(files, count), settings, options.marks == "drop")
    reading = (time.monotonic() - start) * total / min(count, total)
    start = time.monotonic()
    trainer = throwaway_trainer(base, found, settings, options)
    loading = time.monotonic() - start
    trainer.step()
    trainer.step()  # the first ones allocate and choose kernels
    seconds, tokens = [], []
    while len(seconds) < MOST_TIMED_STEPS - 2 and sum(seconds) < TIMED_SECONDS and trainer.steps_done < trainer.steps:
        report = trainer.step()
        seconds.append(report.seconds)
        tokens.append(report.tokens)
    later = slice(len(seconds) // 2, None)  # many of the first are slow: a GPU's libraries meet new shapes
    step = statistics.median(seconds[later])
    left = options.minutes * 60 - (time.monotonic() - begun) - reading - loading - RESERVED_SECONDS
    # An evaluation is a forward pass alone, a third of a step's work.
    epoch = per_epoch * step + len(files.held_out) / settings.batch_size * step / 3
    tenths = min(int(FRACTION * SAFETY * left / epoch), FRACTION * settings.epochs)
    steps = per_epoch * tenths // FRACTION
    said = f"{statistics.fmean(tokens[later]) / step:.0f} tokens/s, {step:.3f} s a step, {per_epoch} steps an epoch"
    if steps < 1:
        raise DataError(f"{said}: {options.minutes:g} minutes are too few for a tenth of an epoch; give more --minutes")
    print(f"{said}; {left:.0f} s are left: {steps} steps, {tenths / FRACTION:g} epochs", file=sys.stderr, flush=True)
    return steps


def throwaway_trainer(
    base: Path, found: TrainingSet, settings: TrainingOptions, options: argparse.Namespace
) -> Trainer:
    """A trainer like the run's own, on some of its examples."""
    config, device = ModelConfig.from_folder(base), training_device(options.device)
    shape = {name: getattr(settings, name) for name in ("rank", "alpha", "dropout", "targets", "seed")}
    adapters = RoleAdapters(config, settings.roles, **shape, device=device)
    weights = load_frozen(base, config, training_dtype(options.dtype, device), device)
    return Trainer(config, weights, adapters, found.examples, settings)


def planned(options: argparse.Namespace, base: Path, files: Files, settings: TrainingOptions, begun: float) -> int:
    """The steps of the run: those that are given, else that it has planned already, else those that are planned now."""
    if options.steps is not None:
        return int(options.steps)
    path = options.work / "plan.json"
    if path.exists():
        return int(json.loads(path.read_text(encoding="utf-8"))["steps"])
    steps = plan(options, base, files, settings, begun)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # what was timed is gone
    write_whole(path, json.dumps({"steps": steps}))
    return steps


def trained(
    options: argparse.Namespace, base: Path, files: Files, settings: TrainingOptions, begun: float
) -> dict[str, Any]:
    """Trains until all is done, or the time is over; adapters of either are written. Returns the summary."""
    device = training_device(options.device)
    deadline = begun + options.minutes * 60 - RESERVED_SECONDS if options.minutes else float("inf")
    entry = {"hub": "HuggingFaceTB/SmolLM2-135M-Instruct", "revision": "main"}
    paths = TrainingFiles(base, entry, files.data, files.knowledge, options.work, options.start)
    more: dict[str, Any] = dict(
        device=device,
        dtype=training_dtype(options.dtype, device),
        hold_out=files.held_out,
        drop_marks=options.marks == "drop",
        save_every=options.save_every,
    )
    with OutOfTime(Console(stderr=True, highlight=False), deadline) as progress:
        try:
            return train(paths, settings, progress, **more)
        except KeyboardInterrupt:
            if progress.last_step is None:
                raise
            return train(paths, replace(settings, max_steps=progress.last_step), progress, **more)


def check_size(base: Path, settings: TrainingOptions) -> None:
    """Refuses adapters that would be too large for a pack, before they are trained."""
    shapes = {name.split(".")[1]: shape for name, shape in module_shapes(ModelConfig.from_folder(base)).items()}
    layers = ModelConfig.from_folder(base).num_layers
    numbers = sum(sum(shapes[target]) for target in settings.targets if target in shapes) * settings.rank * layers
    if (size := 2 * numbers * len(ROLES)) > MOST_BYTES:
        raise DataError(
            f"the adapters would have {size} bytes, above {MOST_BYTES}; lower --rank, or name fewer --targets"
        )


def finish(
    options: argparse.Namespace, base: Path, settings: TrainingOptions, summary: dict[str, Any], start: Pack | None
) -> None:
    """Writes the pack, and beside its manifest what it was trained with; `start` is the pack that it began from."""
    default, (form, _) = load_pack(), known_format(Tokenizer.from_folder(base))
    manifest = {
        **first_manifest(options.out.resolve().name, source_entry(default.base), form),
        "license": "Apache-2.0 (base), MIT (training questions)",
        "calculator": True,
        "sampling": dict(start.sampling) if start else {**default.sampling, "max_tokens": MOST_ANSWER_TOKENS},
    }
    for role, entry in manifest["roles"].items():
        if start and start.roles[role].sampling:
            entry["sampling"] = dict(start.roles[role].sampling)
    write_pack(options.out, manifest, {role: options.work / role for role in ROLES})
    about = {
        "data_sha256": SHA256,
        "wordings": options.wordings,
        "generated": {"count": options.generated, "seed": options.data_seed},
        "marks": options.marks,
        "made_sha256": {name: summary["settings"][f"{name}_sha256"] for name in ("data", "knowledge")},
        **({"start_sha256": pack_digest(start)} if start else {}),
        "options": {name: value for name, value in asdict(settings).items() if value is not None},
        **{name: summary[name] for name in ("steps", "loss", "held_out_loss", "this_process")},
    }
    write_whole(options.out / "training.json", json.dumps(about, indent=1) + "\n")
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"The pack {options.out} has {size} bytes; what was held out: {options.work / 'data' / 'held-out.jsonl'}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of GSM8K and of the knowledge")
    parser.add_argument(
        "--base", type=Path, help="folder or .gguf file of the default pack's base; default: as lorid solve"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the pack; must not exist, or be empty")
    parser.add_argument(
        "--work", type=Path, help="folder of data, log and checkpoints; default: --out with -run at its end"
    )
    parser.add_argument("--start", type=Path, help="a pack whose adapters go on; default: new ones")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float32"))
    parser.add_argument("--minutes", type=float, help="wall-clock time in all; default: as long as the epochs take")
    parser.add_argument("--epochs", type=int, default=12, help="at most; default: %(default)s")
    parser.add_argument("--steps", type=int, help="so many, at most those of --epochs; default: as fit into --minutes")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--targets", default=TARGETS)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--batch-size", type=int, default=96, help="examples of a role in a step; default: %(default)s")
    parser.add_argument("--rows-per-pass", type=int)
    parser.add_argument("--max-tokens", type=int, default=512, help="longer examples are left out")
    parser.add_argument(
        "--marks", default="drop", choices=("drop", "keep"), help="calculator marks of rationales; default: %(default)s"
    )
    parser.add_argument(
        "--wordings", type=int, default=4, help="of each training question, itself included; default: %(default)s"
    )
    parser.add_argument("--generated", type=int, default=24000, help="problems of our own beside; default: %(default)s")
    parser.add_argument("--data-seed", type=int, default=0, help="of what is generated and held out; default: 0")
    parser.add_argument("--held-out", type=int, default=500, help="of GSM8K's training questions; default: %(default)s")
    parser.add_argument("--first", type=int, help="of GSM8K's training questions alone, for a trial")
    parser.add_argument("--save-every", type=float, default=120.0, help="seconds between checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="of new adapters and of the examples' order; default: 0")
    options = parser.parse_args(arguments)
    if options.steps is not None and options.steps < 1:
        parser.error("--steps must be at least 1")
    options.work = options.work or options.out.with_name(f"{options.out.name}-run")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains and writes; returns the exit status."""
    begun, options = time.monotonic(), parse(arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which ends a run, and a shell's background jobs ignore
    try:
        training_device(options.device)
        require_new(options.out)
        start = load_pack(str(options.start.resolve())) if options.start else None
        files = make_files(options)
        source = load_pack().base if options.base is None else FolderSource(options.base)
        base = resolve_base(source, env.cache_dir())
        settings = TrainingOptions(
            rank=options.rank,
            alpha=2.0 * options.rank,
            dropout=options.dropout,
            targets=tuple(options.targets.split(",")),
            learning_rate=options.lr,
            weight_decay=options.weight_decay,
            epochs=options.epochs,
            batch_size=options.batch_size,
            max_tokens=options.max_tokens,
            held_out=0,
            seed=options.seed,
            rows_per_pass=options.rows_per_pass or ROWS_PER_PASS[options.device],
        )
        check_size(base, settings)
        settings = replace(settings, planned_steps=planned(options, base, files, settings, begun))
        finish(options, base, settings, trained(options, base, files, settings, begun), start)
    except LoridError as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
