"""IR at other temperatures than the pack's: in LoRID, in a vote of its samples, and in the agreement of two IR streams.

    python bench/packs/ir_temperatures.py runs/gsm8k-seed*.jsonl --pack my-pack --temperatures 0.5,0.8 --work runs

The results files are evaluate.py's, of that pack, each with another seed. KG's and DR's samples are theirs, since they do not depend on
IR; what is missing is drawn: IR's samples, and KG's and DR's of rounds that LoRID did not need with the pack's own IR. WORK gets files
of those for each seed and temperature; the same command goes on where it stopped. On another kind of device than the files' own,
samples differ by rounding. Who takes the best of several temperatures has chosen it on the questions that it is judged by.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from evaluate import INTERRUPTED, KV_MEMORY, ROWS, TitledProgress
from rich.console import Console

from lorid_engine import Engine, env
from lorid_engine.cli.doctor import machine_facts
from lorid_engine.errors import DataError, LoridError
from lorid_engine.evaluation.evaluate import BaselineSamples, Pools, extend_samples, is_complete, pack_digest
from lorid_engine.evaluation.results import Records, ResultsFile, expect_same_but_seed, read_results
from lorid_engine.evaluation.scores import (
    Attempt,
    Record,
    baseline_reports,
    baseline_rights,
    interval,
    pools_so_far,
    replay_rounds,
    seed_means,
    solver_tokens,
)
from lorid_engine.model.digest import base_digest
from lorid_engine.solver.base_source import FolderSource, resolve_base
from lorid_engine.solver.pack import ROLES, Pack
from lorid_engine.solver.packs import load_pack
from lorid_engine.solver.role_requests import RoleJob, draw_samples
from lorid_engine.solver.solution import Sample

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import make_folder, percent, write_result

LESS = {  # a difference's name: which way less which other
    "fallback_less_vote": ("fallback", "vote"),
    "fallback_less_ir_ir": ("fallback", "ir_ir"),
    "less_ir_ir_at_its_tokens": ("fallback_at_ir_ir", "ir_ir"),
    "own_less_vote": ("own", "own_vote"),
    "own_less_ir_ir": ("own", "own_ir_ir"),
}
SPENT = (  # of the report of which way
    ("ir_vote", "samples"),
    ("ir_vote", "tokens_per_question"),
    ("ir_ir", "rounds_at_most"),
    ("ir_ir", "agreed"),
    ("ir_ir", "tokens_per_question"),
)


@dataclass(frozen=True)
class Found:
    """What one seed came to with IR at one temperature.

    Attributes:
        rights: each way's score of each question: LoRID's fallback with this IR, and a vote and IR-IR within its tokens; LoRID's
            own, with the pack's IR, and a vote and IR-IR at this temperature within its tokens.
        reports: of the vote and of IR-IR, as `lorid eval` gives them.
        tokens: LoRID's of a question.
        settings: of the file that has the samples.
    """

    rights: dict[str, list[float]]
    reports: dict[str, dict[str, Any]]
    tokens: float
    settings: dict[str, Any]

    @classmethod
    def of(cls, run: Records, questions: Mapping[int, Record], pools: Pools, settings: dict[str, Any]) -> Found:
        rights = {
            way: [float(each["right"]) for each in asked.values()]
            for way, asked in (("fallback", questions), ("own", run.questions))
        }
        rights |= baseline_rights(questions, pools)
        within_own = baseline_rights(run.questions, pools)
        rights |= {f"own_{way}": within_own[way] for way in ("vote", "ir_ir")}
        return cls(rights, baseline_reports(questions, pools), solver_tokens(questions), settings)


def loop_with(question: Record, ir: Sequence[Attempt], rounds: Sequence[Attempt]) -> Record:
    """What a score needs of the loop's record of a question, if IR had given these samples.

    Args:
        rounds: DR's answers, with the tokens of KG and DR; the loop ends with them.
    """
    outcomes = replay_rounds(
        [(one.answer, two.answer, one.tokens + two.tokens) for one, two in zip(ir, rounds, strict=False)],
        question["gold"],
    )
    trace = [
        {
            "round": number,
            "ir": {"answer": one.answer, "tokens": one.tokens},
            "kg": {"tokens": 0},  # they are in DR's
            "dr": {"answer": two.answer, "tokens": two.tokens},
        }
        for number, (_, one, two) in enumerate(zip(outcomes, ir, rounds, strict=False), start=1)
    ]
    end = outcomes[-1]
    result = {"rounds": len(outcomes), "agreed": end.agreed, "right": end.right, "tokens": end.tokens}
    return {"gold": question["gold"], **result, "trace": trace}


def read_runs(paths: Sequence[Path], pack: Pack) -> list[Records]:
    """Complete evaluations of this pack, which differ in their seeds only.

    Raises:
        DataError: one is another pack's, or with other sampling, or lacks questions or baselines, or two have one seed or name.
    """
    if twice := [name for name, count in Counter(path.name for path in paths).items() if count > 1]:
        raise DataError(f"two files are called {twice[0]}, and so would be those of their samples; name them otherwise")
    own = {
        "pack_sha256": pack_digest(pack),
        "calculator": pack.calculator,
        "sampling": {role: pack.sampling_for(role) for role in ROLES},
    }
    runs: list[Records] = []
    for path in paths:
        records = read_results(path)
        kept = records.settings
        found = {
            "pack_sha256": kept.get("pack_sha256"),
            "calculator": kept.get("calculator", False),
            "sampling": kept.get("sampling"),
        }
        if different := [name for name, value in own.items() if found[name] != value]:
            name = different[0]
            raise DataError(
                f"{path} has {name} {found[name]!r}, the pack {own[name]!r}; give the pack as it was then, its manifest, too"
            )
        if not records.questions or not is_complete(records):
            raise DataError(f"{path} is not complete; give its command again")
        if any("error" in record for record in records.questions.values()):
            raise DataError(f"{path} has questions that ended in an error; there is no vote on those")
        records.questions = dict(sorted(records.questions.items()))
        for other in runs:
            expect_same_but_seed(records, other)
        runs.append(records)
    return runs


def temperatures(text: str) -> list[float]:
    """Temperatures of an option.

    Raises:
        argparse.ArgumentTypeError: one is none, or is there twice.
    """
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or len({f"{each:g}" for each in found}) < len(found) or not all(0 < each < math.inf for each in found):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of different numbers above 0, such as 0.5,0.8")
    return found


@dataclass(frozen=True)
class Drawer:
    """Draws the samples that are missing, and keeps them.

    Attributes:
        base_sha256: base_digest of the engine's base.
        device: cpu or cuda.
        work: folder of the files of samples.
    """

    engine: Engine
    pack: Pack
    base_sha256: str
    device: str
    work: Path
    progress: TitledProgress

    def found(self, run: Records, temperature: float) -> Found:
        """What LoRID, a vote and IR-IR come to on a run's questions with IR at a temperature.

        Raises:
            DataError: a sample could not be drawn; or a file of samples is another run's, or cannot be written.
        """
        ir = {"ir": self.pack.sampling_for("ir", {"temperature": temperature})}
        with self._file(run, f"ir-{temperature:g}", {"sampling": ir}) as results:
            self.progress.title = f"{run.path.stem}, IR at {temperature:g}"
            self.progress.stage("samples", 0, 0)
            draw = partial(self._draw, run.settings["seed"], {"temperature": temperature})
            pools, most = pools_of(run, results.samples), run.settings["max_rounds"]
            if wanted := {index: most for index, pool in pools.items() if len(pool) < most}:
                extend_samples(results, run.questions, pools, wanted, draw, self.progress)
            questions = self._loop(run, pools_of(run, results.samples))
            left = BaselineSamples(run.settings)
            pools = pools_of(run, results.samples)
            while wanted := left.wanted(questions, pools) or left.wanted(run.questions, pools):
                extend_samples(results, run.questions, pools, wanted, draw, self.progress)
                pools = pools_of(run, results.samples)
            return Found.of(run, questions, pools, results.settings)

    def _loop(self, run: Records, ir: Pools) -> dict[int, Record]:
        """The loop with this IR: the run's rounds, and those of KG and DR that it did not need."""
        deep = {role: self.pack.sampling_for(role) for role in ("kg", "dr")}
        settings = {"sampling": deep, "rounds_sha256": rounds_digest(run)}
        most = run.settings["max_rounds"]
        with self._file(run, "kg-dr", settings) as results:
            draw = partial(self._draw_rounds, run.settings["seed"])
            while True:
                rounds = rounds_of(run, results.samples)
                questions = {index: loop_with(each, ir[index], rounds[index]) for index, each in run.questions.items()}
                undecided = [index for index, each in questions.items() if not each["agreed"]]
                wanted = {index: len(rounds[index]) + 1 for index in undecided if len(rounds[index]) < most}
                if not wanted:
                    return questions
                extend_samples(results, run.questions, rounds, wanted, draw, self.progress)

    def _file(self, run: Records, name: str, settings: dict[str, Any]) -> ResultsFile:
        machine = machine_facts(None)
        isa = "cuda" if self.device == "cuda" else machine["instruction set"]
        drawn = {"base_sha256": self.base_sha256, "instruction_set": isa}
        return ResultsFile(self.work / f"{name}-{run.path.name}", run.settings | drawn | settings, machine)

    def _draw_rounds(self, seed: int, jobs: Iterator[RoleJob]) -> Iterator[tuple[RoleJob, Sample]]:
        """DR's samples by rules of KG, with the tokens of both; a group of questions after the other."""
        while group := list(islice(jobs, self.engine.max_batch_rows)):
            rules = list(self._draw(seed, {}, (replace(job, role="kg") for job in group)))
            spent = {(job.owner, job.round): sample.token_ids for job, sample in rules}
            deep = (replace(job, role="dr", knowledge=sample.text) for job, sample in rules)
            for job, sample in self._draw(seed, {}, deep):
                yield job, replace(sample, token_ids=spent[job.owner, job.round] + sample.token_ids)

    def _draw(
        self, seed: int, overrides: Mapping[str, float], jobs: Iterator[RoleJob]
    ) -> Iterator[tuple[RoleJob, Sample]]:
        for job, sample in draw_samples(self.engine, self.pack, jobs, seed, overrides):
            if sample.note:
                raise DataError(f"{job.role.upper()} could not answer {job.question[:60]!r}: {sample.note}")
            yield job, sample


