"""A training run in a folder: it begins or goes on, keeps a log and checkpoints, and leaves PEFT adapters and a pack."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import tomli_w
import torch

from lorid_engine.engine.tokenizer import Tokenizer
from lorid_engine.errors import AdapterError, ConfigError, DataError, TrainingError
from lorid_engine.model.cache import file_sha256
from lorid_engine.model.config import ModelConfig
from lorid_engine.model.digest import base_digest
from lorid_engine.plots import line_svg
from lorid_engine.solver.new_pack import first_manifest, known_format, role_prompts
from lorid_engine.solver.pack import ROLES
from lorid_engine.solver.prompts import Template
from lorid_engine.train.adapters import RoleAdapters
from lorid_engine.train.checkpoints import Checkpoints
from lorid_engine.train.examples import Example, RoleFormat, TrainingSet, read_training_set
from lorid_engine.train.files import owned, write_whole
from lorid_engine.train.forward import load_frozen
from lorid_engine.train.log import RunLog, thin
from lorid_engine.train.memory import keep_freed_memory
from lorid_engine.train.options import TrainingOptions
from lorid_engine.train.order import key64
from lorid_engine.train.processes import Processes
from lorid_engine.train.trainer import NotANumberError, StepReport, Trainer

_FORMAT = 1
# What may differ when a run is gone on with: it changes memory, speed, the last step, and results by rounding alone.
_FREE = ("rows_per_pass", "recompute", "max_steps")


@dataclass(frozen=True)
class TrainingFiles:
    """Where a run reads and writes.

    Attributes:
        base: folder of the base, in Hugging Face's format.
        base_entry: the base as a pack's manifest names it.
        data, knowledge: JSON lines; see read_training_set.
        out: folder of the pack; the run's own files lie in its folder "training".
        start: a folder with adapters in ir, kg and dr to begin from, or None.
    """

    base: Path
    base_entry: Mapping[str, Any]
    data: Path
    knowledge: Path | None
    out: Path
    start: Path | None = None


class Progress(Protocol):
    """Told how a run goes."""

    def begin(self, found: TrainingSet, held_out: int, step: int, steps: int) -> None:
        """The data is read; `step` of `steps` are done already."""

    def step(self, report: StepReport) -> None:
        """A step is done."""

    def evaluated(self, step: int, loss: Mapping[str, float]) -> None:
        """The loss of the questions held out, by role."""

    def say(self, text: str) -> None:
        """Anything else."""


def train(
    files: TrainingFiles,
    options: TrainingOptions,
    progress: Progress,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    hold_out: Collection[int] = (),
    drop_marks: bool = False,
    skip_bad: bool = False,
    save_every: float = 300.0,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Trains, or goes on where the same run stopped.

    Args:
        device: None = the CPU. A run may be gone on with on another one.
        hold_out: ids of questions that are held out beside those that the options draw.
        dtype: of base and activations. The base's weights are those of bfloat16, as the engine has them, in either.
        save_every: seconds between checkpoints; there is one at every end of an epoch, too.
        about: machine and command, for the log.

    Returns:
        The summary that is written to training/summary.json.

    Raises:
        DataError: a file cannot be read or written, or the folder is that of a run with other settings.
        ConfigError: several processes on a GPU, or more questions to hold out than there are.
        TrainingError: a loss is not a number; the examples of the step are written to training/failed-step.jsonl.
        KeyboardInterrupt: at Ctrl-C, after the step and a checkpoint.
    """
    keep_freed_memory()
    processes = Processes.join()
    try:
        folder = files.out / "training"
        with owned(folder) if processes.rank == 0 else nullcontext():
            place = device or torch.device("cpu")
            if place.type != "cpu" and processes.size > 1:
                raise ConfigError(
                    "several processes train together on CPUs alone; on a GPU start one, without torchrun"
                )
            run = _Run(files, options, progress, processes, place, dtype, hold_out, drop_marks, skip_bad, folder)
            return run.go(save_every, about or {})
    finally:
        processes.leave()


