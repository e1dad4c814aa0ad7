"""`lorid eval`: a file of questions, with progress, a table and a page."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from lorid_engine import env
from lorid_engine.cli.doctor import machine_facts
from lorid_engine.cli.solve import solver_config
from lorid_engine.cli.trace import FetchProgress, plain
from lorid_engine.errors import DataError
from lorid_engine.evaluation.evaluate import Evaluation, evaluation_settings
from lorid_engine.evaluation.page import write_page
from lorid_engine.evaluation.problems import ProblemSet, read_problems
from lorid_engine.evaluation.results import ResultsFile
from lorid_engine.evaluation.table import report_rows
from lorid_engine.solver import Solver
from lorid_engine.solver.base_source import resolve_base
from lorid_engine.solver.packs import DEFAULT_PACK, load_pack

_SECONDS_BETWEEN_LINES = 30.0


class EvalProgress:
    """Questions done, speed, accuracy so far and time left: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
        )
        self._console = console
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=None, speed="")
        self._said = 0.0

    def __enter__(self) -> EvalProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def stage(self, name: str, total: int, done: int) -> None:
        """A part of the work begins."""
        self._name, self._total, self._done, self._before = name, total, done, done
        self._start, self._tokens, self._right, self._judged = time.perf_counter(), 0, 0, 0
        self._bar.remove_task(self._task)
        self._task = self._bar.add_task(name, total=total or None, completed=done, speed="")

    def item(self, tokens: int, right: bool | None = None) -> None:
        """One more question or sample."""
        self._done += 1
        self._tokens += tokens
        self.judged(right)
        seconds = max(time.perf_counter() - self._start, 1e-3)
        each = "questions" if self._total else "samples"
        speed = f"{(self._done - self._before) / seconds:.2f} {each}/s, {self._tokens / seconds:.0f} tokens/s"
        if self._judged:
            speed += f", {100 * self._right / self._judged:.1f} % right"
        self._bar.update(self._task, advance=1, speed=speed)
        if not self._console.is_terminal and time.perf_counter() - self._said > _SECONDS_BETWEEN_LINES:
            self._said = time.perf_counter()
            of = f" of {self._total}" if self._total else ""
            left = self._time_left(seconds)
            self._console.print(f"{self._name}: {self._done}{of}, {speed}{left}", highlight=False, soft_wrap=True)

    def judged(self, right: bool | None) -> None:
        """An answer that counts for the accuracy so far."""
        if right is not None:
            self._judged += 1
            self._right += right

    def _time_left(self, seconds: float) -> str:
        fresh = self._done - self._before
        if not self._total or not fresh:
            return ""
        return f", about {(self._total - self._done) * seconds / fresh / 60:.0f} min left"


def run(options: argparse.Namespace) -> int:
    """Evaluates; returns the exit status."""
    console = Console(stderr=True, highlight=False)
    config, pack = solver_config(options), load_pack(options.pack or DEFAULT_PACK)
    if options.report:
        _check_writable(Path(options.report), options.out, options.data)
    problems = read_problems(options.data, limit=options.limit, skip_bad=options.skip_bad, split=options.split)
    machine = machine_facts(options.threads)
    command = shlex.join(["lorid", *sys.argv[1:]])
    with FetchProgress(console) as fetched:
        base = resolve_base(pack.base, env.cache_dir(), fetched)
    settings = evaluation_settings(
        problems, pack, base, config, options.limit, options.dtype, options.device, machine["instruction set"]
    )
    with ResultsFile(Path(options.out), settings, {**machine, "command": command}) as results:
        _tell_start(console, problems, results)
        evaluation = Evaluation(problems, results)
        try:
            _fill(options, console, evaluation)
        except KeyboardInterrupt:
            kept = f"{options.out} has {len(results.questions)} finished questions"
            console.print(plain(f"Interrupted; {kept}. The same command goes on from there."), soft_wrap=True)
            raise
        report = evaluation.report()
        if options.report:
            write_page(Path(options.report), report, settings, machine, results.questions)
    report = {**report, "skipped": len(problems.skipped), "settings": settings, "machine": machine, "command": command}
    if options.json:
        print(json.dumps(report))
    else:
        _print(report)
    return 1 if report["errors"] == report["questions"] else 0


def _check_writable(path: Path, *others: str) -> None:
    """A report that cannot be written, or would replace what it is made of, is told before the hours that lead to it."""
    for other in map(Path, others):
        if path.resolve() == other.resolve() or (path.exists() and other.exists() and path.samefile(other)):
            raise DataError(f"the report {path} would replace {other}; name another file")
    if not os.access(path if path.exists() else path.parent, os.W_OK) or path.is_dir():
        raise DataError(f"the report {path} cannot be written; name a file in a folder that exists and may be written")


def _tell_start(console: Console, problems: ProblemSet, results: ResultsFile) -> None:
    for wrong in problems.skipped[:5]:
        console.print(plain(f"left out: {wrong}"), soft_wrap=True)
    if len(problems.skipped) > 5:
        console.print(f"left out: {len(problems.skipped) - 5} more")
    if results.repaired:
        console.print(
            plain(f"{results.path} ended in the middle of a line; that record is done again."), soft_wrap=True
        )
    if results.questions:
        console.print(
            plain(f"Going on: {results.path} has {len(results.questions)} of {len(problems.problems)} questions.")
        )


def _fill(options: argparse.Namespace, console: Console, evaluation: Evaluation) -> None:
    """Runs what the results file lacks."""
    baselines = not options.no_baselines
    if evaluation.is_complete(baselines=baselines):
        return
    solver = Solver.from_pack(
        options.pack or DEFAULT_PACK,
        config=solver_config(options),
        dtype=options.dtype,
        device=options.device,
        threads=options.threads,
    )
    with EvalProgress(console) as progress:
        evaluation.run(solver, progress, baselines=baselines)


def _print(report: dict[str, Any]) -> None:
    out, lorid = Console(highlight=False), report["lorid"]
    if not out.is_terminal:
        out.width = 120
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (
        ("what", "left"),
        ("right", "right"),
        ("95 % interval", "right"),
        ("tokens a question", "right"),
    ):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("", overflow="fold")
    for row in report_rows(report):
        table.add_row(*row)
    out.print(table)
    counted = f"{report['questions']} questions"
    counted += f", {report['errors']} with an error" if report["errors"] else ""
    counted += f", {report['skipped']} rows left out" if report["skipped"] else ""
    histogram = ", ".join(f"{rounds}: {count}" for rounds, count in lorid["rounds_histogram"].items())
    out.print(f"{counted}; {lorid['mean_rounds']:.2f} rounds a question, {100 * lorid['agreed']:.1f} % agree")
    out.print(f"questions by rounds: {histogram}", soft_wrap=True)
    speed = (
        f"{report['generated_tokens']} tokens in {report['seconds']:.0f} s, {report['tokens_per_second']:.0f} tokens/s"
    )
    out.print(speed)
    if report["errors"]:
        out.print(plain(f"the first error: {report['first_error']}"), soft_wrap=True)
