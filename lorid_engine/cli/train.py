"""`lorid train`: the roles' adapters, with live losses, and what came of it."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lorid_engine import env
from lorid_engine.cli.doctor import machine_facts
from lorid_engine.cli.trace import FetchProgress, plain
from lorid_engine.errors import ConfigError
from lorid_engine.ops import cpu
from lorid_engine.solver.base_source import resolve_base
from lorid_engine.solver.manifest import read_base
from lorid_engine.solver.pack_files import base_entry, source_entry
from lorid_engine.solver.packs import load_pack
from lorid_engine.train.device import training_device, training_dtype
from lorid_engine.train.examples import TrainingSet
from lorid_engine.train.options import TrainingOptions
from lorid_engine.train.run import TrainingFiles, train
from lorid_engine.train.trainer import StepReport

_SECONDS_BETWEEN_LINES = 10.0
_SMOOTH = 0.9  # of the losses that are shown
ROWS_PER_PASS = {"cpu": 4096, "cuda": 32768}  # a GPU needs many to be busy


class TrainProgress:
    """Steps, losses by role, tokens/s and time left: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console, quiet: bool) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
        )
        self._console, self._quiet = console, quiet
        self._bar = Progress(*columns, console=console, disable=quiet or not console.is_terminal)
        self._loss: dict[str, float] = {}
        self._tokens, self._seconds, self._said = 0, 0.0, 0.0

    def __enter__(self) -> TrainProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, found: TrainingSet, held_out: int, step: int, steps: int) -> None:
        """Says what the data gave."""
        counts = ", ".join(f"{role} {len(examples)}" for role, examples in found.examples.items())
        self.say(f"Examples: {counts}; {held_out} questions of them are held out.")
        if any(found.too_long.values()):
            left_out = ", ".join(f"{role} {count}" for role, count in found.too_long.items() if count)
            self.say(f"Left out because they are too long: {left_out}.")
        if found.without_knowledge and found.examples.keys() - {"ir"}:
            self.say(f"{found.without_knowledge} questions have no knowledge: they train ir alone.")
        if found.skipped:
            self.say(f"{len(found.skipped)} rows were skipped; the first: {found.skipped[0]}")
        if step:
            self.say(f"Going on from step {step} of {steps}.")
        self._first, self._steps = step, steps
        self._task = self._bar.add_task("training", total=steps, completed=step, state="")

    def step(self, report: StepReport) -> None:
        """Shows a step."""
        for role, loss in report.loss.items():
            self._loss[role] = _SMOOTH * self._loss.get(role, loss) + (1 - _SMOOTH) * loss
        self._tokens += report.tokens
        self._seconds += report.seconds
        state = ", ".join(f"{role} {self._loss[role]:.3f}" for role in report.loss)
        state += f", {self._tokens / self._seconds:.0f} tokens/s"
        self._bar.update(self._task, completed=report.step, state=state)
        if not self._console.is_terminal and time.monotonic() - self._said > _SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            left = (self._steps - report.step) * self._seconds / (report.step - self._first) / 60
            self.say(f"step {report.step} of {self._steps}: {state}, about {left:.0f} min left")

    def evaluated(self, step: int, loss: Mapping[str, float]) -> None:
        """Shows the loss of what was held out."""
        self.say(f"step {step}, held out: {', '.join(f'{role} {value:.4f}' for role, value in loss.items())}")

    def say(self, text: str) -> None:
        """A line."""
        if not self._quiet:
            self._console.print(plain(text), soft_wrap=True)


def run(options: argparse.Namespace) -> int:
    """Trains; returns the exit status."""
    quiet = os.environ.get("RANK", "0") != "0"
    console = Console(stderr=True, highlight=False)
    device = training_device(options.device)
    settings = training_options(options)
    threads = _threads(options.threads)
    torch.set_num_threads(threads)
    os.environ["LORID_THREADS"] = str(threads)  # the ops read it
    entry = _base_entry(options)
    with FetchProgress(console) as fetched:
        base = resolve_base(read_base(entry), env.cache_dir(), fetched)
    files = TrainingFiles(
        base=base,
        base_entry=entry,
        data=Path(options.data),
        knowledge=Path(options.knowledge) if options.knowledge else None,
        out=Path(options.out),
        start=Path(options.start) if options.start else None,
    )
    about = {"machine": machine_facts(threads), "command": shlex.join(["lorid", *sys.argv[1:]])}
    with TrainProgress(console, quiet) as progress:
        summary = train(
            files,
            settings,
            progress,
            device=device,
            dtype=training_dtype(options.dtype, device),
            drop_marks=options.drop_marks,
            skip_bad=options.skip_bad,
            save_every=options.save_every,
            about=about,
        )
    if not quiet:
        _tell_end(console, files.out, settings, summary)
    return 0


def training_options(options: argparse.Namespace) -> TrainingOptions:
    """What the options of the command ask for."""
    names = (
        "rank",
        "dropout",
        "targets",
        "warmup",
        "epochs",
        "batch_size",
        "max_tokens",
        "held_out",
        "max_steps",
        "seed",
    )
    given: dict[str, Any] = {name: getattr(options, name) for name in (*names, "recompute", "roles")}
    alpha = 2.0 * options.rank if options.alpha is None else options.alpha
    rows = options.rows_per_pass or ROWS_PER_PASS[options.device]
    return TrainingOptions(**given, alpha=alpha, learning_rate=options.lr, rows_per_pass=rows)


def _threads(given: int | None) -> int:
    """Of torch and of the ops: this process's share of the machine where torchrun started several."""
    try:
        beside = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    except ValueError:
        raise ConfigError("LOCAL_WORLD_SIZE must be a number; start several processes by torchrun") from None
    cores = cpu.extension().available_cores() if cpu.why_not() is None else os.cpu_count() or 1
    return given or env.threads() or max(1, cores // beside)


def _base_entry(options: argparse.Namespace) -> dict[str, Any]:
    if options.base is None:
        if options.revision:
            raise ConfigError("--revision is for a hub's model, which --base names")
        return source_entry(load_pack().base)
    return base_entry(options.base, options.revision)


def _tell_end(console: Console, out: Path, options: TrainingOptions, summary: Mapping[str, Any]) -> None:
    losses = ", ".join(f"{role} {loss:.3f}" for role, loss in summary["loss"].items())
    speed = summary["this_process"]["tokens_per_second"]
    lines = [f"{summary['steps']} steps; last losses {losses}; {speed:.0f} tokens/s. Log and plot: {out / 'training'}"]
    if summary["pack"]:
        lines.append(f'The pack is in {out}: lorid solve --pack {out} "..."')
    else:
        lines.append(f"Adapters of {', '.join(options.roles)} are in {out}; a pack needs ir, kg and dr.")
    for line in lines:
        console.print(plain(line), soft_wrap=True)