class _Run:
    def __init__(
        self,
        files: TrainingFiles,
        options: TrainingOptions,
        progress: Progress,
        processes: Processes,
        device: torch.device,
        dtype: torch.dtype,
        hold_out: Collection[int],
        drop_marks: bool,
        skip_bad: bool,
        folder: Path,
    ) -> None:
        self._files, self._options, self._progress, self._processes = files, options, progress, processes
        self._folder, self._checkpoints = folder, Checkpoints(folder / "checkpoints")
        config, tokenizer = ModelConfig.from_folder(files.base), Tokenizer.from_folder(files.base)
        self._form, _ = known_format(tokenizer)
        prompts = {role: Template(text) for role, text in role_prompts(self._form).items()}
        form = RoleFormat(prompts, _stop_id(tokenizer, self._form.stop))
        self._max_tokens = min(options.max_tokens, config.max_positions)
        self._settings = {
            "format": _FORMAT,
            "base_sha256": base_digest(files.base),
            "data_sha256": _sha256(files.data),
            "knowledge_sha256": None if files.knowledge is None else _sha256(files.knowledge),
            "start": None if files.start is None else str(files.start),
            "dtype": str(dtype).removeprefix("torch."),
            "drop_marks": drop_marks,
            "hold_out": sorted(hold_out) or None,
            **{name: value for name, value in asdict(options).items() if name not in _FREE},
            "prompts": {role: prompts[role].text for role in options.roles},
        }
        self._settings = json.loads(json.dumps(self._settings))
        self._look_at_folder()
        found = read_training_set(
            files.data,
            files.knowledge,
            options.roles,
            form,
            tokenizer,
            max_tokens=self._max_tokens,
            drop_marks=drop_marks,
            skip_bad=skip_bad,
        )
        _check_tokens(found, config.vocab_size)
        examples, self._held_out = _hold_out(found, options, hold_out)
        self._adapters = RoleAdapters(
            config,
            options.roles,
            rank=options.rank,
            alpha=options.alpha,
            dropout=options.dropout,
            targets=options.targets,
            seed=options.seed,
            device=device,
        )
        if files.start is not None:
            for slot, role in enumerate(options.roles):
                self._adapters.load(slot, files.start / role)
        weights = load_frozen(files.base, config, dtype, device)
        self._trainer = Trainer(config, weights, self._adapters, examples, options, processes)
        kept = self._checkpoints.load()
        if not processes.agree(0 if kept is None else kept[0]):
            raise TrainingError(
                f"the processes see different checkpoints; {files.out} must be one folder for all of them"
            )
        if kept is not None:
            self._trainer.restore(*kept)
        self._log = RunLog(folder, self._trainer.steps_done) if processes.rank == 0 else None
        held = max((len(each) for each in self._held_out.values()), default=0)
        progress.begin(found, held, self._trainer.steps_done, self._trainer.steps)

    def _look_at_folder(self) -> None:
        """Refuses a folder of other adapters, or of a run with other settings."""
        path = self._folder / "settings.json"
        if self._checkpoints.found:  # before the first one there is nothing to lose
            try:
                before = json.loads(path.read_text(encoding="utf-8"))
                if not isinstance(before, dict):
                    raise ValueError("no JSON object")
            except (OSError, ValueError, RecursionError) as error:
                raise DataError(
                    f"the settings of the run in {self._files.out} cannot be read from {path}: {error}"
                ) from None
            for name, value in self._settings.items():
                if before.get(name) != value:
                    was, now = (f"{each!r}"[:200] for each in (before.get(name), value))
                    what = AdapterError if name == "base_sha256" else DataError
                    raise what(
                        f"{self._files.out} holds a run with {name} {was}; this command has {now}. "
                        "Use the same settings, or name another folder"
                    )
            return
        if taken := [name for name in ("pack.toml", *ROLES) if (self._files.out / name).exists()]:
            raise DataError(f"{self._files.out} has {', '.join(taken)} that this run did not make; name another folder")
        if self._processes.rank == 0:
            write_whole(path, json.dumps(self._settings, indent=2))

    def go(self, save_every: float, about: Mapping[str, Any]) -> dict[str, Any]:
        trainer = self._trainer
        start, saved, tokens, first = time.perf_counter(), time.monotonic(), 0, trainer.steps_done
        missing = self._log is not None and not self._log.has_held_out(first)
        if self._at_epoch_end() and self._processes.any(missing):
            self._evaluate()  # an interrupt came between the step and its evaluation
        with _interrupts() as interrupted:
            while trainer.steps_done < trainer.steps:
                try:
                    report = trainer.step()
                except NotANumberError as error:
                    raise self._keep_batch(error) from None
                tokens += report.tokens
                self._add({"record": "step", **asdict(report)})
                self._progress.step(report)
                stop = self._processes.any(interrupted.is_set())
                if self._at_epoch_end() or stop or self._processes.any(time.monotonic() - saved >= save_every):
                    self._save()
                    saved = time.monotonic()
                if self._at_epoch_end() and not stop:
                    self._evaluate()
                if stop:
                    self._progress.say(
                        f"Interrupted at step {trainer.steps_done}; the same command goes on from there."
                    )
                    raise KeyboardInterrupt
        return self._finish(about, tokens, trainer.steps_done - first, time.perf_counter() - start)

    def _at_epoch_end(self) -> bool:
        done = self._trainer.steps_done
        return done > 0 and (done == self._trainer.steps or done % self._trainer.steps_per_epoch == 0)

    def _add(self, record: Mapping[str, Any]) -> None:
        if self._log is not None:
            self._log.add(record)

    def _evaluate(self) -> None:
        loss = self._trainer.evaluate(self._held_out)
        if loss:
            self._add({"record": "held_out", "step": self._trainer.steps_done, "loss": loss})
            self._progress.evaluated(self._trainer.steps_done, loss)

    def _save(self) -> None:
        if self._log is not None:
            self._log.flush()
            self._checkpoints.save(self._trainer.steps_done, self._trainer.state())
        self._processes.wait()

    def _keep_batch(self, error: NotANumberError) -> TrainingError:
        path = self._folder / "failed-step.jsonl"
        if self._processes.rank == 0:
            lines = [
                json.dumps(
                    {"role": role, "row": example.index, "tokens": example.tokens.tolist(), "prompt": example.prompt}
                )
                for role, examples in error.examples.items()
                for example in examples
            ]
            write_whole(path, "\n".join(lines) + "\n")
        if self._trainer.steps_done:  # the step changed nothing
            self._save()
        return TrainingError(f"{error}. Its examples are in {path}")

    def _finish(self, about: Mapping[str, Any], tokens: int, steps: int, seconds: float) -> dict[str, Any]:
        summary: dict[str, Any] = {}
        if self._log is not None:
            out, base = self._files.out, str(self._files.base_entry.get("hub") or self._files.base)
            for slot, role in enumerate(self._options.roles):
                self._adapters.save(slot, out / role, base)
            is_pack = all((out / role / "adapter_config.json").is_file() for role in ROLES)
            if is_pack and not (out / "pack.toml").exists():  # its user may have edited it
                manifest = first_manifest(out.resolve().name, self._files.base_entry, self._form)
                write_whole(out / "pack.toml", tomli_w.dumps(manifest))
            losses, held_out = self._log.lines()
            summary = {
                **about,
                "settings": self._settings,
                "steps": self._trainer.steps_done,
                "pack": is_pack,
                "loss": {role: values[1][-1] for role, values in losses.items()},
                "held_out_loss": {role: dict(zip(*values, strict=True)) for role, values in held_out.items()},
                "this_process": {
                    "steps": steps,
                    "tokens": tokens,
                    "seconds": seconds,
                    "tokens_per_second": tokens / seconds,
                },
            }
            if steps or not (self._folder / "summary.json").exists():
                write_whole(self._folder / "summary.json", json.dumps(summary, indent=2))
            lines = {role: thin(*line) for role, line in losses.items()}
            lines |= {f"{role}, held out": thin(*line) for role, line in held_out.items()}
            write_whole(self._folder / "loss.svg", line_svg(lines, "steps", "loss"))
        self._processes.wait()
        return summary