def rounds_digest(run: Records) -> str:
    """SHA-256 of the rounds that a run has: further ones belong to just these."""
    rounds = [(index, question["trace"]) for index, question in run.questions.items()]
    return hashlib.sha256(json.dumps(rounds).encode()).hexdigest()


def rounds_of(run: Records, more: Mapping[int, Sequence[Record]]) -> dict[int, list[Attempt]]:
    """DR's answers with the tokens of KG and DR: those of the run's rounds, then more."""
    added = pools_of(run, more)
    return {
        index: [
            Attempt(each["dr"]["answer"], each["kg"]["tokens"] + each["dr"]["tokens"]) for each in question["trace"]
        ]
        + added[index]
        for index, question in run.questions.items()
    }


def pools_of(run: Records, samples: Mapping[int, Sequence[Record]]) -> dict[int, list[Attempt]]:
    """The samples of a file of samples, by the run's questions."""
    return {
        index: [Attempt(sample["answer"], sample["tokens"]) for sample in samples.get(index, ())]
        for index in run.questions
    }


def summary(seeds: Sequence[Found]) -> dict[str, Any]:
    """One temperature's shares and differences, with intervals over questions for just these seeds, and means over the seeds."""
    ways = [way for way in seeds[0].rights if all(way in seed.rights for seed in seeds)]
    rights = {way: seed_means([seed.rights[way] for seed in seeds]) for way in ways}
    less = {
        name: interval(a - b for a, b in zip(rights[way], rights[other], strict=True))
        for name, (way, other) in LESS.items()
        if way in ways
    }
    spent = {f"{way}_{key}": fmean(seed.reports[way][key] for seed in seeds) for way, key in SPENT}
    by_seed = {way: [fmean(seed.rights[way]) for seed in seeds] for way in ways}
    spent["tokens"] = fmean(seed.tokens for seed in seeds)
    settings = {key: seeds[0].settings[key] for key in ("base_sha256", "instruction_set", "sampling")}
    return {"right": {way: interval(rights[way]) for way in ways}, "by_seed": by_seed, **less, **spent, **settings}


