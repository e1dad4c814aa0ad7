"""Runs what says how good a pack is: the loop, its roles and baselines on five test sets with some seeds, and the base alone.

    python bench/packs/evaluate.py --pack my-pack --data DATA --work runs --first 300,200 --device cuda --minutes 8

DATA holds gsm8k/ and mawps/. WORK gets a results file of `lorid eval` for each set and seed, and two of the base for each set; the same
command goes on where it stopped. The base answers greedily: to IR's prompt, and after eight of GSM8K's training questions.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from lorid_engine import Engine, Request, SamplingParams, env
from lorid_engine.cli.doctor import machine_facts
from lorid_engine.cli.evaluate import EvalProgress
from lorid_engine.errors import DataError, LoridError
from lorid_engine.evaluation.evaluate import Evaluation, evaluation_settings
from lorid_engine.evaluation.problems import Problem, read_problems
from lorid_engine.evaluation.results import ResultsFile
from lorid_engine.evaluation.scores import is_right
from lorid_engine.model.digest import base_digest
from lorid_engine.solver import Solver, SolverConfig
from lorid_engine.solver.answers import extract
from lorid_engine.solver.base_source import FolderSource, resolve_base
from lorid_engine.solver.calculator import Calculator
from lorid_engine.solver.pack import ROLES, Pack
from lorid_engine.solver.packs import load_pack

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import make_folder

SETS = {
    "gsm8k": "gsm8k/test.jsonl",
    "multiarith": "mawps/multiarith.jsonl",
    "addsub": "mawps/addsub.jsonl",
    "singleop": "mawps/singleop.jsonl",
    "singleeq": "mawps/singleeq.jsonl",
}
SHOTS = (0, 8)
SHOWN = "gsm8k/train.jsonl"  # whose first questions are the examples
PARTS = ("loop", "base")
ROWS = {"cpu": 64, "cuda": 256}
KV_MEMORY = {"cpu": None, "cuda": 6 << 30}  # a GPU serves several such runs, of other sets and seeds, at once
MOST_TOKENS = 320
INTERRUPTED = 130  # the exit status after Ctrl-C, or at the end of --minutes


@dataclass(frozen=True)
class Work:
    """What is to be done, in which order."""

    pack: Pack
    engine: Engine
    base: Path
    options: argparse.Namespace

    def run(self, progress: EvalProgress) -> None:
        """All sets with the first seed and by the base, then the other seeds."""
        for seed in self.options.seeds:
            for name in self.options.sets:
                if "loop" in self.options.parts:
                    self._evaluate(name, seed, progress)
                if "base" in self.options.parts and seed == self.options.seeds[0]:
                    for shots in SHOTS:
                        self._run_base(name, shots, progress)

    def _problems(self, name: str) -> Any:
        first, others = self.options.first
        return read_problems(str(self.options.data / SETS[name]), limit=first if name == "gsm8k" else others)

    def _evaluate(self, name: str, seed: int, progress: EvalProgress) -> None:
        problems = self._problems(name)
        config = SolverConfig(seed=seed, max_rounds=self.options.max_rounds, calculator=self.options.calculator)
        machine = machine_facts(None)
        computes = "bfloat16", self.options.device, machine["instruction set"]
        settings = evaluation_settings(problems, self.pack, self.base, config, len(problems.problems), *computes)
        settings["data"] = SETS[name]  # the same wherever the data lie
        with ResultsFile(self.options.work / f"{name}-seed{seed}.jsonl", settings, machine) as results:
            progress.title = f"{name}, seed {seed}"
            evaluation = Evaluation(problems, results)
            if not evaluation.is_complete(baselines=True):
                evaluation.run(Solver(self.engine, self.pack, config), progress, baselines=True)

    def _run_base(self, name: str, shots: int, progress: EvalProgress) -> None:
        """Greedy answers of the base alone, in a file of their own."""
        problems = self._problems(name)
        shown = self._shown(shots)
        settings = {"data": SETS[name], "data_sha256": problems.sha256, "base_sha256": base_digest(self.base)}
        settings |= {"shown": shown, "device": self.options.device}
        if self._calculator is not None:
            settings["calculator"] = True
        answers = BaseAnswers(self.options.work / f"{name}-base-{shots}-shot.jsonl", settings)
        left = problems.problems[answers.count :]
        progress.title = f"{name}, base, {shots} shots"
        progress.stage("answers", len(problems.problems), answers.count)
        for start in range(0, len(left), self.engine.max_batch_rows):
            group = left[start : start + self.engine.max_batch_rows]
            for problem, (text, tokens) in zip(group, self._base_texts(group, shown), strict=True):
                answer = extract(text, "#### (.+)")
                right = is_right(answer, problem.gold)
                record = {"index": problem.index, "answer": answer, "gold": problem.gold, "right": right}
                answers.append({**record, "tokens": tokens, "text": text})
                progress.item(tokens, right)

    @property
    def _calculator(self) -> Calculator | None:
        """What the base computes with, as the roles do."""
        wanted = SolverConfig(calculator=self.options.calculator).resolved(self.pack).calculator
        return Calculator(self.engine.tokenizer) if wanted else None

    def _shown(self, shots: int) -> str:
        """The first training questions with their rationales, calculator marks removed."""
        with (self.options.data / SHOWN).open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in itertools.islice(file, shots)]
        parts = [f"Question: {row['question']}\nAnswer: {re.sub(r'<<.*?>>', '', row['answer'])}\n\n" for row in rows]
        return "".join(parts)

    def _base_texts(self, group: Sequence[Problem], shown: str) -> Iterator[tuple[str, int]]:
        special = self.engine.tokenizer.special_ids
        requests = []
        for problem in group:
            if shown:
                prompt: Any = f"{shown}Question: {problem.question}\nAnswer:"
                stop: dict[str, Any] = {"stop": ["\n\nQuestion:"]}
            else:
                prompt = self.pack.roles["ir"].template.encode(self.engine.tokenizer, question=problem.question)
                stop = {"stop_token_ids": [special[text] for text in self.pack.stop if text in special]}
            sampling = SamplingParams(temperature=0, max_tokens=MOST_TOKENS, **stop)
            requests.append(Request(prompt, sampling=sampling, replace_token=self._calculator))
        for output in self.engine.generate(requests):
            if output.error:
                raise DataError(f"the base could not answer: {output.error}")
            yield output.outputs[0].text, len(output.outputs[0].token_ids)


class BaseAnswers:
    """A file of settings and of answers in the order of the questions, one JSON line each; a last line that was cut is removed.

    Raises:
        DataError: the file was started with other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        data = path.read_bytes() if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.splitlines()
        if lines and json.loads(lines[0]) != settings:
            raise DataError(f"{path} was started with another base, other data or another device; name another --work")
        self._path, self.count = path, max(len(lines) - 1, 0)
        if not lines:
            whole = json.dumps(settings).encode() + b"\n"
        if whole != data:
            path.write_bytes(whole)

    def append(self, record: dict[str, Any]) -> None:
        """Adds an answer, at once."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


class TitledProgress(EvalProgress):
    """Says of which set and seed its numbers are."""

    title = ""

    def stage(self, name: str, total: int, done: int) -> None:
        """A part of the work begins."""
        super().stage(f"{self.title}: {name}", total, done)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    def names(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", required=True, help="a pack's folder or name")
    parser.add_argument("--base", type=Path, help="folder or .gguf file of its base; default: as the pack says")
    parser.add_argument("--data", type=Path, required=True, help="folder of gsm8k/ and mawps/")
    parser.add_argument("--work", type=Path, required=True, help="folder of the results files")
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    parser.add_argument("--sets", type=names, default=list(SETS), help=", ".join(SETS))
    parser.add_argument("--parts", type=names, default=list(PARTS), help="of loop and base; default: both")
    parser.add_argument("--first", type=numbers, default=[None, None], help="questions of GSM8K and of the others")
    parser.add_argument("--max-rounds", type=int, help="default: as the pack says")
    parser.add_argument(
        "--calculator",
        action=argparse.BooleanOptionalAction,
        help="compute the arithmetic of all answers, the base's too, instead of drawing its digits; default: as the pack says",
    )
    parser.add_argument("--device", default="cpu", choices=ROWS)
    parser.add_argument("--minutes", type=float, help="wall-clock time in all; default: as long as it takes")
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        help="that share the sets and seeds: one leaves a GPU idle half of the time; default: 1",
    )
    options = parser.parse_args(arguments)
    if len(options.first) != 2:
        parser.error("--first takes two numbers, such as 300,200")
    if options.processes < 1:
        parser.error("--processes must be at least 1")
    for what, given, known in (("set", options.sets, SETS), ("part", options.parts, PARTS)):
        if unknown := set(given) - set(known):
            parser.error(f"there is no {what} {min(unknown)!r}; there are {', '.join(known)}")
    return options


def run_processes(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """One process after another for each seed of each set, and one for the base on it, some at a time; each has a log in WORK."""
    end = time.monotonic() + 60 * options.minutes if options.minutes else None
    jobs = [(name, seed, "loop") for seed in options.seeds for name in options.sets if "loop" in options.parts]
    jobs += [(name, options.seeds[0], "base") for name in options.sets if "base" in options.parts]

    def run(job: tuple[str, int, str]) -> int:
        name, seed, part = job
        command = [sys.executable, __file__, *arguments, "--sets", name, "--seeds", str(seed), "--parts", part]
        command += ["--processes", "1"]
        if end is not None:
            left = (end - time.monotonic()) / 60
            if left <= 0:
                return INTERRUPTED
            command += ["--minutes", f"{left:.3f}"]
        with (options.work / f"{name}-{part}-{seed}.log").open("w", encoding="utf-8") as log:
            status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
        print(f"{name}, {part}, seed {seed}: {'done' if status == 0 else f'see {log.name}'}", file=sys.stderr)
        return status

    pool = ThreadPoolExecutor(options.processes)
    try:
        return max(pool.map(run, jobs), default=0)
    except KeyboardInterrupt:  # which the processes got, too
        print("Stopped; the same command goes on.", file=sys.stderr)
        return INTERRUPTED
    finally:
        pool.shutdown(cancel_futures=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is left; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    for name in (SHOWN, *(SETS[name] for name in options.sets)):
        if not (options.data / name).is_file():
            what = f"there is no {options.data / name}; --data names the folder of gsm8k/ and mawps/"
            print(f"{Path(__file__).name}: {what}", file=sys.stderr)
            return 2
    try:
        make_folder(options.work)
    except DataError as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 2
    if options.processes > 1:
        return run_processes(options, arguments)
    if options.minutes:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
        timer = threading.Timer(60 * options.minutes, signal.raise_signal, [signal.SIGINT])
        timer.daemon = True
        timer.start()
    try:
        pack = load_pack(options.pack)
        base = resolve_base(FolderSource(options.base) if options.base else pack.base, env.cache_dir())
        engine = Engine(
            base,
            {role: pack.roles[role].adapter for role in ROLES},
            device=options.device,
            max_batch_rows=ROWS[options.device],
            max_batch_tokens=16 * ROWS[options.device],
            kv_memory=KV_MEMORY[options.device],
            active_adapters=len(ROLES),
        )
        with TitledProgress(Console(stderr=True, highlight=False)) as progress:
            Work(pack, engine, base, options).run(progress)
    except KeyboardInterrupt:
        print("Stopped; the same command goes on.", file=sys.stderr)
        return INTERRUPTED
    except (LoridError, OSError) as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