def _hold_out(
    found: TrainingSet, options: TrainingOptions, named: Collection[int]
) -> tuple[dict[str, list[Example]], dict[str, list[Example]]]:
    """Examples to be trained on, and those of some questions that no role is trained on, in no wording."""
    questions = sorted({example.id for examples in found.examples.values() for example in examples})
    if options.held_out >= len(questions):
        raise ConfigError(f"{options.held_out} of {len(questions)} questions cannot be held out; lower --held-out")
    random = np.random.Generator(np.random.Philox(key=key64("held out", options.seed)))
    held = {*random.permutation(questions)[: options.held_out].tolist(), *named}
    kept, apart = (
        {role: [e for e in examples if (e.id in held) == out] for role, examples in found.examples.items()}
        for out in (False, True)
    )
    if empty := [role for role, examples in kept.items() if not examples]:
        raise ConfigError(f"no example of {empty[0]} is left to train on; lower --held-out")
    return kept, apart


def _check_tokens(found: TrainingSet, vocabulary: int) -> None:
    """Raises DataError if the tokenizer has tokens that the base has not."""
    for role, examples in found.examples.items():
        for example in examples:
            if (largest := int(example.tokens.max())) >= vocabulary:
                raise DataError(
                    f"the base has {vocabulary} tokens, but its tokenizer gives token {largest} in row {example.index + 1} "
                    f"for {role}: base and tokenizer do not fit together"
                )


def _stop_id(tokenizer: Tokenizer, stop: tuple[str, ...]) -> int:
    if stop:
        return tokenizer.special_ids[stop[0]]
    if tokenizer.eos_token_id is None:
        raise DataError("the base's tokenizer has no end-of-text token, with which a target could end")
    return tokenizer.eos_token_id


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"the data file {path} cannot be read: there is no such file")
    return file_sha256(path)


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Ctrl-C sets the event, so that a step is finished; a second one ends at once. (Signals reach the main thread alone.)"""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before: Callable[[int, FrameType | None], Any] | int | None = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    signal.signal(signal.SIGINT, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