def compare(runs: Sequence[Records], found: Mapping[float, Sequence[Found]], out: Path) -> None:
    """Writes what has been found so far beside LoRID's answers."""
    temperatures = {f"{temperature:g}": summary(seeds) for temperature, seeds in sorted(found.items())}
    lines = [
        "| IR's temperature | one IR sample, % (95 % interval) | LoRID fallback, % | its tokens | vote, % | its samples, tokens "
        "| LoRID less the vote, points | IR-IR, % | its rounds, agreed, tokens | LoRID less IR-IR | LoRID at IR-IR's tokens, less it "
        "| the pack's own LoRID less the vote, less IR-IR |",
        "|---" * 12 + "|",
    ]
    for temperature, each in temperatures.items():
        right, agreed = each["right"], f"{100 * each['ir_ir_agreed']:.0f} %"
        cells = [
            temperature,
            percent(right["ir_sample"]),
            percent(right["fallback"]),
            f"{each['tokens']:.0f}",
            percent(right["vote"]),
            f"{each['ir_vote_samples']:.1f}, {each['ir_vote_tokens_per_question']:.0f}",
            percent(each["fallback_less_vote"]),
            percent(right["ir_ir"]),
            f"{each['ir_ir_rounds_at_most']:.1f}, {agreed}, {each['ir_ir_tokens_per_question']:.0f}",
            percent(each["fallback_less_ir_ir"]),
            percent(each["less_ir_ir_at_its_tokens"]) if "less_ir_ir_at_its_tokens" in each else "-",
            f"{percent(each['own_less_vote'])}, {percent(each['own_less_ir_ir'])}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    seeds = [run.settings["seed"] for run in runs]
    about = f"{len(runs[0].questions)} questions of {runs[0].settings['data']}, seeds {', '.join(map(str, seeds))}; KG's and DR's "
    drawn = ", ".join(f"{each['instruction_set']} at {temperature}" for temperature, each in temperatures.items())
    lines += [
        "",
        f"{about}samples are the evaluation's as far as it had them, the others of the machine below. IR's are of {drawn}.",
    ]
    settings = {key: value for key, value in runs[0].settings.items() if key != "seed"} | {"seeds": seeds}
    write_result(out, {"settings": settings, "temperatures": temperatures}, "\n".join(lines))


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws, compares and writes; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="results files with baselines, one for each seed")
    parser.add_argument("--pack", required=True, help="their pack, by name or folder")
    parser.add_argument("--base", type=Path, help="folder or .gguf file of its base; default: as the pack says")
    parser.add_argument(
        "--temperatures", type=temperatures, default=[0.5, 0.8], help="beside its own; default: 0.5,0.8"
    )
    parser.add_argument("--device", default="cpu", choices=ROWS)
    parser.add_argument("--work", type=Path, required=True, help="folder of the files of samples")
    parser.add_argument("--out", type=Path, default=Path("bench/results/pack-temperatures"))
    options = parser.parse_args(arguments)
    try:
        pack = load_pack(options.pack)
        runs = read_runs(options.results, pack)
        make_folder(options.work)
        base = resolve_base(FolderSource(options.base) if options.base else pack.base, env.cache_dir())
        rows = ROWS[options.device]
        engine = Engine(
            base,
            {role: pack.roles[role].adapter for role in ROLES},
            dtype=runs[0].settings["dtype"],
            device=options.device,
            max_batch_rows=rows,
            max_batch_tokens=16 * rows,
            kv_memory=KV_MEMORY[options.device],
            active_adapters=len(ROLES),
        )
        own = [Found.of(run, run.questions, pools_so_far(run.questions, run.samples), run.settings) for run in runs]
        found = {float(pack.sampling_for("ir")["temperature"]): own}
        with TitledProgress(Console(stderr=True, highlight=False)) as progress:
            drawer = Drawer(engine, pack, base_digest(base), options.device, options.work, progress)
            for temperature in options.temperatures:
                if f"{temperature:g}" not in {f"{known:g}" for known in found}:
                    found[temperature] = [drawer.found(run, temperature) for run in runs]
                compare(runs, found, options.out)
    except KeyboardInterrupt:
        print("Stopped; the same command goes on.", file=sys.stderr)
        return INTERRUPTED
    except (LoridError, OSError) as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
